import type { Clock } from '../../common/clock.js';
import { TokenBuckets } from '../../common/token-bucket.js';
import type { DoorLimits } from './limits.js';

/** What a connection counts as. It starts as a handshake and becomes one of the others once. */
export type Kind = 'handshake' | 'nobody' | 'identity';

interface Tally {
  handshake: number;
  nobody: number;
  identity: number;
}

/**
 * Counts connections per address, per identity and in all, and says when one more is too many, or comes too soon. A rate is
 * the address's until it is known who comes; who proves to be an identity counts for that one instead, so that hundreds of
 * agents behind one address may return together, and none of them can knock without end.
 */
export class Census {
  readonly #limits: DoorLimits;
  readonly #clock: Clock;
  readonly #byAddress = new Map<string, Tally>();
  readonly #byIdentity = new Map<string, number>();
  readonly #arrivals: TokenBuckets;
  readonly #identityArrivals: TokenBuckets;
  #total = 0;

  constructor(limits: DoorLimits, clock: Clock) {
    this.#limits = limits;
    this.#clock = clock;
    const rate = { perSecond: limits.connectionsPerSecond, burst: limits.connectionsBurst };
    this.#arrivals = new TokenBuckets(rate);
    this.#identityArrivals = new TokenBuckets(rate);
  }

  get total(): number {
    return this.#total;
  }

  /** Counts one more handshake; returns why not, if it is one too many. */
  admit(address: string): string | undefined {
    const tally = this.#byAddress.get(address) ?? { handshake: 0, nobody: 0, identity: 0 };
    const { connectionsMax, perAddressMax, handshakesPerAddressMax } = this.#limits;
    if (this.#total >= connectionsMax) return 'too many connections in all (--max-connections)';
    if (tally.handshake + tally.nobody + tally.identity >= perAddressMax)
      return 'too many connections from this address (--max-connections-per-address)';
    if (tally.handshake >= handshakesPerAddressMax)
      return 'too many handshakes from this address (--max-handshakes-per-address)';
    if (this.#arrivals.take(address, this.#clock.monotonicMs()) > 0)
      return 'connections come too fast from this address (--max-connection-rate)';
    this.#byAddress.set(address, tally);
    tally.handshake++;
    this.#total++;
    return undefined;
  }

  /**
   * A handshake ended; returns why it may not stay, in which case it still counts as a handshake.
   * @param identity who it is, as `role/name`; '' for nobody
   */
  become(address: string, kind: 'nobody' | 'identity', identity: string): string | undefined {
    const tally = this.#byAddress.get(address);
    if (!tally) return undefined;
    const { nobodiesPerAddressMax, perIdentityMax } = this.#limits;
    if (kind === 'nobody' && tally.nobody >= nobodiesPerAddressMax)
      return 'too many connections without an identity from this address (--max-strangers-per-address)';
    const open = this.#byIdentity.get(identity) ?? 0;
    if (kind === 'identity' && open >= perIdentityMax)
      return `too many connections of ${identity} (--max-connections-per-identity)`;
    if (kind === 'identity') {
      const nowMs = this.#clock.monotonicMs();
      if (this.#identityArrivals.take(identity, nowMs) > 0)
        return `connections of ${identity} come too fast (--max-connection-rate)`;
      this.#arrivals.of(address, nowMs).giveBack();
    }
    tally.handshake--;
    tally[kind]++;
    if (kind === 'identity') this.#byIdentity.set(identity, open + 1);
    return undefined;
  }

  /** @param identity as `become` was told */
  leave(address: string, kind: Kind, identity: string): void {
    const tally = this.#byAddress.get(address);
    if (!tally) return;
    tally[kind]--;
    this.#total--;
    if (tally.handshake + tally.nobody + tally.identity === 0) this.#byAddress.delete(address);
    if (kind !== 'identity') return;
    const open = (this.#byIdentity.get(identity) ?? 1) - 1;
    if (open > 0) this.#byIdentity.set(identity, open);
    else this.#byIdentity.delete(identity);
  }
}
