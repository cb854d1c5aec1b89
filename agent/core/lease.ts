/** Messages whose answer may still come; an answer to anything older proves nothing we need. */
const OUTSTANDING_MAX = 64;

/** How long before its end a lease is not relied on any more; see agent/session/fence.ts. */
export const fenceMarginMs = (leaseMs: number): number => Math.min(2000, leaseMs / 5);

/**
 * The agent's side of its lease. It counts from the moment the last *answered* message (hello or heartbeat) was sent, the
 * coordinator's from the moment it was received; so this one always ends first, without comparing clocks. Times are
 * milliseconds that the caller passes in, of a clock that does not stop in a sleep.
 */
export class LeaseClock {
  #leaseMs: number;
  #endsAtMs: number | undefined;
  /** The lease that ends then. */
  #grantedMs = 0;
  readonly #outstanding = new Map<number, number>();

  constructor(leaseMs: number) {
    this.#leaseMs = leaseMs;
  }

  /** The coordinator's word at each welcome; counts from the next answer on. */
  setLease(leaseMs: number): void {
    this.#leaseMs = leaseMs;
  }

  /** Undefined until the first message was answered. */
  get endsAtMs(): number | undefined {
    return this.#endsAtMs;
  }

  /** When what must not outlive the lease is to be ended. */
  get fenceAtMs(): number | undefined {
    return this.#endsAtMs === undefined ? undefined : this.#endsAtMs - fenceMarginMs(this.#grantedMs);
  }

  /** When the message was sent whose answer was the last proof of a coordinator. */
  get provedAtMs(): number | undefined {
    return this.#endsAtMs === undefined ? undefined : this.#endsAtMs - this.#grantedMs;
  }

  sent(sequence: number, nowMs: number): void {
    this.#outstanding.set(sequence, nowMs);
    if (this.#outstanding.size > OUTSTANDING_MAX) {
      const oldest = this.#outstanding.keys().next();
      if (!oldest.done) this.#outstanding.delete(oldest.value);
    }
  }

  /** Returns milliseconds between sending and `nowMs`; undefined for a heartbeat that was not outstanding. */
  answered(sequence: number, nowMs: number): number | undefined {
    const sentMs = this.#outstanding.get(sequence);
    if (sentMs === undefined) return undefined;
    for (const older of this.#outstanding.keys()) {
      if (older <= sequence) this.#outstanding.delete(older);
    }
    const endsAtMs = sentMs + this.#leaseMs;
    if (this.#endsAtMs === undefined || endsAtMs >= this.#endsAtMs) {
      this.#endsAtMs = endsAtMs;
      this.#grantedMs = this.#leaseMs;
    }
    return nowMs - sentMs;
  }

  /** A new session: answers of the old one cannot come any more. What was won stays won. */
  disconnected(): void {
    this.#outstanding.clear();
  }

  holds(nowMs: number): boolean {
    return this.#endsAtMs !== undefined && nowMs < this.#endsAtMs;
  }
}
