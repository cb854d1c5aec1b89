import { type ChildProcess, spawn } from 'node:child_process';
import { type Clock } from '../../common/clock.js';
import { MeshError } from '../../common/errors.js';
import type { Account } from './account.js';
import type { LogFile } from './log-file.js';

/** One run of the server process. */
export interface ServerRun {
  readonly child: ChildProcess;
  /** Resolves when the process is gone. */
  readonly ended: Promise<void>;
}

export interface ServerPlace {
  /** Directory of the Unix socket, or undefined for TCP on loopback. */
  socketDirectory: string | undefined;
  port: number;
}

const READY = 'database system is ready to accept connections';
const TAIL_CHARACTERS_MAX = 8000;
/** Recovery after a crash replays the log written since the last checkpoint, at most some gigabytes. */
const READY_MS_MAX = 300_000;

/**
 * Settings by name. Durability is PostgreSQL's default: a commit that was answered is on disk. The log is sized for
 * batches, so that a job of a million tasks does not force checkpoint after checkpoint. Messages carry no row contents
 * (`terse`) and no statements, because both may hold what users submitted.
 */
export const SETTINGS: Readonly<Record<string, string>> = {
  shared_buffers: '64MB',
  max_connections: '40',
  max_parallel_workers_per_gather: '0',
  wal_buffers: '8MB',
  max_wal_size: '2GB',
  min_wal_size: '128MB',
  checkpoint_timeout: '15min',
  autovacuum_naptime: '10s',
  autovacuum_vacuum_cost_limit: '2000',
  jit: 'off',
  password_encryption: 'scram-sha-256',
  log_error_verbosity: 'terse',
  log_min_error_statement: 'panic',
  log_checkpoints: 'off',
  log_line_prefix: '%m [%p] ',
  logging_collector: 'off',
  lc_messages: 'C',
};

/**
 * Starts PostgreSQL and resolves when it accepts connections. It gets a session of its own, so that Ctrl-C in a terminal
 * reaches only us and we stop it in our order. Its log comes through a pipe; when we die, it goes on without.
 *
 * @throws MeshError DATABASE_DOWN with PostgreSQL's own words
 */
export async function startServer(
  account: Account,
  place: ServerPlace,
  settings: Readonly<Record<string, string>>,
  logFile: LogFile,
  clock: Clock,
): Promise<ServerRun> {
  const all: Record<string, string> = {
    ...SETTINGS,
    ...settings,
    port: String(place.port),
    listen_addresses: place.socketDirectory ? '' : '127.0.0.1',
    ...(place.socketDirectory
      ? { unix_socket_directories: place.socketDirectory, unix_socket_permissions: '0700' }
      : {}),
  };
  const options = Object.entries(all).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
  const command = [...account.prefix, account.binaries.postgres, '-D', account.dataDirectory, ...options];
  const { uid, gid } = account;
  const child = spawn(command[0] as string, command.slice(1), {
    stdio: ['ignore', 'ignore', 'pipe'],
    cwd: account.dataDirectory,
    detached: true,
    windowsHide: true,
    ...(uid === undefined ? {} : { uid, gid: gid as number }),
  });
  const ended = new Promise<void>((resolve) => {
    child.once('exit', () => resolve());
    child.once('error', () => resolve());
  });
  await untilReady(child, logFile, clock);
  return { child, ended };
}

function untilReady(child: ChildProcess, logFile: LogFile, clock: Clock): Promise<void> {
  return new Promise((resolve, reject) => {
    let tail = '';
    const settle = (error?: MeshError): void => {
      timer.cancel();
      if (error) reject(error);
      else resolve();
    };
    const timer = clock.after(READY_MS_MAX, () => {
      child.kill('SIGQUIT');
      settle(new MeshError('DATABASE_DOWN', 'PostgreSQL did not become ready in five minutes'));
    });
    child.stderr?.on('data', (chunk: Buffer) => {
      logFile.write(chunk);
      tail = (tail + chunk.toString()).slice(-TAIL_CHARACTERS_MAX);
      if (tail.includes(READY)) settle();
    });
    child.once('error', (error) =>
      settle(new MeshError('DATABASE_DOWN', 'PostgreSQL cannot be started', { cause: error })),
    );
    child.once('exit', (code, signal) => {
      const fatal = /(?:FATAL|PANIC): +(.*)/.exec(tail)?.[1] ?? `it ended with ${signal ?? code}`;
      settle(
        new MeshError('DATABASE_DOWN', `PostgreSQL did not start: ${fatal}`, {
          hint: 'its log, postgres.log in the data directory, says more',
          cause: new Error(tail),
        }),
      );
    });
  });
}
