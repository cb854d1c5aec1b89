import type { Clock } from '../../common/clock.js';
import type { Logger } from '../../common/log.js';

const QUIET_MS = 60_000;
const KEYS_MAX = 512;

/** Who was turned away and why: the first time at once, then at most once a minute with the number of times since. */
export class RefusalLog {
  readonly #seen = new Map<string, { saidAtMs: number; since: number }>();

  constructor(
    private readonly log: Logger,
    private readonly clock: Clock,
  ) {}

  /** @param who an address, or an identity as `role/name` */
  refused(event: string, who: string, reason: string): void {
    const key = `${event} ${who} ${reason}`;
    const nowMs = this.clock.monotonicMs();
    const seen = this.#seen.get(key);
    if (seen && nowMs - seen.saidAtMs < QUIET_MS) {
      seen.since++;
      return;
    }
    if (this.#seen.size >= KEYS_MAX) this.#forgetOld(nowMs);
    if (!seen && this.#seen.size >= KEYS_MAX) return;
    this.#seen.set(key, { saidAtMs: nowMs, since: 0 });
    this.log.warn(
      {
        event,
        [who.includes('/') ? 'caller' : 'address']: who,
        reason,
        ...(seen?.since ? { repeated: seen.since } : {}),
      },
      reason,
    );
  }

  #forgetOld(nowMs: number): void {
    for (const [key, { saidAtMs }] of this.#seen) if (nowMs - saidAtMs >= QUIET_MS) this.#seen.delete(key);
  }
}
