import { existsSync, readlinkSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { spawnSync } from 'node:child_process';
import { type Clock, pause } from '../../common/clock.js';
import { MeshError, systemCode } from '../../common/errors.js';
import { readIfExists } from '../../common/files.js';
import type { Logger } from '../../common/log.js';
import { isAlive } from '../../common/process-life.js';

/**
 * A coordinator killed with -9 leaves its PostgreSQL running: it is in a process group of its own. The next start finds
 * it by `postmaster.pid`, makes sure the process really is the PostgreSQL of this directory, and stops it as `stop` would.
 * A pid that belongs to somebody else by now makes the file stale. A pid that belongs to nobody is left to PostgreSQL,
 * which also checks that no backend of the dead one still holds its shared memory.
 */
export const SOCKET_PREFIX = 'mesh-pg-';
const FAST_STOP_MS = 30_000;
const IMMEDIATE_STOP_MS = 10_000;
const POLL_MS = 20;

interface PidFile {
  pid: number;
  port: number;
  socketDirectory: string | undefined;
}

/** Line 1 is the pid, line 4 the port, line 5 the first socket directory; a file cut short by a crash has fewer. */
export function parsePidFile(text: string): PidFile | undefined {
  const lines = text.split('\n');
  const pid = Number(lines[0]);
  if (!Number.isInteger(pid) || pid <= 1) return undefined;
  return { pid, port: Number(lines[3]), socketDirectory: lines[4]?.trim() || undefined };
}

/** Whether the process is a postgres whose working directory or `-D` is this one. */
export function servesDirectory(pid: number, dataDirectory: string): boolean {
  if (process.platform === 'linux') {
    try {
      return readlinkSync(`/proc/${pid}/cwd`) === realpathSync(dataDirectory);
    } catch {
      const command = readIfExists(`/proc/${pid}/cmdline`) ?? '';
      return command.includes('postgres') && command.includes(dataDirectory);
    }
  }
  if (process.platform === 'win32') {
    const list = spawnSync('tasklist', ['/FI', `PID eq ${pid}`, '/NH'], { encoding: 'utf8' }).stdout ?? '';
    return list.includes('postgres.exe');
  }
  const command = spawnSync('ps', ['-o', 'command=', '-p', String(pid)], { encoding: 'utf8' }).stdout ?? '';
  return command.includes('postgres') && command.includes(dataDirectory);
}

export async function endOrphan(dataDirectory: string, clock: Clock, log: Logger): Promise<void> {
  const path = join(dataDirectory, 'postmaster.pid');
  const file = parsePidFile(readIfExists(path) ?? '');
  if (!file) return;
  if (isAlive(file.pid) && !servesDirectory(file.pid, dataDirectory)) {
    log.warn({ event: 'postgres.stale-pid', pid: file.pid }, 'removing a pid file that names another process');
    rmSync(path, { force: true });
  } else if (isAlive(file.pid)) {
    log.warn(
      { event: 'postgres.orphan', pid: file.pid },
      'stopping the PostgreSQL an earlier coordinator left running',
    );
    await endProcess(file.pid, clock);
  }
  removeSocketDirectory(file.socketDirectory);
}

async function endProcess(pid: number, clock: Clock): Promise<void> {
  for (const [signal, limitMs] of [['SIGINT', FAST_STOP_MS] as const, ['SIGQUIT', IMMEDIATE_STOP_MS] as const]) {
    try {
      process.kill(pid, signal);
    } catch (error) {
      if (systemCode(error) === 'ESRCH') return;
      throw new MeshError('IN_USE', `PostgreSQL (process ${pid}) already runs on this data directory`, {
        cause: error,
      });
    }
    const until = clock.monotonicMs() + limitMs;
    while (clock.monotonicMs() < until) {
      if (!isAlive(pid)) return;
      await pause(clock, POLL_MS);
    }
  }
  throw new MeshError('IN_USE', `PostgreSQL (process ${pid}) on this data directory does not stop`, {
    hint: `end process ${pid} by hand`,
  });
}

/** Only what we made: a directory of our naming, directly below a temporary directory. */
export function removeSocketDirectory(directory: string | undefined): void {
  if (!directory || !basename(directory).startsWith(SOCKET_PREFIX)) return;
  if (![tmpdir(), '/tmp'].includes(dirname(directory)) || !existsSync(directory)) return;
  rmSync(directory, { recursive: true, force: true });
}
