import { unlessAborted } from '../../common/abort.js';
import type { Clock } from '../../common/clock.js';
import type { Logger } from '../../common/log.js';
import { sql } from 'kysely';
import type { BlobContentStore, Store } from '../ports.js';
import { auditStore } from './audit.js';
import { blobContentStore, sweepBlobContent } from './blob-content.js';
import { blobStore } from './blobs.js';
import { certificateStore } from './certificates.js';
import { coordinatorStore } from './coordinators.js';
import { type Connection, fromConnection, fromUrl } from './connection.js';
import { Database } from './database.js';
import { sweepInputs } from './job-inputs.js';
import { joinRequestStore } from './join-requests.js';
import { jobStore } from './jobs.js';
import { leaderStore } from './leader.js';
import { migrate } from './migrate.js';
import { namespaceStore } from './namespaces.js';
import { nodeStore } from './nodes.js';
import { secretStore } from './secrets.js';
import { settleRole } from './role-settings.js';
import { settingStore } from './settings.js';
import { taskStore } from './tasks.js';
import { copyStore } from './tasks-speculate.js';
import { tokenStore } from './tokens.js';
import { trustStore } from './trust.js';
import { Turns } from './turns.js';

export type { Connection } from './connection.js';

export interface StoreOptions {
  /** Of any PostgreSQL ≥ 14; sslmode is honoured (connection.ts). Either this or `connection`. */
  url?: string | undefined;
  /** As the embedded PostgreSQL gives it. */
  connection?: Connection | undefined;
  log: Logger;
  clock: Clock;
  /** Connections to the database at most, beside the one of the leader's lease. Default 8. */
  poolMax?: number | undefined;
  /**
   * Prepare statements. Default true; false for a pooler in transaction mode, where the settings of the role supply what
   * SESSION_PARAMETERS would (role-settings.ts).
   */
  prepare?: boolean | undefined;
  /** Aborts when nothing is to be waited for any more: what is under way is refused. */
  cut?: AbortSignal | undefined;
}

export interface PostgresStore extends Store {
  /** For coordinators that share this database and no disk. */
  readonly blobContent: BlobContentStore;
  /** The mesh this database belongs to; undefined while it is nobody's. Needs no schema. */
  owner(): Promise<string | undefined>;
  /** Brings the schema up to date; safe to call at every start and by several coordinators at once. */
  migrate(): Promise<void>;
  /** For tests and benchmarks: the pool below. */
  readonly database: Database;
}

/**
 * The leader's lease has a connection of its own, so that slow statements, however many, cannot keep a renewal waiting,
 * and a short patience, so that one that is heard by nobody is noticed within a lease.
 */
const RESERVED_PATIENCE_MS = 5000;

/**
 * Opens the store and makes sure the database answers.
 * @throws MeshError DATABASE_DOWN, BAD_CONFIG
 */
export async function openStore(options: StoreOptions): Promise<PostgresStore> {
  const { clock, log, cut } = options;
  const target = options.connection ? fromConnection(options.connection) : fromUrl(options.url ?? '');
  if (target.warning) log.warn({ event: 'database.unverified' }, target.warning);
  const prepare = options.prepare ?? true;
  const database = new Database({ target, clock, poolMax: options.poolMax ?? 8, prepare, cut });
  const reserved = new Database({ target, clock, poolMax: 1, prepare, patienceMs: RESERVED_PATIENCE_MS, cut });
  const close = async (): Promise<void> => void (await Promise.all([database.close(), reserved.close()]));
  const pingOver = async (over: Database): Promise<void> => void (await over.run((db) => sql`select 1`.execute(db)));
  const ping = () => pingOver(reserved);
  try {
    await Promise.all([ping(), pingOver(database)]);
  } catch (error) {
    await close();
    throw error;
  }
  const turns = new Turns();
  const settings = settingStore(database);
  return {
    database,
    jobs: jobStore(database),
    tasks: taskStore(database, turns),
    copies: copyStore(database, turns),
    namespaces: namespaceStore(database),
    nodes: nodeStore(database, clock),
    certificates: certificateStore(database, clock),
    tokens: tokenStore(database),
    joinRequests: joinRequestStore(database, clock),
    leader: leaderStore(reserved),
    coordinators: coordinatorStore(database),
    blobs: blobStore(database),
    blobContent: blobContentStore(database),
    secrets: secretStore(database),
    audit: auditStore(database),
    settings,
    trust: trustStore(database),
    ping,
    owner: async () => {
      const { rows } = await reserved.run((db) =>
        sql<{ present: boolean }>`select to_regclass('setting') is not null as present`.execute(db),
      );
      return rows[0]?.present ? settings.get('mesh-id') : undefined;
    },
    migrate: async () => {
      const migrated = migrate(target, log, undefined, database.dialer);
      // Kysely undoes on the connection it began on, and the driver never says that this one is gone.
      await (cut ? unlessAborted(migrated, cut, 'the migration was cut off') : migrated);
      if (!prepare) await settleRole(database, log);
      await sweepInputs(database);
      await sweepBlobContent(database);
    },
    close,
  };
}
