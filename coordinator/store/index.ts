import type { Clock } from '../../common/clock.js';
import type { Logger } from '../../common/log.js';
import { sql } from 'kysely';
import type { Store } from '../ports.js';
import { auditStore } from './audit.js';
import { blobStore } from './blobs.js';
import { certificateStore } from './certificates.js';
import { type Connection, fromConnection, fromUrl } from './connection.js';
import { Database } from './database.js';
import { sweepInputs } from './job-inputs.js';
import { jobStore } from './jobs.js';
import { leaderStore } from './leader.js';
import { migrate } from './migrate.js';
import { nodeStore } from './nodes.js';
import { settingStore } from './settings.js';
import { taskStore } from './tasks.js';
import { tokenStore } from './tokens.js';

export type { Connection } from './connection.js';

export interface StoreOptions {
  /** Of any PostgreSQL ≥ 14; sslmode is honoured (connection.ts). Either this or `connection`. */
  url?: string | undefined;
  /** As the embedded PostgreSQL gives it. */
  connection?: Connection | undefined;
  log: Logger;
  clock: Clock;
  /** Connections to the database at most. Default 8. */
  poolMax?: number | undefined;
  /**
   * Prepare statements. Default true; false for a pooler in transaction mode, where the user's or database's settings
   * must supply what SESSION_PARAMETERS would.
   */
  prepare?: boolean | undefined;
}

export interface PostgresStore extends Store {
  /** Brings the schema up to date; safe to call at every start and by several coordinators at once. */
  migrate(): Promise<void>;
  /** For tests and benchmarks: the pool below. */
  readonly database: Database;
}

/**
 * Opens the store and makes sure the database answers.
 * @throws MeshError DATABASE_DOWN, BAD_CONFIG
 */
export async function openStore(options: StoreOptions): Promise<PostgresStore> {
  const { clock, log } = options;
  const target = options.connection ? fromConnection(options.connection) : fromUrl(options.url ?? '');
  if (target.warning) log.warn({ event: 'database.unverified' }, target.warning);
  const database = new Database({
    target,
    clock,
    poolMax: options.poolMax ?? 8,
    prepare: options.prepare ?? true,
  });
  const ping = async (): Promise<void> => void (await database.run((db) => sql`select 1`.execute(db)));
  try {
    await ping();
  } catch (error) {
    await database.close();
    throw error;
  }
  return {
    database,
    jobs: jobStore(database),
    tasks: taskStore(database),
    nodes: nodeStore(database),
    certificates: certificateStore(database, clock),
    tokens: tokenStore(database),
    leader: leaderStore(database),
    blobs: blobStore(database),
    audit: auditStore(database),
    settings: settingStore(database),
    ping,
    migrate: async () => {
      await migrate(target, log);
      await sweepInputs(database);
    },
    close: () => database.close(),
  };
}
