import { Kysely } from 'kysely';
import { PostgresJSDialect } from 'kysely-postgres-js';
import postgres from 'postgres';
import { type Clock, pause } from '../../common/clock.js';
import { backoffMs } from '../../common/retry.js';
import { SESSION_PARAMETERS, type Target } from './connection.js';
import { asStoreError, isRepeatable } from './failures.js';
import type { Schema } from './schema.js';
import { socketOpener } from './socket.js';

export interface DatabaseOptions {
  target: Target;
  clock: Clock;
  /** Connections at most. */
  poolMax: number;
  /** Prepare each statement once per connection; saves a round trip. Not through a pooler in transaction mode. */
  prepare: boolean;
}

const CONNECT_TIMEOUT_S = 10;
const RECONNECT_S_MAX = 1;
const REPEATS_MAX = 6;
/** Statements that still run on a pool that was replaced have so long. */
const RETIRE_S_MAX = 5;
const REPEAT_BACKOFF = { baseMs: 5, capMs: 200 };

export type Pool = postgres.Sql<{ bigint: number; date: number }>;

/** A pool with our types: `bigint` as number, times as milliseconds since 1970. */
export function openPool(options: { target: Target; max: number; parameters?: Record<string, string> }): Pool {
  const { user, password, database, parameters } = options.target;
  const given = Object.entries({ user, password, database });
  const settings = {
    ...Object.fromEntries(given.filter(([, value]) => value !== undefined)),
    ssl: false,
    socket: socketOpener(options.target),
    max: options.max,
    // One statement per connection at a time: a quick one never waits behind a slow one.
    max_pipeline: 0,
    connect_timeout: CONNECT_TIMEOUT_S,
    backoff: (retries: number) => Math.min(RECONNECT_S_MAX, 0.02 * 2 ** Math.min(retries, 10)),
    onnotice: () => undefined,
    connection: { ...(options.parameters ?? SESSION_PARAMETERS), ...parameters },
    types: {
      bigint: {
        to: 20,
        from: [20],
        serialize: (value: number) => String(value),
        parse: (text: string) => Number(text),
      },
      date: {
        to: 1184,
        from: [1082, 1114, 1184],
        serialize: (ms: number) => new Date(ms).toISOString(),
        parse: (text: string) => Date.parse(text),
      },
    },
  } as unknown as postgres.Options<{ bigint: postgres.PostgresType<number>; date: postgres.PostgresType<number> }>;
  return postgres(settings) as Pool;
}

/**
 * One pool, and Kysely over it.
 *
 * A pool that lost a connection is replaced by a new one, and the old one is ended. The driver keeps a connection whose
 * opening failed among those being opened for ever, and one that was cut between a statement and its flush never writes
 * again (postgres 3.4.9, `createSocket` and `closed` in src/connection.js): a few outages would use up the whole pool.
 *
 * Every statement of the store is a transaction by itself, so Kysely never needs to hold a connection. That is used: the
 * dialect is given a stand-in that sends each statement to the pool. The driver's own `reserve` puts a connection that
 * died while it was reserved back among the idle ones, where the next statement would crash the process.
 */
export class Database {
  readonly kysely: Kysely<Schema>;
  readonly place: string;
  readonly target: Target;
  readonly #clock: Clock;
  readonly #openPool: () => Pool;
  #pool: Pool;
  readonly #retired = new Set<Promise<void>>();
  #closed = false;
  readonly #running = new Set<Promise<unknown>>();

  constructor(options: DatabaseOptions) {
    this.target = options.target;
    this.place = options.target.place;
    this.#clock = options.clock;
    this.#openPool = () => openPool({ target: options.target, max: options.poolMax });
    this.#pool = this.#openPool();
    const { prepare } = options;
    this.kysely = new Kysely<Schema>({
      dialect: new PostgresJSDialect({
        postgres: () => ({
          end: () => this.close(),
          reserve: async () => ({
            release: () => undefined,
            unsafe: (text: string, parameters: never[] = []) => this.#pool.unsafe(text, parameters, { prepare }),
          }),
        }),
      }),
    });
  }

  /**
   * Runs one statement. A deadlock or serialization failure has undone it, so it is repeated, at most six times with
   * jitter; everything else becomes a MeshError.
   */
  async run<T>(statement: (db: Kysely<Schema>) => Promise<T>): Promise<T> {
    const running = this.#repeat(statement);
    this.#running.add(running);
    try {
      return await running;
    } finally {
      this.#running.delete(running);
    }
  }

  async #repeat<T>(statement: (db: Kysely<Schema>) => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      const pool = this.#pool;
      try {
        return await statement(this.kysely);
      } catch (error) {
        if (!isRepeatable(error) || attempt > REPEATS_MAX) {
          const failure = asStoreError(error, this.place);
          if (failure.code === 'DATABASE_DOWN') this.#replace(pool);
          throw failure;
        }
        await pause(this.#clock, backoffMs(REPEAT_BACKOFF, attempt, Math.random()));
      }
    }
  }

  /** Many statements may fail with one outage: the pool of the first is replaced, once. */
  #replace(pool: Pool): void {
    if (this.#pool !== pool || this.#closed) return;
    this.#pool = this.#openPool();
    const ended: Promise<void> = pool.end({ timeout: RETIRE_S_MAX }).finally(() => this.#retired.delete(ended));
    this.#retired.add(ended);
  }

  async close(): Promise<void> {
    this.#closed = true;
    // A statement that was begun may not have reached the pool yet; one that hangs is cut off with it.
    const patience = new AbortController();
    const settled = Promise.allSettled([...this.#running]).then(() => patience.abort());
    await Promise.race([settled, pause(this.#clock, RETIRE_S_MAX * 1000, patience.signal)]);
    await Promise.all([this.#pool.end({ timeout: RETIRE_S_MAX }), ...this.#retired]);
  }
}
