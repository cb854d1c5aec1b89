import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { sql } from 'kysely';
import { test } from 'tap';
import { systemClock } from '../../common/clock.js';
import { silentLogger } from '../../common/log.js';
import { temporaryDirectory } from '../../test/support/plane.js';
import { withStore } from '../../test/support/postgres.js';
import { AuditWitness } from './audit-witness.js';

const entry = (target: string) => ({
  ...{ atUs: 1000, actor: 'operator/anna', address: '', certificate: '', action: 'node.drained', target, detail: '{}' },
});

async function setUp(t: Parameters<typeof withStore>[0]) {
  const store = await withStore(t);
  const file = join(temporaryDirectory(t), 'audit.head');
  const witness = () => new AuditWitness({ store: store.audit, file, clock: systemClock, log: silentLogger });
  const append = (count: number) =>
    store.audit.append(
      Array.from({ length: count }, (_, i) => entry(`n${i}`)),
      false,
    );
  const kept = () => JSON.parse(readFileSync(file, 'utf8')) as { seq: number; hash: string };
  const unguarded = async (statement: ReturnType<typeof sql>) => {
    await sql`alter table audit disable trigger audit_append_only`.execute(store.database.kysely);
    await statement.execute(store.database.kysely);
  };
  return { store, file, witness, append, kept, unguarded };
}

test('it follows the chain page by page, keeps the head in a file of its owner, and goes on there', async (t) => {
  const { file, witness, append, kept } = await setUp(t);
  const first = witness();
  await first.start();
  await first.look();
  t.notOk(existsSync(file), 'nothing to keep yet');
  const end = await append(1203);
  await first.look();
  t.same(first.head, end);
  t.same(kept(), first.head);
  t.equal(statSync(file).mode & 0o777, 0o600);
  await first.stop();
  const second = witness();
  await second.start();
  t.same(second.head, kept(), 'a restart begins where it was');
  const head = await append(2);
  await second.look();
  t.same(second.head, head);
  t.equal(second.broken, undefined);
  await second.stop();
});

test('a chain that lost its end, or was replaced, is not followed: the file stays as it was', async (t) => {
  const { witness, append, kept, unguarded } = await setUp(t);
  const one = witness();
  await append(5);
  await one.look();
  const before = kept();
  await unguarded(sql`delete from audit where seq > 3`);
  await one.look();
  t.match(one.broken, { seq: 5, why: /missing/ });
  await append(10);
  await one.look();
  t.match(one.broken, { seq: 5, why: /replaced/ });
  t.same(kept(), before);
  t.same(one.head, before);
});

test('a break after the head is found, and what is before it is still held', async (t) => {
  const { witness, append, kept, unguarded } = await setUp(t);
  const one = witness();
  await append(3);
  await one.look();
  await append(3);
  await unguarded(sql`update audit set target = 'forged' where seq = 5`);
  await one.look();
  t.match(one.broken, { seq: 5, why: /changed/ });
  t.equal(kept().seq, 3);
});

test('a file that holds no head is said to be broken, and is not written over', async (t) => {
  const { file, witness, append } = await setUp(t);
  await append(3);
  for (const text of ['', '{}', '{"seq":1,"hash":"no"}', 'null']) {
    writeFileSync(file, text);
    const one = witness();
    await one.start();
    t.match(one.broken, { seq: 0 });
    await one.stop();
    t.equal(readFileSync(file, 'utf8'), text);
  }
});
