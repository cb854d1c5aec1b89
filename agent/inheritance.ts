/**
 * What whoever started the agent left it, and what no task may get: open descriptors (one of a folder leads out of any
 * sandbox, one of a socket or pipe to whoever is at its other end) and the leave to write core dumps, which would put
 * the memory of a task, secrets included, on a disk.
 *
 * Node opens everything of its own close-on-exec and marks what it inherits up to the first gap above 16; what is not
 * marked lies beyond that gap and came from outside. Call it first of all. Where there is no /proc nothing is found.
 */
import { execFileSync } from 'node:child_process';
import { closeSync, readdirSync, readFileSync } from 'node:fs';
import type { Logger } from '../common/log.js';

const CLOSE_ON_EXEC = 0o2000000;
const STANDARD_STREAMS = 3;

export function renounceInheritance(log: Logger): void {
  const closed = inherited().filter(close);
  if (closed.length > 0) log.info({ event: 'agent.descriptors-closed', descriptors: closed });
  if (process.platform !== 'linux') return;
  try {
    // Limits pass to children, so once is enough; the hard one too, or a task could raise its own again.
    execFileSync('prlimit', [`--pid=${process.pid}`, '--core=0:0'], { stdio: 'ignore' });
  } catch {
    log.warn(
      { event: 'agent.core-dumps', hint: 'install util-linux (prlimit), or start the agent with LimitCORE=0' },
      'core dumps of unsandboxed tasks are not turned off here',
    );
  }
}

function inherited(): number[] {
  try {
    return readdirSync('/proc/self/fd')
      .map(Number)
      .filter((descriptor) => descriptor >= STANDARD_STREAMS && !closesOnExec(descriptor));
  } catch {
    return [];
  }
}

function closesOnExec(descriptor: number): boolean {
  try {
    const flags = /^flags:\s+(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${descriptor}`, 'latin1'))?.[1];
    return flags === undefined || (Number.parseInt(flags, 8) & CLOSE_ON_EXEC) !== 0;
  } catch {
    // The one that the listing itself was read with.
    return true;
  }
}

function close(descriptor: number): boolean {
  try {
    closeSync(descriptor);
    return true;
  } catch {
    return false;
  }
}
