import type { Clock } from '../../common/clock.js';

/** A clock that stands still until it is told to move; timers fire in the order they are due. */
export class ManualClock implements Clock {
  #nowMs = 0;
  #wallOffsetMs: number;
  readonly #timers = new Set<{ dueMs: number; fire: () => void }>();

  constructor(wallMs = Date.now()) {
    this.#wallOffsetMs = wallMs;
  }

  monotonicMs = (): number => this.#nowMs;
  wallMs = (): number => this.#wallOffsetMs + this.#nowMs;

  after(delayMs: number, fire: () => void): { cancel(): void } {
    const timer = { dueMs: this.#nowMs + Math.max(0, delayMs), fire };
    this.#timers.add(timer);
    return { cancel: () => void this.#timers.delete(timer) };
  }

  /** Delays of the timers that wait, in milliseconds from now, soonest first. */
  get waiting(): number[] {
    return [...this.#timers].map(({ dueMs }) => dueMs - this.#nowMs).sort((a, b) => a - b);
  }

  /** Moves both clocks and fires what became due. */
  advance(ms: number): void {
    const untilMs = this.#nowMs + ms;
    for (;;) {
      const [next] = [...this.#timers].filter(({ dueMs }) => dueMs <= untilMs).sort((a, b) => a.dueMs - b.dueMs);
      if (!next) break;
      this.#timers.delete(next);
      this.#nowMs = next.dueMs;
      next.fire();
    }
    this.#nowMs = untilMs;
  }

  /** Sets the wall clock alone, as a person or NTP would. */
  jumpWall(ms: number): void {
    this.#wallOffsetMs += ms;
  }
}
