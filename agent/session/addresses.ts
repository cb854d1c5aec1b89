import { type Endpoint, formatEndpoint, parseEndpoint } from '../../link/endpoints.js';

const ADDRESSES_MAX = 16;

/** Where coordinators of the mesh have been seen or said to be, the most promising first; bounded. */
export class Addresses {
  #list: string[];
  readonly #remember: (addresses: string[]) => void;

  /** @param remember called with the whole list whenever it has changed */
  constructor(remembered: readonly string[], remember: (addresses: string[]) => void) {
    this.#list = remembered.filter((address) => parsed(address) !== undefined).slice(0, ADDRESSES_MAX);
    this.#remember = remember;
  }

  get endpoints(): Endpoint[] {
    return this.#list.map(parsed).filter((endpoint) => endpoint !== undefined);
  }

  /** These before what was known. What is no address is passed over: it came from outside. */
  prefer(addresses: readonly string[]): void {
    const good = addresses
      .slice(0, ADDRESSES_MAX)
      .map(parsed)
      .filter((endpoint) => endpoint !== undefined);
    const list = [...new Set([...good.map(formatEndpoint), ...this.#list])].slice(0, ADDRESSES_MAX);
    if (list.join() === this.#list.join()) return;
    this.#list = list;
    this.#remember(list);
  }
}

function parsed(address: string): Endpoint | undefined {
  try {
    return parseEndpoint(address);
  } catch {
    return undefined;
  }
}
