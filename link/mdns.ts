/**
 * What the two sides of discovery share: the service type and its TXT record, and one mDNS socket per interface.
 *
 * bonjour-service by itself joins and sends on one interface, and works out its addresses once. So there is one instance
 * per interface, told which by that interface's address, while its socket is bound to the wildcard: bound to the address
 * it would hear no multicast. This works without a default route, and on a machine that has nothing but loopback.
 */
import { networkInterfaces } from 'node:os';
import { Bonjour } from 'bonjour-service';
import type { Clock } from '../common/clock.js';
import type { Service } from '../common/lifecycle.js';
import { Loop } from '../common/loop.js';

/** `_mesh._tcp`, as bonjour-service names it. */
export const SERVICE_TYPE = 'mesh';
/** How much of the SHA-256 of the mesh's root certificate is in the TXT record, in hex digits. */
export const ID_LENGTH = 16;

export interface Advertisement {
  protocol: { min: number; max: number };
  /** The first 16 hex digits of the SHA-256 of the root certificate. A hint; the TLS profile decides. */
  id: string;
}

export const formatTxt = ({ protocol, id }: Advertisement): { v: string; id: string } => ({
  v: `${protocol.min}-${protocol.max}`,
  id,
});

/** What a TXT record says, or undefined when it is not exactly what we would have written. */
export function parseTxt(txt: unknown): Advertisement | undefined {
  if (typeof txt !== 'object' || txt === null) return undefined;
  const { v, id } = txt as Record<string, unknown>;
  if (typeof v !== 'string' || typeof id !== 'string' || !/^[0-9a-f]{16}$/.test(id)) return undefined;
  const range = /^(\d{1,4})-(\d{1,4})$/.exec(v);
  if (!range) return undefined;
  const [min, max] = [Number(range[1]), Number(range[2])];
  return min > max ? undefined : { protocol: { min, max }, id };
}

export interface MulticastInterface {
  name: string;
  /** The IPv4 address that tells the system which interface is meant. */
  address: string;
  /** Every address others may use, IPv4 first; no link-local IPv6. */
  addresses: string[];
  loopback: boolean;
}

const INTERFACES_MAX = 32;

/** Interfaces with an IPv4 address. Loopback is among them only when there is nothing else, or when it is asked for. */
export function multicastInterfaces(withLoopback = false): MulticastInterface[] {
  const found: MulticastInterface[] = [];
  for (const [name, entries = []] of Object.entries(networkInterfaces())) {
    const v4 = entries.filter((entry) => entry.family === 'IPv4').map((entry) => entry.address);
    const v6 = entries.filter((entry) => entry.family === 'IPv6' && !entry.address.startsWith('fe80:'));
    const [address] = v4;
    if (address === undefined) continue;
    const loopback = entries.some((entry) => entry.internal);
    found.push({ name, address, addresses: [...v4, ...v6.map((entry) => entry.address)], loopback });
  }
  const outside = found.filter((entry) => !entry.loopback);
  return (outside.length > 0 && !withLoopback ? outside : found).slice(0, INTERFACES_MAX);
}

/** The parts of bonjour-service that it keeps to itself and that we need: records of our own making, and its errors. */
interface Internals {
  server: {
    register(records: unknown[]): void;
    mdns: {
      on(event: 'error' | 'warning', listener: (error: Error) => void): void;
      respond(records: unknown[], done: (error?: Error | null) => void): void;
    };
  };
}

export interface MulticastSocket {
  bonjour: Bonjour;
  /** Answers queries for these from now on. */
  register(records: unknown[]): void;
  /** Sends these unasked. */
  respond(records: unknown[], done: (error?: Error | null) => void): void;
  close(): Promise<void>;
}

/** Nothing that goes wrong on the socket throws: it is told to `onProblem`, and the interface stays quiet. */
export function openMulticast(address: string, onProblem: (error: Error) => void): MulticastSocket {
  const options: Record<string, string> = { interface: address, bind: '0.0.0.0' };
  const bonjour = new Bonjour(options, onProblem);
  const { server } = bonjour as unknown as Internals;
  server.mdns.on('error', onProblem);
  server.mdns.on('warning', onProblem);
  return {
    bonjour,
    register: (records) => server.register(records),
    respond: (records, done) => server.mdns.respond(records, done),
    close: () => new Promise((resolve) => bonjour.destroy(() => resolve())),
  };
}

export interface PerInterfaceOptions<T> {
  name: string;
  clock: Clock;
  /** How often the machine is asked for its interfaces. */
  everyMs: number;
  interfaces: () => MulticastInterface[];
  open: (entry: MulticastInterface) => T;
  close: (opened: T) => Promise<void>;
  /** Called after every look at the interfaces. */
  onTurn?: () => void;
  onError: (error: unknown) => void;
}

/** Holds one T per interface and follows the machine's interfaces as they come, go and change their addresses. */
export class PerInterface<T> implements Service {
  readonly name: string;
  readonly #options: PerInterfaceOptions<T>;
  readonly #opened = new Map<string, { entry: MulticastInterface; value: T }>();
  readonly #loop: Loop;

  constructor(options: PerInterfaceOptions<T>) {
    this.name = options.name;
    this.#options = options;
    this.#loop = new Loop({
      name: options.name,
      clock: options.clock,
      everyMs: options.everyMs,
      turn: () => this.#turn(),
      onError: options.onError,
    });
  }

  /** The names of the interfaces that are open now. */
  get interfaceNames(): string[] {
    return [...this.#opened.values()].map(({ entry }) => entry.name);
  }

  get values(): T[] {
    return [...this.#opened.values()].map(({ value }) => value);
  }

  /** Everything there is now is open when it resolves: the first turn opens without waiting. */
  start(): Promise<void> {
    return this.#loop.start();
  }

  /** Looks at the interfaces now. */
  rescan(): void {
    this.#loop.wake();
  }

  /** Closes everything, and opens it again with the next look. */
  async reopen(): Promise<void> {
    const values = this.values;
    this.#opened.clear();
    await Promise.all(values.map((value) => this.#options.close(value)));
    this.rescan();
  }

  async stop(): Promise<void> {
    await this.#loop.stop();
    const values = this.values;
    this.#opened.clear();
    await Promise.all(values.map((value) => this.#options.close(value)));
  }

  async #turn(): Promise<void> {
    const wanted = new Map(
      this.#options.interfaces().map((entry) => [[entry.name, ...entry.addresses].join(' '), entry]),
    );
    for (const [key, { value }] of this.#opened) {
      if (wanted.has(key)) continue;
      this.#opened.delete(key);
      await this.#options.close(value);
    }
    for (const [key, entry] of wanted)
      if (!this.#opened.has(key)) this.#opened.set(key, { entry, value: this.#options.open(entry) });
    this.#options.onTurn?.();
  }
}
