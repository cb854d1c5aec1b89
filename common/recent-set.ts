/**
 * The same bounded memory on both ends of an ordered stream: the sender skips what the receiver still remembers. Both
 * sides `touch` the same keys in the same order with the same bound, so both forget the same key at the same time and
 * neither has to tell the other.
 */
export class RecentSet<K, V> {
  readonly #entries = new Map<K, V>();

  constructor(readonly sizeMax: number) {}

  /** The remembered value, now the most recent. */
  touch(key: K): V | undefined {
    const value = this.#entries.get(key);
    if (value === undefined) return undefined;
    this.#entries.delete(key);
    this.#entries.set(key, value);
    return value;
  }

  /** The remembered value; changes nothing. */
  get(key: K): V | undefined {
    return this.#entries.get(key);
  }

  /** Remembers a new key as the most recent and forgets the least recent beyond the bound. */
  put(key: K, value: V): void {
    this.#entries.delete(key);
    this.#entries.set(key, value);
    if (this.#entries.size <= this.sizeMax) return;
    for (const oldest of this.#entries.keys()) {
      this.#entries.delete(oldest);
      return;
    }
  }
}

/** How many job bodies a session remembers; part of the protocol. */
export const SESSION_BODIES_MAX = 1024;
