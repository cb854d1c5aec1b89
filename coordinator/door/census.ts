import type { DoorLimits } from './limits.js';

/** What a connection counts as. It starts as a handshake and becomes one of the others once. */
export type Kind = 'handshake' | 'nobody' | 'identity';

interface Tally {
  handshake: number;
  nobody: number;
  identity: number;
}

/** Counts connections per address and in all, and says when one more is too many. */
export class Census {
  readonly #limits: DoorLimits;
  readonly #byAddress = new Map<string, Tally>();
  #total = 0;

  constructor(limits: DoorLimits) {
    this.#limits = limits;
  }

  get total(): number {
    return this.#total;
  }

  /** Counts one more handshake; returns why not, if it is one too many. */
  admit(address: string): string | undefined {
    const tally = this.#byAddress.get(address) ?? { handshake: 0, nobody: 0, identity: 0 };
    if (this.#total >= this.#limits.connectionsMax) return 'too many connections in all';
    if (tally.handshake + tally.nobody + tally.identity >= this.#limits.perAddressMax)
      return 'too many connections from this address';
    if (tally.handshake >= this.#limits.handshakesPerAddressMax) return 'too many handshakes from this address';
    this.#byAddress.set(address, tally);
    tally.handshake++;
    this.#total++;
    return undefined;
  }

  /** A handshake ended; returns why it may not stay, in which case it still counts as a handshake. */
  become(address: string, kind: 'nobody' | 'identity'): string | undefined {
    const tally = this.#byAddress.get(address);
    if (!tally) return undefined;
    if (kind === 'nobody' && tally.nobody >= this.#limits.nobodiesPerAddressMax)
      return 'too many connections without an identity from this address';
    tally.handshake--;
    tally[kind]++;
    return undefined;
  }

  leave(address: string, kind: Kind): void {
    const tally = this.#byAddress.get(address);
    if (!tally) return;
    tally[kind]--;
    this.#total--;
    if (tally.handshake + tally.nobody + tally.identity === 0) this.#byAddress.delete(address);
  }
}
