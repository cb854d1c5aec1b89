import { Readable } from 'node:stream';
import { sql } from 'kysely';
import { type Test, test } from 'tap';
import { silentLogger } from '../../common/log.js';
import { openTestStore, withDatabase } from '../../test/support/postgres.js';
import { fromConnection } from './connection.js';
import { migrate, MIGRATIONS_DIR } from './migrate.js';
import { dumpRows, isUnused, loadRows, type TableShape } from './rows.js';
import { Dialer } from './socket.js';

const AUDITED = '0007_audit_chain';

/** An empty database whose schema is at a migration, and a way to send it statements. */
async function databaseAt(t: Test, migration?: string) {
  const connection = await withDatabase(t, { migrated: false });
  const store = await openTestStore(t, connection);
  const target = fromConnection(connection);
  if (migration) await migrate(target, silentLogger, MIGRATIONS_DIR, new Dialer(target), migration);
  const run = async <R>(text: string): Promise<R[]> => (await sql.raw<R>(text).execute(store.database.kysely)).rows;
  return { target, run, store };
}

interface Taken {
  migration: string;
  tables: TableShape[];
  rows: Map<string, Buffer>;
}

const take = (target: ReturnType<typeof fromConnection>, meanwhile?: () => Promise<unknown>): Promise<Taken> =>
  dumpRows(target, async (source) => {
    await meanwhile?.();
    const rows = new Map<string, Buffer>();
    for (const table of source.tables) {
      const chunks: Buffer[] = [];
      for await (const chunk of source.rows(table)) chunks.push(chunk);
      rows.set(table.name, Buffer.concat(chunks));
    }
    return { migration: source.migration, tables: source.tables, rows };
  });

async function* given({ tables, rows }: Taken): AsyncGenerator<[TableShape, AsyncIterable<Buffer>]> {
  for (const table of tables) yield [table, Readable.from([rows.get(table.name) as Buffer])];
}

test('rows go into the schema they were taken from, and on from there', async (t) => {
  const first = await databaseAt(t, AUDITED);
  await first.run(`insert into setting values ('mesh-id', 'lab'), ('odd', E'tab\\t newline\\n backslash \\\\ ü NUL?')`);
  await first.run(`insert into leader (epoch, holder, renewals) values (41, 'lost', 7)`);
  await first.run(`insert into join_token values ('t1', 'd', 'agent', null, false, 1, now(), 'anna')`);
  await first.run(`select * from append_audit(
    '[{"at_us": 1, "actor": "a", "address": "", "certificate": "", "action": "x", "target": "y", "detail": "{}"}]', false)`);
  for (const id of ['n1', 'n2'])
    await first.run(`insert into node (id, name, capabilities, version, boot_id, certificate_serial,
      certificate_fingerprint, certificate_expires_at) values ('${id}', '${id}', '{"cpus": 1}', '1', 'b', 's', 'f', now())`);
  const taken = await take(first.target, () => first.run(`update leader set epoch = 99`));
  t.equal(taken.migration, AUDITED);

  const second = await databaseAt(t, taken.migration);
  t.notOk(await isUnused(second.target));
  await loadRows(second.target, taken.tables, given(taken));
  await second.store.migrate();
  t.same(await second.run(`select * from setting order by key`), await first.run(`select * from setting order by key`));
  t.match(
    await second.run(`select epoch, holder, renewals from leader`),
    [{ epoch: 1_000_041, holder: '', renewals: 0 }],
    'one snapshot; and above what agents may have obeyed since',
  );
  t.same(await second.run(`select uses_left as left from join_token`), [{ left: 0 }]);
  t.same(await second.run(`select seq, hash from audit`), await first.run(`select seq, hash from audit`));
  await t.rejects(second.run(`delete from audit`), /append-only/, 'its triggers are on again');
  const [made] = await second.run<{ seq: number }>(`insert into node (id, name, capabilities, version, boot_id,
    certificate_serial, certificate_fingerprint, certificate_expires_at)
    values ('n3', 'n3', '{}', '1', 'b', 's', 'f', now()) returning seq`);
  t.equal(made?.seq, 1_000_002, 'no number is given out twice');
});

test('tables that others refer to come first, and what a migration put there is replaced', async (t) => {
  const first = await databaseAt(t);
  t.ok(await isUnused(first.target));
  await first.store.migrate();
  await first.run(`insert into namespace (name) values ('render')`);
  await first.run(`insert into namespace_member values ('anna', 'render')`);
  const taken = await take(first.target);
  const order = taken.tables.map(({ name }) => name);
  t.ok(order.indexOf('namespace') < order.indexOf('namespace_member'));
  t.notOk(order.includes('migration'));
  const second = await databaseAt(t, taken.migration);
  await loadRows(second.target, taken.tables, given(taken));
  t.same(await second.run(`select name from namespace order by 1`), [{ name: 'default' }, { name: 'render' }]);
  t.same(await second.run(`select namespace from namespace_member`), [{ namespace: 'render' }]);
});

test('rows that do not fit leave the database as it was', async (t) => {
  const first = await databaseAt(t);
  await first.store.migrate();
  await first.run(`insert into setting values ('mesh-id', 'lab')`);
  const taken = await take(first.target);
  const second = await databaseAt(t, taken.migration);
  await second.run(`insert into setting values ('mesh-id', 'other')`);
  taken.rows.set('task', Buffer.from('nonsense\n'));
  await t.rejects(loadRows(second.target, taken.tables, given(taken)), { name: 'MeshError' });
  t.same(await second.run(`select value from setting`), [{ value: 'other' }]);
  await t.rejects(migrate(second.target, silentLogger, MIGRATIONS_DIR, new Dialer(second.target), '9999_future'), {
    code: 'DATABASE_NEWER',
    message: /9999_future/,
  });
});

test('rows of any size come out, one table after the other', async (t) => {
  const { target, run } = await databaseAt(t, AUDITED);
  // The driver stops reading once this much waits to be taken, and must go on for the tables that follow.
  for (const [key, size] of [
    ['a', 20_000],
    ['b', 70_000],
    ['c', 1],
  ] as const)
    await run(`insert into setting values ('${key}', repeat('x', ${size}))`);
  const { rows, tables } = await take(target);
  t.equal(rows.get('setting')?.length, 20_000 + 70_000 + 1 + 3 * 'a\t\n'.length);
  t.equal(rows.size, tables.length);
});
