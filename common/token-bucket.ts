/**
 * Rates. A bucket holds `burst` tokens and gets `perSecond` new ones each second; what is asked of it costs tokens. Time
 * is passed in (monotonic, milliseconds), so a bucket that nobody asks costs nothing.
 */
export interface Rate {
  perSecond: number;
  burst: number;
}

export class TokenBucket {
  #tokens: number;
  #atMs: number;

  constructor(
    private readonly rate: Rate,
    nowMs: number,
  ) {
    this.#tokens = rate.burst;
    this.#atMs = nowMs;
  }

  /** Takes a token. Returns 0, or how many milliseconds it takes until there is one. */
  take(nowMs: number): number {
    this.#fill(nowMs);
    if (this.#tokens < 1) return this.#untilMs(1);
    this.#tokens--;
    return 0;
  }

  /** One that was taken need not have been. */
  giveBack(): void {
    this.#tokens = Math.min(this.rate.burst, this.#tokens + 1);
  }

  /** Takes what has been used already, into debt if need be. Returns how long to wait until the debt is paid, or 0. */
  spend(tokens: number, nowMs: number): number {
    this.#fill(nowMs);
    this.#tokens -= tokens;
    return this.#tokens >= 0 ? 0 : this.#untilMs(0);
  }

  /** Whether it is as good as a new one. */
  isFull(nowMs: number): boolean {
    this.#fill(nowMs);
    return this.#tokens >= this.rate.burst;
  }

  #fill(nowMs: number): void {
    const gained = ((nowMs - this.#atMs) * this.rate.perSecond) / 1000;
    this.#tokens = Math.min(this.rate.burst, this.#tokens + gained);
    this.#atMs = nowMs;
  }

  #untilMs(tokens: number): number {
    return Math.max(1, Math.ceil(((tokens - this.#tokens) * 1000) / this.rate.perSecond));
  }
}

/**
 * A bucket for each key, of a bounded number of keys. Full buckets are forgotten first, being as good as new; then the
 * ones that were asked longest ago, so that a flood of keys costs memory no more than it may and its own keys first.
 */
export class TokenBuckets {
  readonly #buckets = new Map<string, TokenBucket>();

  constructor(
    private readonly rate: Rate,
    private readonly keysMax = 10_000,
  ) {}

  get size(): number {
    return this.#buckets.size;
  }

  /** Takes a token of the key's. Returns 0, or how many milliseconds it takes until there is one. */
  take(key: string, nowMs: number): number {
    return this.of(key, nowMs).take(nowMs);
  }

  of(key: string, nowMs: number): TokenBucket {
    const bucket = this.#buckets.get(key) ?? new TokenBucket(this.rate, nowMs);
    this.#buckets.delete(key);
    this.#buckets.set(key, bucket);
    if (this.#buckets.size > this.keysMax) this.#forget(nowMs);
    return bucket;
  }

  #forget(nowMs: number): void {
    for (const [key, bucket] of this.#buckets) if (bucket.isFull(nowMs)) this.#buckets.delete(key);
    for (const key of this.#buckets.keys()) {
      if (this.#buckets.size <= this.keysMax) break;
      this.#buckets.delete(key);
    }
  }
}
