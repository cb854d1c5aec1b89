/**
 * PostgreSQL servers for end-to-end tests, started from the programs that are shipped, on loopback and under the test's
 * own control: killed, started again, followed by a standby that is promoted. And a pooler, where pgbouncer is installed.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { chmodSync, chownSync, cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import postgres from 'postgres';
import type { Test } from 'tap';
import { type Account, chooseAccount } from '../../coordinator/postgres/account.js';
import { findBinaries } from '../../coordinator/postgres/binaries.js';
import { makeCluster, readOrMakePassword, SUPERUSER } from '../../coordinator/postgres/cluster.js';
import { withLimit } from './until.js';

const READY = /database system is ready to accept (?:read-only )?connections/;
const NOBODY = 65534;

export const noPgbouncer =
  spawnSync('pgbouncer', ['--version'], { env: { PATH: `${process.env.PATH}:/usr/sbin` } }).status === 0
    ? false
    : 'pgbouncer is not installed';

export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once('error', reject);
    probe.listen(0, '127.0.0.1', () => {
      const address = probe.address();
      probe.close(() => resolve(typeof address === 'object' && address ? address.port : 0));
    });
  });
}

/** One cluster and, while it runs, its server process. */
export class DatabaseServer {
  #child: ChildProcess | undefined;
  #log = '';

  private constructor(
    readonly directory: string,
    readonly account: Account,
    readonly port: number,
    readonly password: string,
    private readonly settings: Readonly<Record<string, string>>,
  ) {}

  /** A new cluster with an empty database `mesh`, running; removed with everything in it after the test. */
  static async start(t: Pick<Test, 'teardown'>, settings: Record<string, string> = {}): Promise<DatabaseServer> {
    const directory = mkdtempSync(join(tmpdir(), 'mesh-db-'));
    const dataDirectory = join(directory, 'data');
    const account = chooseAccount({ binaries: await findBinaries(), dataDirectory });
    const passwordFile = join(directory, 'password');
    await makeCluster(account, passwordFile);
    const password = readOrMakePassword(passwordFile);
    const server = new DatabaseServer(directory, account, await freePort(), password, settings);
    t.teardown(() => server.remove());
    await server.run();
    await server.query('create database mesh', 'postgres');
    return server;
  }

  /** A standby of this server, which is stopped for as long as its files are copied. */
  async follow(t: Pick<Test, 'teardown'>): Promise<DatabaseServer> {
    await this.stop();
    const directory = mkdtempSync(join(tmpdir(), 'mesh-db-'));
    const dataDirectory = join(directory, 'data');
    cpSync(this.account.dataDirectory, dataDirectory, { recursive: true, preserveTimestamps: true });
    writeFileSync(join(dataDirectory, 'standby.signal'), '');
    chmodSync(dataDirectory, 0o700);
    const { port, password } = this;
    const standby = new DatabaseServer(directory, { ...this.account, dataDirectory }, await freePort(), password, {
      primary_conninfo: `host=127.0.0.1 port=${port} user=${SUPERUSER} password=${password}`,
    });
    t.teardown(() => standby.remove());
    await this.run();
    await standby.run();
    return standby;
  }

  get url(): string {
    return `postgres://${SUPERUSER}:${this.password}@127.0.0.1:${this.port}/mesh?sslmode=disable`;
  }

  get running(): boolean {
    return this.#child !== undefined;
  }

  /** Resolves when it accepts connections. */
  async run(): Promise<void> {
    const settings = {
      ...{ port: String(this.port), listen_addresses: '127.0.0.1', unix_socket_directories: '', lc_messages: 'C' },
      ...{ shared_buffers: '32MB', ...this.settings },
    };
    const options = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
    const { account } = this;
    const [file, ...words] = [...account.prefix, account.binaries.postgres, '-D', account.dataDirectory, ...options];
    const { uid, gid } = account;
    const child = spawn(file as string, words, {
      ...{ stdio: ['ignore', 'ignore', 'pipe'], cwd: account.dataDirectory, detached: true },
      ...(uid === undefined ? {} : { uid, gid: gid as number }),
    });
    this.#child = child;
    this.#log = '';
    const ready = new Promise<void>((resolve, reject) => {
      child.stderr?.setEncoding('utf8').on('data', (text: string) => {
        this.#log = (this.#log + text).slice(-16_384);
        if (READY.test(this.#log)) resolve();
      });
      child.once('error', reject);
      child.once('exit', () => {
        if (this.#child === child) this.#child = undefined;
        reject(new Error(`PostgreSQL ended: ${this.#log}`));
      });
    });
    await withLimit('PostgreSQL to be ready', ready);
  }

  /** SIGKILL to the server and every process of it: nothing is flushed, nobody is told. */
  kill(): Promise<void> {
    return this.#end((child) => process.kill(-(child.pid as number), 'SIGKILL'));
  }

  /** Sessions are cut, a checkpoint is written. */
  stop(): Promise<void> {
    return this.#end((child) => child.kill('SIGINT'));
  }

  async #end(signal: (child: ChildProcess) => void): Promise<void> {
    const child = this.#child;
    if (!child) return;
    const gone = new Promise<void>((resolve) => child.once('close', () => resolve()));
    signal(child);
    await withLimit('PostgreSQL to end', gone);
  }

  async promote(): Promise<void> {
    await this.query('select pg_promote()', 'postgres');
  }

  /** As the superuser. */
  async query(text: string, database = 'mesh'): Promise<readonly Record<string, unknown>[]> {
    const { port, password } = this;
    const sql = postgres({
      ...{ host: '127.0.0.1', port, user: SUPERUSER, password, database },
      ...{ max: 1, fetch_types: false, onnotice: () => undefined },
    });
    try {
      return await sql.unsafe(text);
    } finally {
      await sql.end({ timeout: 5 });
    }
  }

  async remove(): Promise<void> {
    await this.kill();
    rmSync(this.directory, { recursive: true, force: true });
  }
}

export interface Pooler {
  url: string;
  stop(): Promise<void>;
}

/** pgbouncer in transaction mode with few server connections, and no other setting than its defaults. */
export async function startPooler(t: Pick<Test, 'teardown'>, server: DatabaseServer): Promise<Pooler> {
  const directory = mkdtempSync(join(tmpdir(), 'mesh-pooler-'));
  const port = await freePort();
  const password = server.password;
  mkdirSync(join(directory, 'run'));
  writeFileSync(join(directory, 'users'), `"${SUPERUSER}" "${password}"\n`);
  writeFileSync(
    join(directory, 'pgbouncer.ini'),
    [
      '[databases]',
      `mesh = host=127.0.0.1 port=${server.port} dbname=mesh user=${SUPERUSER} password=${password}`,
      '[pgbouncer]',
      ...[`listen_addr = 127.0.0.1`, `listen_port = ${port}`, 'unix_socket_dir =', 'auth_type = scram-sha-256'],
      ...[`auth_file = ${join(directory, 'users')}`, 'pool_mode = transaction', 'default_pool_size = 3'],
    ].join('\n'),
  );
  const isRoot = process.getuid?.() === 0;
  if (isRoot)
    for (const path of ['', 'run', 'users', 'pgbouncer.ini']) chownSync(join(directory, path), NOBODY, NOBODY);
  const child = spawn('pgbouncer', [join(directory, 'pgbouncer.ini')], {
    ...{ stdio: ['ignore', 'ignore', 'pipe'], cwd: directory },
    env: { PATH: `${process.env.PATH}:/usr/sbin` },
    ...(isRoot ? { uid: NOBODY, gid: NOBODY } : {}),
  });
  const gone = new Promise<void>((resolve) => child.once('close', () => resolve()));
  const stop = async (): Promise<void> => {
    child.kill('SIGKILL');
    await gone;
    rmSync(directory, { recursive: true, force: true });
  };
  t.teardown(stop);
  let log = '';
  const ready = new Promise<void>((resolve, reject) => {
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      log = (log + text).slice(-16_384);
      if (log.includes('process up')) resolve();
    });
    child.once('close', () => reject(new Error(`pgbouncer ended: ${log}`)));
  });
  await withLimit('pgbouncer to be ready', ready);
  return { url: `postgres://${SUPERUSER}:${password}@127.0.0.1:${port}/mesh?sslmode=disable`, stop };
}
