import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { sql } from 'kysely';
import { test } from 'tap';
import { systemClock } from '../../common/clock.js';
import { silentLogger } from '../../common/log.js';
import { openTestStore, withDatabase, withStore } from '../../test/support/postgres.js';
import { dumpSchema, readDump } from './dump.js';
import { openStore } from './index.js';
import { migrate } from './migrate.js';

const tablesOf = async (store: Awaited<ReturnType<typeof openStore>>): Promise<number> => {
  const { rows } = await sql<{ n: number }>`
    select count(*) as n from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'`.execute(
    store.database.kysely,
  );
  return rows[0]?.n ?? -1;
};

test('the migrations add up to migrations/schema.sql', async (t) => {
  const store = await withStore(t);
  const { rows } = await sql<{ major: number }>`
    select current_setting('server_version_num')::integer / 10000 as major`.execute(store.database.kysely);
  if (rows[0]?.major !== 18) {
    t.pass('skipped: schema.sql is what PostgreSQL 18 prints, and this server is another version');
    return;
  }
  t.equal(await dumpSchema(store.database.kysely), readDump(), 'if the change is meant: npm run schema -- --write');
});

test('several coordinators migrate one empty database at once', async (t) => {
  const connection = await withDatabase(t, { migrated: false });
  const stores = await Promise.all([1, 2, 3, 4].map(() => openTestStore(t, connection)));
  await Promise.all(stores.map((store) => store.migrate()));
  await Promise.all(stores.map((store) => store.migrate()));
  t.equal(await stores[0]?.leader.read(), undefined);
});

test('a newer schema is refused before anything is changed', async (t) => {
  const store = await withStore(t);
  await sql`insert into migration values ('0002_from_the_future', now()::text)`.execute(store.database.kysely);
  await t.rejects(store.migrate(), { code: 'DATABASE_NEWER', message: /0002_from_the_future/ });
});

test('a migration that fails leaves nothing of itself and is an error', async (t) => {
  const connection = await withDatabase(t, { migrated: false });
  const store = await openTestStore(t, connection);
  const folder = t.testdir({
    '0001_fine.sql': 'create table fine (a integer);',
    '0002_broken.sql': 'create table half (a integer); create table fine (b integer);',
    'schema.sql': 'not a migration',
  });
  await t.rejects(migrate(store.database.target, silentLogger, folder), { code: 'INTERNAL' });
  t.equal(await tablesOf(store), 2, 'only the bookkeeping of migrations is there');
  writeFileSync(join(folder, '0002_broken.sql'), 'create table half (a integer);');
  await migrate(store.database.target, silentLogger, folder);
  t.equal(await tablesOf(store), 4);
});

test('a database that is down is named, its password is not', async (t) => {
  const log = silentLogger;
  const url = 'postgres://mesh:s3cret@127.0.0.1:1/mesh';
  const down = { code: 'DATABASE_DOWN', message: /127\.0\.0\.1:1\/mesh/ };
  await t.rejects(openStore({ url, log, clock: systemClock }), down);
  const connection = await withDatabase(t, { migrated: false });
  const attempt = (over: object) => openStore({ connection: { ...connection, ...over }, log, clock: systemClock });
  for (const over of [{ database: 'nowhere' }, { host: join(connection.host, 'gone') }]) {
    const failure = await attempt(over).catch((error: Error) => error);
    t.match(failure, { code: 'DATABASE_DOWN' });
    t.notMatch(String((failure as Error).message), connection.password);
  }
  await t.rejects(attempt({ password: 'wrong-one' }), { code: 'DATABASE_DOWN', message: /user or password/ });
});

test('the store outlives connections that the server cuts', async (t) => {
  const connection = await withDatabase(t, { migrated: true });
  const store = await openTestStore(t, connection, { poolMax: 2 });
  const other = await openTestStore(t, connection, { poolMax: 1 });
  const cut = () =>
    sql`select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`.execute(
      other.database.kysely,
    );
  for (let round = 0; round < 3; round++) {
    const slow = sql`select pg_sleep(60)`;
    const running = store.database.run((db) => slow.execute(db));
    const refused = t.rejects(running, { code: 'DATABASE_DOWN' });
    for (;;) {
      const { rows } = await sql<{ n: number }>`
        select count(*) as n from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'`.execute(
        other.database.kysely,
      );
      if (rows[0]?.n) break;
    }
    await cut();
    await refused;
    // An idle connection may have been cut as well and be found out only by its next statement.
    await store.ping().catch(() => undefined);
    await store.ping().catch(() => undefined);
    await store.ping();
  }
  t.pass('it answers again');
});
