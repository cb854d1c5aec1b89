import type { Clock } from '../../common/clock.js';

const PER_SECOND_MAX = 25;
/** Whoever was asked has so long before it is asked again. */
const AGAIN_MS = 10_000;
const REMEMBERED_MAX = 10_000;

/**
 * Paces the renewals that a coordinator asks for: issuing takes milliseconds in the process that answers heartbeats, and
 * every renewal is a new connection. Whoever waits is asked with a later heartbeat.
 */
export class Asked {
  readonly #askedAtMs = new Map<string, number>();
  #second = Number.NEGATIVE_INFINITY;
  #inSecond = 0;

  constructor(private readonly clock: Clock) {}

  /** Whether the holder of this certificate may be asked now; it counts as asked then. */
  ask(serial: string): boolean {
    const nowMs = this.clock.monotonicMs();
    const askedAtMs = this.#askedAtMs.get(serial);
    if (askedAtMs !== undefined && nowMs - askedAtMs < AGAIN_MS) return false;
    const second = Math.floor(nowMs / 1000);
    if (second !== this.#second) this.#inSecond = 0;
    this.#second = second;
    if (this.#inSecond >= PER_SECOND_MAX) return false;
    this.#inSecond++;
    this.#askedAtMs.delete(serial);
    this.#askedAtMs.set(serial, nowMs);
    for (const oldest of this.#askedAtMs.keys()) {
      if (this.#askedAtMs.size <= REMEMBERED_MAX) break;
      this.#askedAtMs.delete(oldest);
    }
    return true;
  }
}
