/**
 * A lock file: whoever creates it holds it, for the moment an index is rewritten. It names its holder, so that one left
 * behind by a killed process on this machine is broken. Breaking is itself guarded by a second file, so that two waiters
 * cannot break each other's fresh lock; should a process die in that instant, both files stay and the error names them.
 */
import { randomBytes } from 'node:crypto';
import { closeSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { hostname } from 'node:os';
import { type Clock, pause } from '../common/clock.js';
import { MeshError, systemCode } from '../common/errors.js';
import { isAlive } from '../common/process-life.js';

const WAIT_MS = 5000;
const POLL_MS = 20;

function create(path: string, content: string): boolean {
  try {
    const descriptor = openSync(path, 'wx', 0o600);
    try {
      writeSync(descriptor, content);
    } finally {
      closeSync(descriptor);
    }
    return true;
  } catch (error) {
    if (systemCode(error) === 'EEXIST') return false;
    throw new MeshError('DATA_DIR', `cannot write ${path} (${systemCode(error)})`, { cause: error });
  }
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}

/** Only a process of this machine can be known to be gone. */
function isOrphan(content: string): boolean {
  const [pid, host] = content.split(' ');
  if (host !== hostname() || !/^\d+$/.test(pid ?? '')) return false;
  return !isAlive(Number(pid));
}

function breakOrphan(path: string): void {
  const guard = `${path}.break`;
  const content = read(path);
  if (content === undefined || !isOrphan(content) || !create(guard, '')) return;
  try {
    if (read(path) === content) rmSync(path, { force: true });
  } finally {
    rmSync(guard, { force: true });
  }
}

/**
 * Runs `work` while holding the lock at `path`; others wait for up to five seconds.
 * @throws MeshError IN_USE that names the holder
 */
export async function withLock<T>(path: string, clock: Clock, work: () => T | Promise<T>): Promise<T> {
  const content = `${process.pid} ${hostname()} ${randomBytes(6).toString('hex')}`;
  const endMs = clock.monotonicMs() + WAIT_MS;
  while (!create(path, content)) {
    breakOrphan(path);
    if (clock.monotonicMs() > endMs) {
      const [pid, host] = (read(path) ?? '').split(' ');
      throw new MeshError('IN_USE', `${path} is held by process ${pid || 'unknown'} on ${host ?? 'this machine'}`, {
        hint: `if no such process runs, remove ${path} and ${path}.break`,
      });
    }
    await pause(clock, POLL_MS);
  }
  try {
    return await work();
  } finally {
    if (read(path) === content) rmSync(path, { force: true });
  }
}
