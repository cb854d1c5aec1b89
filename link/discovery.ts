/**
 * Finds coordinators over mDNS: browses `_mesh._tcp` on every interface, asks again at growing intervals and follows the
 * machine's interfaces. What it finds are hints (candidates.ts). Goodbyes mean nothing here: a session lives and dies by
 * its own connection. Where multicast cannot pass, addresses given by hand or remembered serve instead.
 */
import type { Service as FoundService } from 'bonjour-service';
import type { Clock } from '../common/clock.js';
import type { Service } from '../common/lifecycle.js';
import type { Logger } from '../common/log.js';
import { type Candidate, Candidates, type Claim } from './candidates.js';
import type { Endpoint } from './endpoints.js';
import { type MulticastInterface, multicastInterfaces, openMulticast, PerInterface, SERVICE_TYPE } from './mdns.js';

export interface DiscoveryOptions {
  clock: Clock;
  log: Logger;
  /** SHA-256 of the mesh's root certificates, hex. Without them coordinators of every mesh are candidates. */
  rootDigests?: readonly string[] | undefined;
  interfaces?: () => MulticastInterface[];
  /** How often the interfaces are looked at. */
  scanMs?: number;
}

const SCAN_MS = 1000;
/** After the question that opens an interface, one at every 2nd, 4th, 8th, 16th look, then at every 16th. */
const QUESTION_TURNS_MAX = 16;
/** A browser remembers every name it ever saw; a new one remembers none. */
const NAMES_PER_BROWSER_MAX = 256;
const PROBLEMS_MAX = 32;

interface Browsing {
  ask(): void;
  close(): Promise<void>;
}

export class Discovery implements Service {
  readonly name = 'discovery';
  readonly #options: DiscoveryOptions;
  readonly #candidates: Candidates;
  readonly #interfaces: PerInterface<Browsing>;
  readonly #listeners = new Set<(candidate: Candidate) => void>();
  readonly #problems = new Set<string>();
  #turn = 1;

  constructor(options: DiscoveryOptions) {
    this.#options = options;
    this.#candidates = new Candidates(options.rootDigests);
    this.#interfaces = new PerInterface({
      name: 'discovery interfaces',
      clock: options.clock,
      everyMs: options.scanMs ?? SCAN_MS,
      interfaces: options.interfaces ?? multicastInterfaces,
      open: (entry) => this.#browse(entry),
      close: (browsing) => browsing.close(),
      onTurn: () => this.#askAgain(),
      onError: (error) => this.#problem('all', error),
    });
  }

  /** What is held now, at most 64. */
  get candidates(): Candidate[] {
    return this.#candidates.list;
  }

  /** Where it listens, for messages to people. */
  get interfaceNames(): string[] {
    return this.#interfaces.interfaceNames;
  }

  /** Claims by coordinators of other meshes so far. */
  get foreign(): number {
    return this.#candidates.foreign;
  }

  start(): Promise<void> {
    return this.#interfaces.start();
  }

  stop(): Promise<void> {
    this.#listeners.clear();
    return this.#interfaces.stop();
  }

  /** Looks at the interfaces and asks on all of them now: after a connection was lost, say. */
  rescan(): void {
    this.#turn = 0;
    this.#interfaces.rescan();
  }

  /** Calls `listener` for every candidate held and every new one, until the returned function is called. */
  onCandidate(listener: (candidate: Candidate) => void): () => void {
    this.#listeners.add(listener);
    for (const candidate of this.#candidates.list) listener(candidate);
    return () => this.#listeners.delete(listener);
  }

  /** A candidate led nowhere: its place is free, and it counts as new when it is claimed again. */
  forget(endpoint: Endpoint): void {
    this.#candidates.forget(endpoint);
  }

  #browse(entry: MulticastInterface): Browsing {
    const socket = openMulticast(entry.address, (error) => this.#problem(entry.name, error));
    let names = 0;
    const find = () => {
      const browser = socket.bonjour.find({ type: SERVICE_TYPE });
      browser.on('up', (service) => {
        // Emptied at once, so that every answer counts as news and nothing piles up.
        browser.services.splice(0);
        if (++names >= NAMES_PER_BROWSER_MAX && browser === current) {
          browser.stop();
          names = 0;
          current = find();
        }
        this.#observe(service);
      });
      return browser;
    };
    let current = find();
    return {
      ask: () => current.update(),
      close: () => {
        current.stop();
        return socket.close();
      },
    };
  }

  #observe(service: FoundService): void {
    for (const candidate of this.#candidates.observe(service as Claim))
      for (const listener of this.#listeners) listener(candidate);
  }

  #askAgain(): void {
    const turn = this.#turn++;
    const every = Math.min(QUESTION_TURNS_MAX, 2 ** Math.floor(Math.log2(turn + 1)));
    if (turn % every === 0) for (const browsing of this.#interfaces.values) browsing.ask();
  }

  /** Said once per interface and kind: a broken interface fails at every question. */
  #problem(where: string, error: unknown): void {
    const key = `${where} ${error instanceof Error ? error.message : String(error)}`;
    if (this.#problems.has(key) || this.#problems.size >= PROBLEMS_MAX) return;
    this.#problems.add(key);
    this.#options.log.debug({ event: 'discovery.problem', interface: where, err: error }, 'mDNS does not work here');
  }
}
