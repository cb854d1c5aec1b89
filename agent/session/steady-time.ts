/**
 * Milliseconds that go on while the machine sleeps. Monotonic clocks stop in a sleep, the time since boot does not; the
 * distance between the two grows by what was slept. It is only ever counted upwards and never for less than the two
 * clocks' own noise, so a coarse boot clock makes a lease end early by that much, once, and never late.
 */
import type { Clock } from '../../common/clock.js';

/** The boot clock of Linux ticks in hundredths of a second. */
const NOISE_MS = 50;

export class SteadyTime {
  #distanceMs: number;
  #sleptMs = 0;

  constructor(
    private readonly clock: Clock,
    /** Since the machine was started, sleep included. */
    private readonly bootMs: () => number,
  ) {
    this.#distanceMs = bootMs() - clock.monotonicMs();
  }

  /** Never goes back. Origin as the monotonic clock's. */
  now(): number {
    const nowMs = this.clock.monotonicMs();
    const distanceMs = this.bootMs() - nowMs;
    if (distanceMs > this.#distanceMs + NOISE_MS) {
      this.#sleptMs += distanceMs - this.#distanceMs;
      this.#distanceMs = distanceMs;
    }
    return nowMs + this.#sleptMs;
  }

  /** How long the machine has slept since this was made, as far as `now` has seen. */
  get sleptMs(): number {
    return this.#sleptMs;
  }
}
