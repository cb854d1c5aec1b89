import { sql } from 'kysely';
import { type Test, test } from 'tap';
import { systemClock } from '../../common/clock.js';
import { withDatabase } from '../../test/support/postgres.js';
import { type DatabaseProxy, startDatabaseProxy } from '../../test/support/database-proxy.js';
import { fromConnection } from './connection.js';
import { Database, type DatabaseOptions } from './database.js';

async function setUp(
  t: Test,
  over: Partial<DatabaseOptions> = {},
): Promise<{ path: DatabaseProxy; database: Database }> {
  const path = await startDatabaseProxy(t, await withDatabase(t, { migrated: false }));
  const options = { target: fromConnection(path.connection), clock: systemClock, poolMax: 3, prepare: true };
  const database = new Database({ ...options, ...over });
  t.teardown(() => database.close());
  return { path, database };
}

const one = async (database: Database): Promise<number | undefined> => {
  const { rows } = await database.run((db) => sql<{ one: number }>`select ${1}::integer as one`.execute(db));
  return rows[0]?.one;
};

test('outages, however many statements meet them, leave no statement waiting for ever', async (t) => {
  const { path, database } = await setUp(t);
  t.equal(await one(database), 1);
  for (let outage = 0; outage < 3; outage++) {
    // Cut in the middle of traffic: some statements are answered, the others refused, none is forgotten.
    const traffic = Array.from({ length: 20 }, () => one(database));
    await path.refuse();
    for (const result of await Promise.allSettled(traffic))
      if (result.status === 'rejected') t.match(result.reason, { code: 'DATABASE_DOWN' });
    for (let tries = 0; tries < 5; tries++) await t.rejects(one(database), { code: 'DATABASE_DOWN' });
    await path.open();
    t.strictSame(await Promise.all(Array.from({ length: 10 }, () => one(database))), Array(10).fill(1));
  }
});

test('closing waits for what still runs, also on a pool that was replaced', async (t) => {
  const { path, database } = await setUp(t);
  await one(database);
  await path.refuse();
  await t.rejects(one(database), { code: 'DATABASE_DOWN' });
  await path.open();
  const last = one(database);
  await Promise.all([last, database.close()]);
  t.equal(await last, 1);
});

test('a database that says nothing is given up, and found again when it speaks', async (t) => {
  const { path, database } = await setUp(t, { patienceMs: 50 });
  // A busy machine may need more than that for the first connection.
  while ((await one(database).catch(() => undefined)) !== 1);
  path.silence();
  await t.rejects(one(database), { code: 'DATABASE_DOWN', message: /did not answer in 0\.05 s/ });
  await path.open();
  // Connections from the time of silence go with their pool; the next statement has one of its own.
  const patient = new Database({ target: database.target, clock: systemClock, poolMax: 1, prepare: true });
  t.teardown(() => patient.close());
  t.equal(await one(patient), 1);
  const before = path.accepted;
  while ((await one(database).catch(() => undefined)) !== 1);
  t.ok(path.accepted > before, 'on a new connection');
});

test('one statement that waits for ever costs the others nothing', async (t) => {
  const { path, database } = await setUp(t, { patienceMs: 200, poolMax: 4 });
  await database.run((db) => sql`create table held (id integer)`.execute(db));
  const holder = new Database({ target: database.target, clock: systemClock, poolMax: 1, prepare: true });
  t.teardown(() => holder.close());
  const held = holder.run((db) => sql`do $$ begin lock table held; perform pg_sleep(1.5); end $$`.execute(db));
  const waiting = async () => {
    const { rows } = await sql<{ n: number }>`
      select count(*)::integer as n from pg_locks where relation = 'held'::regclass and granted`.execute(
      database.kysely,
    );
    return rows[0]?.n;
  };
  while ((await waiting()) === 0);
  const blocked = database.run((db) => sql`select * from held`.execute(db));
  const before = path.accepted;
  const result = blocked.then(
    () => 'answered',
    (error: unknown) => error,
  );
  let refused: unknown;
  void result.then((outcome) => (refused = outcome));
  const others = new Set<number | undefined>();
  while (refused === undefined) others.add(await one(database));
  t.same([...others], [1], 'the others are answered');
  t.match(refused, { code: 'DATABASE_DOWN' });
  t.ok(path.accepted <= before + 4, 'the pool was kept');
  await held;
});

test('a real deadlock is undone and repeated by itself', async (t) => {
  const { database } = await setUp(t, { poolMax: 4 });
  await database.run((db) => sql`create table pair (id integer primary key, n integer not null)`.execute(db));
  await database.run((db) => sql`insert into pair values (1, 0), (2, 0)`.execute(db));
  // Each takes one row, waits until both have, and then wants the other's.
  const cross = (first: number, second: number) =>
    database.run((db) =>
      sql`do ${sql.raw(`$$ begin
        update pair set n = n + 1 where id = ${first};
        perform pg_advisory_lock_shared(${first});
        for i in 1..200 loop
          exit when (select count(distinct objid) from pg_locks where locktype = 'advisory'
            and database = (select oid from pg_database where datname = current_database())) = 2;
          perform pg_sleep(0.01);
        end loop;
        update pair set n = n + 1 where id = ${second};
      end $$`)}`.execute(db),
    );
  await Promise.all([cross(1, 2), cross(2, 1)]);
  const { rows } = await database.run((db) => sql<{ n: number }>`select n from pair order by id`.execute(db));
  t.same(rows, [{ n: 2 }, { n: 2 }], 'both took effect, each once');
  const deadlocks = await database.run((db) =>
    sql<{ n: number }>`select count(*)::integer as n from pg_locks where not granted`.execute(db),
  );
  t.same(deadlocks.rows, [{ n: 0 }]);
});

test('a serialization failure is repeated a bounded number of times', async (t) => {
  const { database } = await setUp(t);
  await database.run((db) => sql`create sequence tries`.execute(db));
  const failing = (times: number) =>
    database.run((db) =>
      sql`do ${sql.raw(`$$ begin
        if nextval('tries') <= ${times} then raise exception 'again' using errcode = '40001'; end if;
      end $$`)}`.execute(db),
    );
  const tries = async () => {
    const { rows } = await database.run((db) => sql<{ n: number }>`select last_value as n from tries`.execute(db));
    return rows[0]?.n;
  };
  await failing(3);
  t.equal(await tries(), 4);
  await t.rejects(failing(1000), { code: 'INTERNAL', message: /40001/ });
  t.equal(await tries(), 4 + 7, 'once, and six times more');
  await failing(0);
});
