import { closeSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { MeshError, systemCode } from './errors.js';

/**
 * One process per data directory. The file names the process that holds it, by pid and by the moment it started (a
 * pid alone may be somebody else's by now); a file whose process is gone is taken over.
 */
export class DataLock {
  #held = false;

  /** @param what the holder, for messages: "a coordinator" */
  constructor(
    private readonly path: string,
    private readonly what: string,
  ) {}

  /** @throws MeshError IN_USE when a living process holds it, DATA_DIR when the directory cannot be written */
  acquire(): void {
    const mine = `${process.pid} ${startTimeOf(process.pid)}\n`;
    for (let tries = 0; tries < 2; tries++) {
      try {
        const descriptor = openSync(this.path, 'wx', 0o600);
        writeSync(descriptor, mine);
        closeSync(descriptor);
        this.#held = true;
        return;
      } catch (error) {
        if (systemCode(error) !== 'EEXIST')
          throw new MeshError('DATA_DIR', `cannot write ${this.path} (${systemCode(error)})`, { cause: error });
        this.#removeIfStale();
      }
    }
    throw new MeshError('IN_USE', `another process took ${this.path} at the same moment`);
  }

  #removeIfStale(): void {
    const [pid = '', started = ''] = readFileSync(this.path, 'utf8').trim().split(' ');
    const alive = /^\d+$/.test(pid) && startTimeOf(Number(pid));
    if (alive && (started === '' || alive === started || alive === 'unknown'))
      throw new MeshError('IN_USE', `${this.what} (process ${pid}) already runs on this data directory`, {
        hint: 'stop it, or name another directory with --data',
      });
    rmSync(this.path, { force: true });
  }

  release(): void {
    if (this.#held) rmSync(this.path, { force: true });
    this.#held = false;
  }
}

/** When a process started, in the system's own units; 'unknown' where only its existence can be told; '' when gone. */
function startTimeOf(pid: number): string {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? 'unknown';
  } catch {
    try {
      process.kill(pid, 0);
      return 'unknown';
    } catch (error) {
      return systemCode(error) === 'EPERM' ? 'unknown' : '';
    }
  }
}
