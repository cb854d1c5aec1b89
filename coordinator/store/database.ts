import type { Socket } from 'node:net';
import { Kysely } from 'kysely';
import { PostgresJSDialect } from 'kysely-postgres-js';
import postgres from 'postgres';
import { type Clock, pause } from '../../common/clock.js';
import { MeshError } from '../../common/errors.js';
import { backoffMs } from '../../common/retry.js';
import { numberArrayLiteral, parseNumberArray, parseTextArray, textArrayLiteral } from './arrays.js';
import { POOLED_PARAMETERS, SESSION_PARAMETERS, type Target } from './connection.js';
import { asStoreError, belongsElsewhere, isRepeatable } from './failures.js';
import type { Schema } from './schema.js';
import { Dialer } from './socket.js';

export interface DatabaseOptions {
  target: Target;
  clock: Clock;
  /** Connections at most. */
  poolMax: number;
  /**
   * Prepare each statement once per connection; saves a round trip. False behind a pooler in transaction mode, which also
   * takes no session parameters but the few it knows; the role's settings give them then (role-settings.ts).
   */
  prepare: boolean;
  /** How long a statement is waited for before its caller is told that the database does not answer; 30 s when absent. */
  patienceMs?: number;
  /** Aborts when every connection is to be cut, and none made any more. */
  cut?: AbortSignal | undefined;
}

const CONNECT_TIMEOUT_S = 10;
const RECONNECT_S_MAX = 1;
const REPEATS_MAX = 6;
/** Statements that still run on a pool that was replaced have so long. */
const RETIRE_S_MAX = 5;
/** Idle connections say goodbye within this time, or are cut. */
const GOODBYE_S_MAX = 1;
const PATIENCE_MS = 30_000;
const REPEAT_BACKOFF = { baseMs: 5, capMs: 200 };

export type Pool = postgres.Sql<{ bigint: number; date: number }>;

export interface PoolOptions {
  target: Target;
  max: number;
  prepare?: boolean;
  parameters?: Readonly<Record<string, string>>;
  dialer?: Dialer;
  /** False when `reserve` is never called; true when absent. */
  reserves?: boolean;
  /** Hears of each socket that was opened. */
  onSocket?: (socket: Socket) => void;
}

/** A pool with our types: `bigint` as number, times as milliseconds since 1970. */
export function openPool(options: PoolOptions): Pool {
  const { dialer = new Dialer(options.target), prepare = true } = options;
  const { user, password, database, parameters } = options.target;
  const given = Object.entries({ user, password, database });
  const settings = {
    ...Object.fromEntries(given.filter(([, value]) => value !== undefined)),
    ssl: false,
    socket: async () => {
      const socket = await dialer.open();
      options.onSocket?.(socket);
      return socket;
    },
    max: options.max,
    prepare,
    // One statement per connection at a time: a quick one never waits behind a slow one.
    max_pipeline: 0,
    connect_timeout: CONNECT_TIMEOUT_S,
    backoff: (retries: number) => Math.min(RECONNECT_S_MAX, 0.02 * 2 ** Math.min(retries, 10)),
    onnotice: () => undefined,
    connection: { ...(options.parameters ?? (prepare ? SESSION_PARAMETERS : POOLED_PARAMETERS)), ...parameters },
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
      numberArray: {
        to: 1007,
        from: [1007, 1016],
        serialize: numberArrayLiteral,
        parse: parseNumberArray,
      },
      textArray: { to: 1009, from: [1009], serialize: textArrayLiteral, parse: parseTextArray },
    },
    // Asked for by the driver at the start of each connection, in a promise that nobody holds: if the connection is cut
    // then, its rejection ends the process. Without it, `reserve` waits for ever on a connection that is not open yet.
    fetch_types: options.reserves ?? true,
  } as unknown as postgres.Options<{ bigint: postgres.PostgresType<number>; date: postgres.PostgresType<number> }>;
  return postgres(settings) as Pool;
}

interface LivePool {
  readonly sql: Pool;
  readonly kysely: Kysely<Schema>;
  readonly sockets: Set<Socket>;
  /** Of the target's, where its first connection was tried. */
  readonly address: number;
  /** When a statement was answered last, or when the pool was opened; monotonic. */
  answeredMs: number;
  /** Statements that wait for their answer, and those that nobody waits for any more. */
  waiting: number;
  abandoned: number;
  ended: boolean;
  /** Called when a statement was answered or a socket closed. */
  onChange: () => void;
}

/**
 * One pool, and Kysely over it.
 *
 * A pool that lost a connection is replaced by a new one, and the old one is ended. The driver keeps a connection whose
 * opening failed among those being opened for ever, and one that was cut between a statement and its flush never writes
 * again (postgres 3.4.9, `createSocket` and `closed` in src/connection.js): a few outages would use up the whole pool.
 *
 * A database that says nothing is not waited for without end: the operating system would notice a machine that lost its
 * power only after a quarter of an hour. A statement that nobody waits for any more may still take effect; as with every
 * DATABASE_DOWN, who needs to know asks.
 *
 * Every statement of the store is a transaction by itself, so Kysely never needs to hold a connection. That is used: the
 * dialect is given a stand-in that sends each statement to the pool. The driver's own `reserve` puts a connection that
 * died while it was reserved back among the idle ones, where the next statement would crash the process.
 */
export class Database {
  readonly place: string;
  readonly target: Target;
  readonly #clock: Clock;
  readonly #options: DatabaseOptions;
  /** Knows which of several addresses serves. */
  readonly dialer: Dialer;
  #pool: LivePool;
  readonly #retired = new Set<Promise<void>>();
  #closed = false;
  readonly #running = new Set<Promise<unknown>>();

  constructor(options: DatabaseOptions) {
    this.target = options.target;
    this.place = options.target.place;
    this.#clock = options.clock;
    this.#options = options;
    this.dialer = new Dialer(options.target, options.cut);
    this.#pool = this.#open();
  }

  /** For tests and benchmarks: statements past `run`. */
  get kysely(): Kysely<Schema> {
    return this.#pool.kysely;
  }

  #open(): LivePool {
    const { target, poolMax: max, prepare } = this.#options;
    const onSocket = (socket: Socket): void => {
      if (pool.ended) return void socket.destroy();
      pool.sockets.add(socket);
      socket.once('close', () => {
        pool.sockets.delete(socket);
        pool.onChange();
      });
    };
    const sql = openPool({ target, max, prepare, onSocket, dialer: this.dialer, reserves: false });
    const pool: LivePool = {
      sql,
      // Its own, so that a statement is counted on the pool it runs on, whatever is replaced meanwhile.
      kysely: new Kysely<Schema>({
        dialect: new PostgresJSDialect({
          postgres: () => ({
            end: async () => undefined,
            reserve: async () => ({
              release: () => undefined,
              unsafe: (text: string, parameters: never[] = []) => sql.unsafe(text, parameters, { prepare }),
            }),
          }),
        }),
      }),
      sockets: new Set(),
      address: this.dialer.address,
      answeredMs: this.#clock.monotonicMs(),
      ...{ waiting: 0, abandoned: 0, ended: false, onChange: () => undefined },
    };
    return pool;
  }

  /**
   * Runs one statement. A deadlock or serialization failure has undone it, so it is repeated, at most six times with
   * jitter. One that a standby would not take was never begun: each further address is tried. Everything else becomes a
   * MeshError.
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
    for (let attempt = 1, elsewhere = this.target.addresses.length - 1; ; attempt++) {
      const pool = this.#pool;
      try {
        const answer = await this.#patiently(pool, statement(pool.kysely));
        pool.answeredMs = this.#clock.monotonicMs();
        return answer;
      } catch (error) {
        if (isRepeatable(error) && attempt <= REPEATS_MAX) {
          await pause(this.#clock, backoffMs(REPEAT_BACKOFF, attempt, Math.random()));
          continue;
        }
        const failure = asStoreError(error, this.place);
        if (failure.code === 'DATABASE_DOWN' && this.#isUseless(pool, error)) this.#replace(pool, error);
        if (!belongsElsewhere(error) || elsewhere-- <= 0) throw failure;
      }
    }
  }

  #patiently<T>(pool: LivePool, answer: Promise<T>): Promise<T> {
    const { patienceMs = PATIENCE_MS } = this.#options;
    pool.waiting++;
    return new Promise<T>((resolve, reject) => {
      const timer = this.#clock.after(
        patienceMs,
        () => {
          pool.abandoned++;
          reject(
            new MeshError('DATABASE_DOWN', `the database at ${this.place} did not answer in ${patienceMs / 1000} s`, {
              hint: 'is it overloaded, or its disk slow?',
            }),
          );
        },
        { background: true },
      );
      void answer.then(resolve, reject).finally(() => timer.cancel());
    }).finally(() => {
      pool.waiting--;
      pool.onChange();
    });
  }

  /** One slow statement among others that are answered costs nobody else a connection. */
  #isUseless(pool: LivePool, error: unknown): boolean {
    if (!(error instanceof MeshError)) return true;
    const { patienceMs = PATIENCE_MS, poolMax } = this.#options;
    return this.#clock.monotonicMs() - pool.answeredMs >= patienceMs || pool.abandoned >= poolMax / 2;
  }

  /** Many statements may fail with one outage: the pool of the first is replaced, once. */
  #replace(pool: LivePool, error: unknown): void {
    if (this.#pool !== pool || this.#closed) return;
    if (error instanceof MeshError || belongsElsewhere(error)) this.dialer.turn(pool.address);
    this.#pool = this.#open();
    const ended: Promise<void> = this.#end(pool).finally(() => this.#retired.delete(ended));
    this.#retired.add(ended);
  }

  async close(): Promise<void> {
    this.#closed = true;
    // A statement that was begun may not have reached the pool yet; one that hangs is cut off with it.
    const patience = new AbortController();
    const settled = Promise.allSettled([...this.#running]).then(() => patience.abort());
    await Promise.race([settled, pause(this.#clock, RETIRE_S_MAX * 1000, patience.signal)]);
    await Promise.all([this.#end(this.#pool), ...this.#retired]);
  }

  /**
   * What still runs has a while. Without a socket nothing does; the driver would wait for it nevertheless. And one over
   * which nothing comes back would stay open: what is left is destroyed.
   */
  async #end(pool: LivePool): Promise<void> {
    const over = new AbortController();
    pool.onChange = () => {
      if (pool.waiting === 0 || pool.sockets.size === 0) over.abort();
    };
    pool.onChange();
    await pause(this.#clock, RETIRE_S_MAX * 1000, over.signal);
    pool.ended = true;
    await pool.sql.end({ timeout: pool.sockets.size === 0 ? 0 : GOODBYE_S_MAX });
    for (const socket of pool.sockets) socket.destroy();
  }
}
