import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sql } from 'kysely';
import postgres from 'postgres';
import t, { type Test } from 'tap';
import { systemClock } from '../../common/clock.js';
import { silentLogger } from '../../common/log.js';
import { EmbeddedPostgres } from '../../coordinator/postgres/embedded.js';
import { openPool } from '../../coordinator/store/database.js';
import { type Connection, openStore, type PostgresStore, type StoreOptions } from '../../coordinator/store/index.js';

/**
 * A real PostgreSQL for tests: one server per test process, started when the first test asks and removed when the
 * process ends; one database per test, cloned from a template that was migrated once. With MESH_TEST_DATABASE_URL the
 * server is that one, whose user must be allowed to create databases.
 */
interface Server {
  connection: Connection;
  stop(): Promise<void>;
}

const TEMPLATE = `mesh_template_${process.pid}`;
let server: Promise<Server> | undefined;
let template: Promise<void> | undefined;
let databases = 0;
/** Cloning needs the template to itself, so clones queue up. */
let cloning: Promise<unknown> = Promise.resolve();

function fromEnvironment(text: string): Server {
  const url = new URL(text);
  const connection = {
    host: url.searchParams.get('host') ?? url.hostname,
    port: Number(url.port || 5432),
    user: decodeURIComponent(url.username),
    password: decodeURIComponent(url.password),
    database: decodeURIComponent(url.pathname.slice(1)) || 'postgres',
  };
  return { connection, stop: async () => undefined };
}

async function startServer(): Promise<Server> {
  const given = process.env.MESH_TEST_DATABASE_URL;
  if (given) return fromEnvironment(given);
  const directory = mkdtempSync(join(tmpdir(), 'mesh-test-pg-'));
  // Nothing here outlives the process, so nothing needs to reach the disk.
  const settings = { fsync: 'off', full_page_writes: 'off', autovacuum: 'off' };
  const embedded = new EmbeddedPostgres({ directory, log: silentLogger, clock: systemClock, settings });
  await embedded.start();
  // A test run that is cut short has no teardown; what can be done without waiting is done.
  const cutShort = () => {
    if (embedded.pid !== undefined) process.kill(embedded.pid, 'SIGQUIT');
    rmSync(directory, { recursive: true, force: true });
  };
  process.once('exit', cutShort);
  const stop = async () => {
    process.off('exit', cutShort);
    await embedded.stop();
    rmSync(directory, { recursive: true, force: true });
  };
  return { connection: embedded.connection, stop };
}

const theServer = (): Promise<Server> => {
  if (!server) {
    server = startServer();
    t.teardown(async () => {
      const running = await server;
      if (!running) return;
      if (template) await asAdmin(running, (sql) => sql.unsafe(`drop database if exists ${TEMPLATE} with (force)`));
      await running.stop();
    });
  }
  return server;
};

async function asAdmin(running: Server, work: (sql: postgres.Sql) => Promise<unknown>): Promise<void> {
  const sql = postgres({ ...running.connection, max: 1, onnotice: () => undefined });
  try {
    await work(sql);
  } finally {
    await sql.end({ timeout: 5 });
  }
}

async function makeTemplate(running: Server): Promise<void> {
  await asAdmin(running, (sql) => sql.unsafe(`create database ${TEMPLATE}`));
  const store = await openStore({
    connection: { ...running.connection, database: TEMPLATE },
    ...{ log: silentLogger, clock: systemClock, poolMax: 1 },
  });
  await store.migrate();
  await store.close();
}

/** An empty database, or with `migrated` one with the current schema, dropped when the test ends. */
export async function withDatabase(test: Test, options: { migrated: boolean }): Promise<Connection> {
  const running = await theServer();
  const database = `mesh_test_${process.pid}_${++databases}`;
  if (options.migrated) {
    template ??= makeTemplate(running);
    await template;
  }
  const clone = cloning.then(() =>
    asAdmin(running, (sql) =>
      sql.unsafe(`create database ${database} ${options.migrated ? `template ${TEMPLATE}` : ''}`),
    ),
  );
  cloning = clone.catch(() => undefined);
  await clone;
  test.teardown(() => asAdmin(running, (sql) => sql.unsafe(`drop database if exists ${database} with (force)`)));
  return { ...running.connection, database };
}

/** A store over a database of its own with the current schema; closed and dropped when the test ends. */
export async function withStore(test: Test, options: Partial<StoreOptions> = {}): Promise<PostgresStore> {
  return openTestStore(test, await withDatabase(test, { migrated: true }), options);
}

/** Another store over the same database: a second coordinator. */
export async function openTestStore(
  test: Test,
  connection: Connection,
  options: Partial<StoreOptions> = {},
): Promise<PostgresStore> {
  const store = await openStore({ connection, log: silentLogger, clock: systemClock, ...options });
  test.teardown(() => store.close());
  return store;
}

/** Another client, in the middle of a transaction: what it has done is locked and unseen until it commits. */
export interface OpenTransaction {
  commit(): Promise<void>;
}

export async function openTransaction(test: Test, store: PostgresStore, statement: string): Promise<OpenTransaction> {
  const client = openPool({ target: store.database.target, max: 1 });
  test.teardown(() => client.end({ timeout: 5 }));
  const session = await client.reserve();
  await session.unsafe(`begin; ${statement}`);
  return {
    commit: async () => {
      await session.unsafe('commit');
      session.release();
    },
  };
}

/** Rows of originals of copied tasks, valid or not. */
export async function originals(store: PostgresStore): Promise<number> {
  const { rows } = await sql<{ n: number }>`select count(*)::integer as n from task_original`.execute(
    store.database.kysely,
  );
  return rows[0]?.n ?? -1;
}

/** For `--database-url`. */
export const urlOf = ({ host, port, user, password, database }: Connection): string =>
  host.startsWith('/')
    ? `postgres://${user}:${encodeURIComponent(password)}@/${database}?host=${encodeURIComponent(host)}&port=${port}`
    : `postgres://${user}:${encodeURIComponent(password)}@${host}:${port}/${database}`;
