import { type Endpoint, formatEndpoint, knownEndpoints } from '../../link/endpoints.js';

const ADDRESSES_MAX = 16;

/** Where coordinators of the mesh have been seen or said to be, the most promising first; bounded. */
export class Addresses {
  #list: string[];
  readonly #remember: (addresses: string[]) => void;

  /** @param remember called with the whole list whenever it has changed */
  constructor(remembered: readonly string[], remember: (addresses: string[]) => void) {
    this.#list = knownEndpoints(remembered).slice(0, ADDRESSES_MAX).map(formatEndpoint);
    this.#remember = remember;
  }

  get endpoints(): Endpoint[] {
    return knownEndpoints(this.#list);
  }

  /** These before what was known. What is no address is passed over: it came from outside. */
  prefer(addresses: readonly string[]): void {
    const good = knownEndpoints(addresses.slice(0, ADDRESSES_MAX));
    const list = [...new Set([...good.map(formatEndpoint), ...this.#list])].slice(0, ADDRESSES_MAX);
    if (list.join() === this.#list.join()) return;
    this.#list = list;
    this.#remember(list);
  }
}
