/**
 * Runs of commands' plain ends on their way out. While a node has more to begin than ends it keeps to itself, nothing is won
 * by telling the coordinator at once: nobody waits for the room, and each time costs an entry in the journal, a message and a commit. So
 * those of all chains wait for each other.
 */
import type { Clock, Timer } from '../../common/clock.js';
import type { SucceededRun } from '../../proto/gen/mesh/v1/agent.js';

/** The first waits no longer than this for others. */
export const GATHER_MS = 250;

export interface GathererOptions {
  clock: Clock;
  /** How many attempts wait on this node to begin. */
  queued: () => number;
  /** Takes them all at once. */
  send: (runs: SucceededRun[]) => void;
}

export class Gatherer {
  readonly #options: GathererOptions;
  #runs: SucceededRun[] = [];
  #attempts = 0;
  #until: Timer | undefined;

  constructor(options: GathererOptions) {
    this.#options = options;
  }

  add(run: SucceededRun): void {
    this.#runs.push(run);
    this.#attempts += run.runUs.length;
    this.#until ??= this.#options.clock.after(GATHER_MS, () => this.release(), { background: true });
  }

  /** What could begin has begun: sends what there is, unless more than that still waits. */
  weigh(): void {
    if (this.#options.queued() <= this.#attempts) this.release();
  }

  /** Sends what there is. */
  release(): void {
    this.#until?.cancel();
    this.#until = undefined;
    const runs = this.#runs;
    if (runs.length === 0) return;
    [this.#runs, this.#attempts] = [[], 0];
    this.#options.send(runs);
  }
}
