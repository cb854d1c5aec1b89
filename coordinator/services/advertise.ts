/**
 * Says over mDNS that a coordinator is here: `_mesh._tcp` on every interface, each with its own addresses only, so a
 * machine that hears it can use what it hears. The instance name is unique, so no other coordinator's goodbye takes this
 * one away; the SRV record names `<unique>.local`, which other implementations (Avahi) can resolve, unlike a bare host
 * name. Follows the interfaces as they come and go; with no network at all it speaks on loopback.
 *
 * Records are our own where bonjour-service would announce every address of the machine on every interface. Announced
 * when an interface opens and after 1, 3 and 9 seconds (RFC 6762 §8.3), then on demand; taken back when it stops.
 */
import { randomBytes } from 'node:crypto';
import { isIPv4 } from 'node:net';
import { Service as Records } from 'bonjour-service';
import { type Clock, pause } from '../../common/clock.js';
import type { Service } from '../../common/lifecycle.js';
import type { Logger } from '../../common/log.js';
import { PROTOCOL } from '../../common/package.js';
import {
  formatTxt,
  ID_LENGTH,
  type MulticastInterface,
  type MulticastSocket,
  multicastInterfaces,
  openMulticast,
  PerInterface,
  SERVICE_TYPE,
} from '../../link/mdns.js';

export interface AdvertiserOptions {
  clock: Clock;
  log: Logger;
  /** The coordinator's, shown to people who browse; a random part is added. */
  name: string;
  port: number;
  /** SHA-256 of the root whose chain the coordinator presents, hex. */
  rootDigest: () => string;
  /** When the door listens on one address only: nothing else is announced. */
  host?: string | undefined;
  interfaces?: () => MulticastInterface[];
  scanMs?: number;
}

const SCAN_MS = 3000;
const ANNOUNCE_AFTER_MS = [1000, 3000, 9000];
/** A name in DNS has 63 bytes; 9 of them are the random part. */
const NAME_LENGTH_MAX = 50;
const ADDRESS_TTL_S = 120;
const GOODBYE_MS_MAX = 500;
const PROBLEMS_MAX = 32;

interface DnsRecord {
  name: string;
  type: string;
  ttl: number;
  data: unknown;
}

interface Announcing {
  socket: MulticastSocket;
  records: DnsRecord[];
  stopped: AbortController;
}

export class Advertiser implements Service {
  readonly name = 'advertiser';
  /** The instance name in `_mesh._tcp.local`. */
  readonly instance: string;
  readonly #options: AdvertiserOptions;
  readonly #interfaces: PerInterface<Announcing>;
  readonly #problems = new Set<string>();

  constructor(options: AdvertiserOptions) {
    this.#options = options;
    this.instance = `${options.name.slice(0, NAME_LENGTH_MAX)}-${randomBytes(4).toString('hex')}`;
    // A door on loopback alone is announced there, so that agents of this machine find it.
    const interfaces = options.interfaces ?? (() => multicastInterfaces(options.host?.startsWith('127.')));
    this.#interfaces = new PerInterface({
      name: 'advertiser interfaces',
      clock: options.clock,
      everyMs: options.scanMs ?? SCAN_MS,
      interfaces: () => interfaces().flatMap((entry) => this.#reachable(entry)),
      open: (entry) => this.#announce(entry),
      close: (announcing) => this.#withdraw(announcing),
      onError: (error) => this.#problem('all', error),
    });
  }

  /** The interfaces it speaks on. */
  get interfaceNames(): string[] {
    return this.#interfaces.interfaceNames;
  }

  start(): Promise<void> {
    return this.#interfaces.start();
  }

  stop(): Promise<void> {
    return this.#interfaces.stop();
  }

  /** Looks at the interfaces now. */
  rescan(): void {
    this.#interfaces.rescan();
  }

  /** The root is another one: what was announced is taken back and said anew, everywhere. */
  announceAnew(): void {
    void this.#interfaces.reopen().catch((error: unknown) => this.#problem('all', error));
  }

  /** What of an interface leads to the door. */
  #reachable(entry: MulticastInterface): MulticastInterface[] {
    const { host } = this.#options;
    if (host === undefined || host === '::' || host === '0.0.0.0') return [entry];
    return entry.addresses.includes(host) ? [{ ...entry, addresses: [host] }] : [];
  }

  #announce(entry: MulticastInterface): Announcing {
    const socket = openMulticast(entry.address, (error) => this.#problem(entry.name, error));
    const records = this.#records(entry.addresses);
    const stopped = new AbortController();
    socket.register(records);
    void this.#repeat({ socket, records, stopped });
    return { socket, records, stopped };
  }

  async #repeat({ socket, records, stopped }: Announcing): Promise<void> {
    socket.respond(records, () => undefined);
    for (const delayMs of ANNOUNCE_AFTER_MS) {
      await pause(this.#options.clock, delayMs, stopped.signal);
      if (stopped.signal.aborted) return;
      socket.respond(records, () => undefined);
    }
  }

  /** Sends a goodbye if the interface still takes it, and closes. */
  async #withdraw({ socket, records, stopped }: Announcing): Promise<void> {
    stopped.abort();
    const gone = records.map((record) => ({ ...record, ttl: 0 }));
    const sent = new AbortController();
    socket.respond(gone, () => sent.abort());
    await pause(this.#options.clock, GOODBYE_MS_MAX, sent.signal);
    await socket.close();
  }

  #records(addresses: string[]): DnsRecord[] {
    const { port, rootDigest } = this.#options;
    const host = `${this.instance}.local`;
    const txt = formatTxt({ protocol: PROTOCOL, id: rootDigest().slice(0, ID_LENGTH) });
    const none = () => undefined;
    const service = new Records({ name: this.instance, type: SERVICE_TYPE, port, host, txt }, none, none);
    const own = (service.records() as DnsRecord[]).filter(({ type }) => type !== 'A' && type !== 'AAAA');
    const ours = addresses.map((data) => ({
      name: host,
      type: isIPv4(data) ? 'A' : 'AAAA',
      ttl: ADDRESS_TTL_S,
      data,
    }));
    return [...own, ...ours];
  }

  /** Said once per interface and kind. */
  #problem(where: string, error: unknown): void {
    const key = `${where} ${error instanceof Error ? error.message : String(error)}`;
    if (this.#problems.has(key) || this.#problems.size >= PROBLEMS_MAX) return;
    this.#problems.add(key);
    this.#options.log.warn({ event: 'advertise.problem', interface: where, err: error }, 'mDNS does not work here');
  }
}
