/** Heartbeats whose answer may still come; an answer to anything older proves nothing we need. */
const OUTSTANDING_MAX = 64;

/**
 * The agent's side of its lease. It counts from the moment the last *answered* heartbeat was sent, the coordinator's
 * from the moment it was received; so this one always ends first, without comparing clocks. Times are monotonic
 * milliseconds that the caller passes in.
 */
export class LeaseClock {
  #leaseMs: number;
  #endsAtMs: number | undefined;
  readonly #outstanding = new Map<number, number>();

  constructor(leaseMs: number) {
    this.#leaseMs = leaseMs;
  }

  /** The coordinator's word at each welcome; counts from the next answer on. */
  setLease(leaseMs: number): void {
    this.#leaseMs = leaseMs;
  }

  /** Undefined until the first heartbeat was answered. */
  get endsAtMs(): number | undefined {
    return this.#endsAtMs;
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
    this.#endsAtMs = Math.max(this.#endsAtMs ?? Number.NEGATIVE_INFINITY, sentMs + this.#leaseMs);
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
