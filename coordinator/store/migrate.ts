import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Kysely, type Migration, type MigrationProvider, Migrator, sql } from 'kysely';
import { PostgresJSDialect } from 'kysely-postgres-js';
import { MeshError } from '../../common/errors.js';
import type { Logger } from '../../common/log.js';
import { packageRoot } from '../../common/package.js';
import { openPool } from './database.js';
import type { Target } from './connection.js';
import { asStoreError } from './failures.js';
import { Dialer } from './socket.js';

/**
 * Forward-only migrations: `migrations/NNNN_name.sql`, each run once, in order, in one transaction together with its
 * mark. A lock in the database lets only one of several coordinators migrate.
 */
export const MIGRATIONS_DIR = join(packageRoot, 'migrations');
const NAME_PATTERN = /^\d{4}_[a-z0-9_]+\.sql$/;
/** The table that says which migrations were run. */
export const MARKS = 'migration';
const LOCK = 'migration_lock';

export const fromFolder = (folder: string): MigrationProvider => ({
  getMigrations: async () => {
    const names = readdirSync(folder)
      .filter((name) => NAME_PATTERN.test(name))
      .sort();
    return Object.fromEntries(
      names.map((name): [string, Migration] => {
        const text = readFileSync(join(folder, name), 'utf8');
        return [name.slice(0, -'.sql'.length), { up: async (db) => void (await sql.raw(text).execute(db)) }];
      }),
    );
  },
});

/**
 * @param dialer knows which of several addresses serves
 * @param last the migration to stop at; the newest when absent
 * @throws MeshError DATABASE_NEWER when the database holds a migration this program does not know, before any change
 */
export async function migrate(
  target: Target,
  log: Logger,
  folder: string = MIGRATIONS_DIR,
  dialer: Dialer = new Dialer(target),
  last?: string,
): Promise<void> {
  const pool = openPool({
    target,
    max: 1,
    prepare: false,
    dialer,
    reserves: false,
    parameters: { application_name: 'planetary-mesh-migrate', TimeZone: 'UTC' },
  });
  // Here Kysely needs a connection that it holds; this pool has only one, and ends with the migration.
  const db = new Kysely<unknown>({ dialect: new PostgresJSDialect({ postgres: pool }) });
  try {
    // The driver never hands out a connection that is reserved before it is open (postgres 3.4.9, `ReadyForQuery`).
    await pool.unsafe('select 1');
    // Opens the connection; only one that is open can be reserved then.
    await pool.unsafe('select 1');
    const provider = fromFolder(folder);
    await refuseNewer(db, provider);
    const migrator = new Migrator({ db, provider, migrationTableName: MARKS, migrationLockTableName: LOCK });
    if (last !== undefined && !(last in (await provider.getMigrations()))) throw newer(`is at the migration ${last}`);
    const { error, results } = await (last === undefined ? migrator.migrateToLatest() : migrator.migrateTo(last));
    for (const result of results ?? [])
      log.info({ event: 'database.migrated', migration: result.migrationName, status: result.status });
    if (error !== undefined) throw error;
  } catch (error) {
    throw asStoreError(error, target.place);
  } finally {
    await pool.end({ timeout: 5 });
  }
}

async function refuseNewer(db: Kysely<unknown>, provider: MigrationProvider): Promise<void> {
  const { rows: tables } = await sql<{ present: boolean }>`
    select to_regclass(${MARKS}) is not null as present`.execute(db);
  if (!tables[0]?.present) return;
  const known = new Set(Object.keys(await provider.getMigrations()));
  const { rows } = await sql<{ name: string }>`select name from ${sql.table(MARKS)} order by name`.execute(db);
  const unknown = rows.map((row) => row.name).filter((name) => !known.has(name));
  if (unknown.length > 0) throw newer(`has the migration ${unknown[0]}`);
}

const newer = (how: string): MeshError =>
  new MeshError('DATABASE_NEWER', `the database ${how}, which this version of the coordinator does not know`);
