import type { Clock, Timer } from '../../common/clock.js';
import { readPeakBytes, readProcesses, withDescendants } from './process-table.js';
import type { Tracked } from './strays.js';

const FIRST_MS = 250;
const EVERY_MS = 1000;
/** Sampling takes at most a fiftieth of the time, however many processes the machine has. */
const DUTY = 50;

/** A running attempt, as the sampler sees it. */
export interface Sampled {
  readonly pid: number;
  readonly tracked: Tracked;
  peakMemoryBytes: number | undefined;
}

/**
 * Looks at all running trees together, one reading of /proc a second: how large they are, and who belongs to them. A
 * tree's size is the sum of its members' largest resident sizes, so shared pages count once per process; an attempt
 * shorter than the first sample has none.
 */
export class Sampler {
  readonly #clock: Clock;
  readonly #watched = new Set<Sampled>();
  #timer: Timer | undefined;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  add(sampled: Sampled): void {
    this.#watched.add(sampled);
    this.#timer ??= this.#clock.after(FIRST_MS, () => this.#sample(), { background: true });
  }

  remove(sampled: Sampled): void {
    this.#watched.delete(sampled);
    if (this.#watched.size > 0) return;
    this.#timer?.cancel();
    this.#timer = undefined;
  }

  #sample(): void {
    const startedMs = this.#clock.monotonicMs();
    this.#look(this.#watched);
    const tookMs = this.#clock.monotonicMs() - startedMs;
    this.#timer = this.#clock.after(Math.max(EVERY_MS, tookMs * DUTY), () => this.#sample(), { background: true });
  }

  /** A last look at one that is about to be stopped. */
  sampleNow(sampled: Sampled): void {
    this.#look([sampled]);
  }

  #look(trees: Iterable<Sampled>): void {
    const table = readProcesses();
    for (const sampled of trees) {
      let bytes = 0;
      const roots = new Set(
        table.filter((entry) => sampled.tracked.get(entry.pid) === entry.startTicks).map((entry) => entry.pid),
      );
      roots.add(sampled.pid);
      sampled.tracked.clear();
      for (const entry of withDescendants(table, roots)) {
        sampled.tracked.set(entry.pid, entry.startTicks);
        bytes += readPeakBytes(entry.pid) ?? 0;
      }
      if (bytes > 0) sampled.peakMemoryBytes = Math.max(sampled.peakMemoryBytes ?? 0, bytes);
    }
  }
}
