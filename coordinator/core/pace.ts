/**
 * How fast nodes are, learned from what tasks took. A task of job j on node i takes about a(j) · b(i): the job's own time
 * and the node's pace. Each batch of results moves both: what is left of the logarithm once the node's pace and the job's
 * time are taken off, moves the pace a little, and the job's time learns from what the batch would have taken at the usual pace.
 *
 * Only ratios can be learned, so the usual pace, 1, is held where tasks mostly run: an average over all observations is taken
 * off again. Newcomers start there. What does not depend on the machine (a task that waits for something) draws the paces
 * together, and a job of it is soon taken to be as slow everywhere.
 *
 * A pace is of a node, not of a node and a kind of work: a machine that is slow at one thing mostly is at another, and a table
 * of both would grow with jobs times nodes. Kept in memory: a new leader learns again within some tasks of each node.
 */
import type { TaskTime } from './work.js';

/** An estimate follows about the last so many observations of the node. */
const MEMORY = 12;
/** One batch counts at most as so many observations. */
const BURST_MAX = 4;
/** No batch moves the estimate as if it were further off than this factor. */
const OUTLIER_LOG = Math.log(8);
/** No node is taken to be faster or slower than the usual by more. */
const PACE_LOG_MAX = Math.log(64);
/** How slowly the usual pace follows. */
const USUAL = 1 / 512;

/** What all nodes of a mesh share: where the usual pace is. */
export class Paces {
  #usual = 0;

  get usual(): number {
    return this.#usual;
  }

  follow(log: number): void {
    this.#usual += USUAL * (log - this.#usual);
  }
}

export class Pace {
  #log: number;
  #seen = 0;

  constructor(private readonly paces: Paces) {
    this.#log = paces.usual;
  }

  /** How long a task takes here relative to where tasks usually run; between 1/64 and 64. */
  get factor(): number {
    return this.#seen === 0 ? 1 : Math.exp(clamp(this.#log - this.paces.usual, PACE_LOG_MAX));
  }

  /** `count` tasks of the job ended here and ran for `totalMs` in sum: both learn. */
  observe(time: TaskTime, totalMs: number, count: number): void {
    if (!(count > 0) || !(totalMs >= 0)) return;
    const mean = totalMs / count;
    const usualMs = time.ms;
    if (usualMs !== undefined && usualMs > 0 && mean > 0) {
      const news = Math.min(count, BURST_MAX);
      const weight = news / (Math.min(this.#seen, MEMORY) + news);
      const off = Math.log(mean / usualMs) + this.paces.usual - this.#log;
      this.#log += weight * clamp(off, OUTLIER_LOG);
      this.#seen = Math.min(this.#seen + news, MEMORY);
      this.paces.follow(this.#log);
    }
    time.observe(totalMs / this.factor, count);
  }
}

const clamp = (value: number, most: number): number => Math.min(most, Math.max(-most, value));
