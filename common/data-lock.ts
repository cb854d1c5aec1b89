import { randomBytes } from 'node:crypto';
import { linkSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { MeshError, systemCode } from './errors.js';
import { readIfExists } from './files.js';
import { startTimeOf } from './process-life.js';

/**
 * One process per data directory. The file names the process that holds it, by pid and by the moment it started (a
 * pid alone may be somebody else's by now); a file whose process is gone is taken over. It appears with its content, by
 * a link, and a stale one is moved away before it is removed: of several that start at a moment, one gets it.
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
    const mine = `${this.path}.${randomBytes(4).toString('hex')}`;
    try {
      writeFileSync(mine, `${process.pid} ${startTimeOf(process.pid)}\n`, { flag: 'wx', mode: 0o600 });
      for (let tries = 0; tries < 3 && !this.#held; tries++) {
        this.#held = linked(mine, this.path);
        if (!this.#held) this.#removeIfStale();
      }
    } catch (error) {
      if (error instanceof MeshError) throw error;
      throw new MeshError('DATA_DIR', `cannot write ${this.path} (${systemCode(error)})`, { cause: error });
    } finally {
      rmSync(mine, { force: true });
    }
    if (!this.#held) throw new MeshError('IN_USE', `another process took ${this.path} at the same moment`);
  }

  #removeIfStale(): void {
    const content = readIfExists(this.path);
    if (content === undefined) return;
    const [pid = '', started = ''] = content.trim().split(' ');
    const alive = /^\d+$/.test(pid) && startTimeOf(Number(pid));
    if (alive && (started === '' || alive === started || alive === 'unknown'))
      throw new MeshError('IN_USE', `${this.what} (process ${pid}) already runs on this data directory`, {
        hint: 'stop it, or name another directory with --data',
      });
    const aside = `${this.path}.${randomBytes(4).toString('hex')}`;
    try {
      renameSync(this.path, aside);
    } catch (error) {
      if (systemCode(error) === 'ENOENT') return;
      throw error;
    }
    // Not what was read: somebody else was quicker and holds it.
    if (readIfExists(aside) !== content) linked(aside, this.path);
    rmSync(aside, { force: true });
  }

  release(): void {
    if (this.#held) rmSync(this.path, { force: true });
    this.#held = false;
  }
}

/** False when something has that name already. */
function linked(from: string, to: string): boolean {
  try {
    linkSync(from, to);
    return true;
  } catch (error) {
    if (systemCode(error) === 'EEXIST') return false;
    throw error;
  }
}
