import { copyFileSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sql } from 'kysely';
import { test } from 'tap';
import { auditHash, CHAIN_START, ChainReader } from '../../common/audit-chain.js';
import { silentLogger } from '../../common/log.js';
import { openTestStore, withDatabase, withStore } from '../../test/support/postgres.js';
import type { NewAuditEntry } from '../ports.js';
import { MIGRATIONS_DIR, migrate } from './migrate.js';

const entry = (over: Partial<NewAuditEntry> = {}): NewAuditEntry => ({
  ...{ atUs: 1_796_000_000_000_123, actor: 'operator/anna', address: '10.0.0.2', certificate: '4d' },
  ...{ action: 'node.drained', target: 'attic', detail: '{}' },
  ...over,
});

test('the database and this program hash an entry the same way, whatever it holds', async (t) => {
  const { audit } = await withStore(t);
  t.same(await audit.append([], false), CHAIN_START, 'an empty chain');
  const head = await audit.append(
    [
      entry(),
      entry({ actor: 'ünïcode/日本', target: "'; drop table audit; --", detail: '{"why":"\\u0000 4:5,"}' }),
      entry({ address: '', certificate: '', target: '4:attic,', atUs: 1 }),
      entry({ target: 'line\nbreak\t"quoted" \\', address: 'fe80::1%eth0' }),
    ],
    false,
  );
  const entries = await audit.from(1, 100);
  const chain = new ChainReader([{ ...head, by: 'this test' }]);
  for (const item of entries) t.ok(chain.take(item), `entry ${item.seq}`);
  chain.end();
  t.equal(chain.broken, undefined);
  t.same(chain.head, head);
  t.equal(entries[1]?.previous, auditHash(entries[0]!));
  t.equal(entries[0]?.atUs, 1_796_000_000_000_123, 'to the microsecond');
});

test('an append whose answer was lost is asked for again and written once', async (t) => {
  const { audit } = await withStore(t);
  const first = [entry(), entry({ target: 'tower' })];
  const head = await audit.append(first, false);
  t.same(await audit.append(first, true), head, 'it was there');
  const lost = [entry({ target: 'laptop' })];
  t.equal((await audit.append(lost, true)).seq, 3, 'this one was not');
  t.equal((await audit.append(first, false)).seq, 5, 'the same again, because it happened again');
});

test('appended from many sides at once, it is one chain', async (t) => {
  const { audit } = await withStore(t);
  await Promise.all(Array.from({ length: 40 }, (_, i) => audit.append([entry({ target: `n${i}` }), entry()], false)));
  const chain = new ChainReader();
  for (const item of await audit.from(1, 100)) t.ok(chain.take(item));
  t.equal(chain.head.seq, 80);
});

test('the latest first, narrowed down', async (t) => {
  const { audit } = await withStore(t);
  const at = (ms: number) => ms * 1000;
  await audit.append(
    [
      entry({ atUs: at(1000), actor: 'operator/anna', action: 'token.created', target: 'a' }),
      entry({ atUs: at(2000), actor: 'submitter/anna', action: 'job.submitted', target: 'b' }),
      entry({ atUs: at(3000), actor: 'operator/bert', action: 'token.revoked', target: 'a' }),
    ],
    false,
  );
  const seqs = async (query: Partial<Parameters<typeof audit.find>[0]>) =>
    (await audit.find({ limit: 10, ...query })).map(({ seq }) => seq);
  t.same(await seqs({}), [3, 2, 1]);
  t.same(await seqs({ limit: 2 }), [3, 2]);
  t.same(await seqs({ before: 2 }), [1]);
  t.same(await seqs({ actor: 'operator/' }), [3, 1]);
  t.same(await seqs({ actor: 'operator/anna' }), [1]);
  t.same(await seqs({ action: 'token.' }), [3, 1]);
  t.same(await seqs({ target: 'b' }), [2]);
  t.same(await seqs({ sinceMs: 2000, untilMs: 3000 }), [2]);
  t.same(await seqs({ actor: "' or true --" }), []);
});

test('what is there cannot be changed, removed or emptied by mistake', async (t) => {
  const { audit, database } = await withStore(t);
  await audit.append([entry()], false);
  for (const statement of [
    sql`update audit set actor = 'nobody'`,
    sql`delete from audit where seq = 1`,
    sql`truncate audit`,
  ])
    await t.rejects(statement.execute(database.kysely), /append-only/);
});

test('entries from before there was a chain are taken into it, in their order', async (t) => {
  const connection = await withDatabase(t, { migrated: false });
  const store = await openTestStore(t, connection);
  const before = mkdtempSync(join(tmpdir(), 'mesh-migrations-'));
  t.teardown(() => rmSync(before, { recursive: true }));
  for (const name of readdirSync(MIGRATIONS_DIR))
    if (/^000[1-6]_/.test(name)) copyFileSync(join(MIGRATIONS_DIR, name), join(before, name));
  await migrate(store.database.target, silentLogger, before);
  const { kysely } = store.database;
  await sql`insert into audit (actor, action, target, detail)
    select 'anna', 'token.created', 'token-' || n, jsonb_build_object('n', n) from generate_series(1, 5) n`.execute(
    kysely,
  );
  // Sequences leave gaps.
  await sql`delete from audit where seq in (1, 4)`.execute(kysely);
  await store.migrate();
  const head = await store.audit.append([entry()], false);
  const chain = new ChainReader();
  const entries = await store.audit.from(1, 10);
  for (const item of entries) t.ok(chain.take(item), `entry ${item.seq}`);
  t.same(chain.head, head);
  t.same(
    entries.map(({ seq, actor, target, detail }) => [seq, actor, target, detail]),
    [
      ...[2, 3, 5].map((n, position) => [position + 1, 'anna', `token-${n}`, `{"n": ${n}}`]),
      [4, 'operator/anna', 'attic', '{}'],
    ],
  );
});
