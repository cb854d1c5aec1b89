/**
 * Private directories of attempts. Making and removing one costs more than starting a short command does (both are
 * transactions of the file system), so one that an attempt left as it found it, which whoever started the attempt has
 * looked at, serves the next one of the same job. When nothing runs any more they are removed.
 *
 * Of the same job, because a process that left its group and closed its output may still work in it until the next sweep.
 */
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import type { Janitor } from './janitor.js';

/** Those given back first go when there are more. */
const FREE_MAX = 64;

export interface PrivateDirectory {
  path: string;
  /** It is there, empty, and its user's alone; otherwise it has yet to be made. */
  made: boolean;
}

export class Directories {
  readonly #root: string;
  readonly #janitor: Janitor;
  /** The one given back last at the end. */
  readonly #free: { job: number; path: string }[] = [];
  #used = 0;

  /** @param root where they are made */
  constructor(root: string, janitor: Janitor) {
    this.#root = root;
    this.#janitor = janitor;
  }

  take(job: number): PrivateDirectory {
    this.#used++;
    const at = this.#free.findLastIndex((free) => free.job === job);
    const [found] = at < 0 ? [] : this.#free.splice(at, 1);
    return found ? { path: found.path, made: true } : { path: this.#name(), made: false };
  }

  /** One that has yet to be made, for an attempt that starts with something in it. */
  takeNew(): PrivateDirectory {
    this.#used++;
    return { path: this.#name(), made: false };
  }

  /** @param pristine whether it is as it was made, and nothing of the attempt runs any more */
  give(job: number, path: string, pristine: boolean): void {
    if (!pristine) return this.#janitor.remove(path);
    this.#free.push({ job, path });
    const [oldest] = this.#free.length > FREE_MAX ? this.#free.splice(0, 1) : [];
    if (oldest) this.#janitor.remove(oldest.path);
  }

  /** An attempt that took one is over, and whatever follows on it has begun. */
  over(): void {
    this.#used--;
    if (this.#used > 0) return;
    for (const { path } of this.#free.splice(0)) this.#janitor.remove(path);
  }

  #name(): string {
    return join(this.#root, `task-${randomBytes(6).toString('hex')}`);
  }
}
