/**
 * The one loop everything simulated happens in: a queue of events in virtual time. An event runs to its end, then every
 * promise that it settled runs to its end, then the next event. No wall clock, no I/O, one source of chance: a seed names
 * a run, and two runs of it are the same to the last message.
 */
import { SeededRandom } from '../support/random.js';

interface Entry {
  atMs: number;
  order: number;
  run: (() => void) | undefined;
}

export interface Handle {
  cancel(): void;
}

export class World {
  readonly random: SeededRandom;
  nowMs = 0;
  events = 0;
  readonly #queue: Entry[] = [];
  readonly #write: ((line: string) => void) | undefined;
  #order = 0;
  #hash = 0x811c9dc5;
  #stop: ((reason?: unknown) => void) | undefined;

  constructor(seed: number, write?: (line: string) => void) {
    this.random = new SeededRandom(seed);
    this.#write = write;
  }

  /** Of everything that was traced so far; equal for equal runs. */
  get hash(): string {
    return (this.#hash >>> 0).toString(16).padStart(8, '0');
  }

  /** Part of what a run was: it goes into the hash, and to whoever listens. */
  trace(line: string): void {
    let hash = Math.imul(this.#hash ^ Math.round(this.nowMs * 1000), 0x01000193);
    for (let i = 0; i < line.length; i++) hash = Math.imul(hash ^ line.charCodeAt(i), 0x01000193);
    this.#hash = hash;
    this.#write?.(`${(this.nowMs / 1000).toFixed(6).padStart(12)} ${line}`);
  }

  /** Whether somebody reads what is traced, so that it is worth saying more. */
  get isTraced(): boolean {
    return this.#write !== undefined;
  }

  /** Words for whoever reads the trace; no part of the hash. */
  remark(line: string): void {
    this.#write?.(`${(this.nowMs / 1000).toFixed(6).padStart(12)}   ${line}`);
  }

  after(delayMs: number, run: () => void): Handle {
    const entry: Entry = { atMs: this.nowMs + Math.max(0, delayMs), order: this.#order++, run };
    this.#push(entry);
    return { cancel: () => (entry.run = undefined) };
  }

  /** Resolves when `done` says so after some event, or nothing is left to happen, or time is up. */
  runUntil(done: () => boolean, untilMs: number): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#stop = (reason) => (reason === undefined ? resolve() : reject(reason));
      const step = () => {
        try {
          if (done() || !this.#next(untilMs)) return resolve();
        } catch (error) {
          return reject(error);
        }
        // Promise jobs run before the next tick, those that they make included; so nothing is left when it comes.
        queueMicrotask(() => process.nextTick(step));
      };
      process.nextTick(step);
    });
  }

  /** Something failed that nobody handles. */
  fail(error: unknown): void {
    this.#stop?.(error ?? new Error('failed'));
  }

  #next(untilMs: number): boolean {
    for (;;) {
      const entry = this.#pop();
      if (!entry) return false;
      if (!entry.run) continue;
      if (entry.atMs > untilMs) {
        this.#push(entry);
        this.nowMs = untilMs;
        return false;
      }
      this.nowMs = entry.atMs;
      this.events++;
      entry.run();
      return true;
    }
  }

  #push(entry: Entry): void {
    const queue = this.#queue;
    let at = queue.length;
    queue.push(entry);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const above = queue[parent] as Entry;
      if (!isBefore(entry, above)) break;
      queue[at] = above;
      at = parent;
    }
    queue[at] = entry;
  }

  #pop(): Entry | undefined {
    const queue = this.#queue;
    const first = queue[0];
    const last = queue.pop();
    if (first === undefined || last === undefined || queue.length === 0) return first;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= queue.length) break;
      if (child + 1 < queue.length && isBefore(queue[child + 1] as Entry, queue[child] as Entry)) child++;
      if (!isBefore(queue[child] as Entry, last)) break;
      queue[at] = queue[child] as Entry;
      at = child;
    }
    queue[at] = last;
    return first;
  }
}

const isBefore = (a: Entry, b: Entry): boolean => a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
