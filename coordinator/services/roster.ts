/**
 * Which coordinators there are. Each keeps a row of itself in the database and reads those of the others every
 * second, so whoever speaks to one learns where all of them are, the leader first, and follows without being told. One
 * that was not seen for a while is no longer named; a wrong address costs whoever tries it a moment, never correctness.
 */
import type { Clock } from '../../common/clock.js';
import { MeshError } from '../../common/errors.js';
import type { Service } from '../../common/lifecycle.js';
import type { Logger } from '../../common/log.js';
import { Loop } from '../../common/loop.js';
import { packageVersion } from '../../common/package.js';
import type { CoordinatorStore } from '../ports.js';

const EVERY_MS = 1000;
const UNSEEN_MS_MAX = 30_000;
/** What agents and profiles remember. */
const ADDRESSES_MAX = 16;

export interface RosterOptions {
  store: CoordinatorStore;
  /** This coordinator in the leader's lease. */
  id: string;
  name: string;
  /** Where it may be reached, as `host:port`. */
  addresses: () => string[];
  leads: () => boolean;
  /** The step of a rotation of the root that this coordinator has taken. */
  trustGeneration: () => number;
  clock: Clock;
  log: Logger;
}

export interface LiveCoordinator {
  name: string;
  addresses: string[];
  leader: boolean;
  version: string;
  trustGeneration: number;
  lastSeenAtMs: number;
}

export class Roster implements Service {
  readonly name = 'roster';
  readonly #options: RosterOptions;
  readonly #loop: Loop;
  #others: LiveCoordinator[] = [];
  /** Read with each turn: every heartbeat asks for the list, and asking the system for its interfaces is no small thing. */
  #own: string[] = [];
  /** What `addresses` answers until the next look, or until this coordinator leads or no longer does. */
  #known: { leads: boolean; addresses: string[] } = { leads: false, addresses: [] };
  #mayHaveChanged = true;

  constructor(options: RosterOptions) {
    this.#options = options;
    this.#loop = new Loop({
      name: 'roster.refresh',
      clock: options.clock,
      everyMs: EVERY_MS,
      turn: () => this.#turn(),
      onError: (error) => options.log.warn({ event: 'roster.stale', err: error }, 'could not read the coordinators'),
    });
  }

  async start(): Promise<void> {
    this.#look();
    await this.#loop.start();
  }

  async stop(): Promise<void> {
    await this.#loop.stop();
    await this.#options.store.withdraw(this.#options.id).catch((error: unknown) => {
      this.#options.log.warn({ event: 'roster.not-withdrawn', err: error });
    });
  }

  /** Looks now: this coordinator began or ceased to lead, or has an address at last. */
  refresh(): void {
    this.#look();
    this.#loop.wake();
  }

  #look(): void {
    this.#own = this.#options.addresses();
    this.#mayHaveChanged = true;
  }

  /** No other coordinator is known. */
  get alone(): boolean {
    return this.#others.length === 0;
  }

  /** All live ones, the leader first, then this one. */
  list(): LiveCoordinator[] {
    const { name, leads, trustGeneration, clock } = this.#options;
    const leader = leads();
    const own = {
      name,
      addresses: this.#own,
      leader,
      version: packageVersion,
      trustGeneration: trustGeneration(),
      lastSeenAtMs: Math.round(clock.wallMs()),
    };
    // Until the next look the others may still be said to lead.
    const others = leader ? this.#others.map((other) => ({ ...other, leader: false })) : this.#others;
    return [own, ...others].sort((a, b) => Number(b.leader) - Number(a.leader));
  }

  /**
   * Where the mesh may be reached, as `host:port`, the leader's addresses first; at most 16. The same array until something
   * has changed: every heartbeat of every agent asks.
   */
  addresses(): string[] {
    const leads = this.#options.leads();
    if (this.#mayHaveChanged || this.#known.leads !== leads) {
      const [gathered, { addresses }] = [this.#gather(), this.#known];
      this.#known = { leads, addresses: gathered.join() === addresses.join() ? addresses : gathered };
      this.#mayHaveChanged = false;
    }
    return this.#known.addresses;
  }

  #gather(): string[] {
    const all = this.list();
    const share = Math.max(1, Math.floor(ADDRESSES_MAX / all.length));
    return [...new Set(all.flatMap(({ addresses }) => addresses.slice(0, share)))].slice(0, ADDRESSES_MAX);
  }

  /** What a coordinator that stands by answers to whom it cannot serve. */
  notLeader(): MeshError {
    const leader = this.list().find((coordinator) => coordinator.leader);
    const where = leader ? `${leader.name} leads, at ${leader.addresses[0] ?? 'no address'}` : 'nobody leads right now';
    return new MeshError('NOT_LEADER', `this coordinator stands by: ${where}`, { coordinators: this.addresses() });
  }

  async #turn(): Promise<void> {
    const { store, id, name, trustGeneration, clock } = this.#options;
    this.#look();
    await store.announce({
      id,
      name,
      addresses: this.#own,
      version: packageVersion,
      trustGeneration: trustGeneration(),
    });
    const rows = await store.list(UNSEEN_MS_MAX);
    this.#others = rows
      .filter((row) => row.id !== id)
      .map(({ name, addresses, leader, version, trustGeneration, ageMs }) => ({
        ...{ name, addresses, leader, version, trustGeneration },
        lastSeenAtMs: Math.round(clock.wallMs() - ageMs),
      }));
    this.#mayHaveChanged = true;
  }
}
