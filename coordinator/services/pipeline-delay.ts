import type { Clock } from '../../common/clock.js';

/** What is not measured here, the agent's batching and reading, is taken to be as long as what is. */
const UNSEEN_FACTOR = 2;
/** Rises fast, because a queue that is too short starves slots; falls slowly. */
const RISE = 0.5;
const FALL = 0.05;

/**
 * How long it takes from the news that slots fell free until their nodes have been told of new work: settling, planning,
 * committing, and waiting for the turns before. The planner sizes the agents' queues by it, so that slots do not wait for
 * the coordinator; under load it is longer, and the queues with it.
 */
export class PipelineDelay {
  #delayMs = 0;
  #heldMs = 0;
  #freedMs: number | undefined;
  #freedHeldMs = 0;

  constructor(
    private readonly clock: Clock,
    /** Assumed at least, in milliseconds. */
    private readonly leastMs: number,
    private readonly mostMs: number,
  ) {}

  get ms(): number {
    return Math.min(this.mostMs, Math.max(this.leastMs, this.#delayMs * UNSEEN_FACTOR));
  }

  /** What lies before it: how long nodes keep the news to themselves. */
  get heldMs(): number {
    return Math.min(this.mostMs, this.#heldMs);
  }

  /**
   * Results that arrived at this time (monotonic) were settled; the oldest since the last `told` counts.
   * @param heldMs how long their node had waited with the first of them
   */
  freed(receivedMs: number, heldMs: number): void {
    this.#freedMs = Math.min(this.#freedMs ?? receivedMs, receivedMs);
    this.#freedHeldMs = Math.max(this.#freedHeldMs, heldMs);
  }

  /** Nodes were told of new work. */
  told(): void {
    if (this.#freedMs === undefined) return;
    this.#delayMs = towards(this.#delayMs, this.clock.monotonicMs() - this.#freedMs);
    this.#heldMs = towards(this.#heldMs, this.#freedHeldMs);
    this.idle();
  }

  /** Nothing was waiting for the slots that fell free: that time says nothing. */
  idle(): void {
    this.#freedMs = undefined;
    this.#freedHeldMs = 0;
  }
}

const towards = (ms: number, sampleMs: number): number => ms + (sampleMs > ms ? RISE : FALL) * (sampleMs - ms);
