/**
 * The network: connections between processes on machines, and cuts between machines. A connection is ordered and
 * loses nothing, as TCP does; what is lost on the way comes later. A cut in one direction holds what is sent there until
 * it heals or the connection has been given up; so messages of a session that one side has long left may still arrive.
 */
import type { Machine, Process } from './machine.js';
import type { World } from './world.js';

export interface NetworkSettings {
  /** One way, on average and at most. */
  delayMs: number;
  delayMsMax: number;
  /** What a lost packet costs, and how often one is lost. */
  retransmitMs: number;
  lossRate: number;
  /** A held connection survives its cut with this chance. */
  survivalRate: number;
}

export const NETWORK_DEFAULTS: NetworkSettings = {
  delayMs: 1,
  delayMsMax: 40,
  retransmitMs: 220,
  lossRate: 0.005,
  survivalRate: 0.6,
};

const key = (from: Machine, to: Machine): string => `${from.name}>${to.name}`;

export class Network {
  readonly #cuts = new Set<string>();
  /** Machines behind a slow link, and what every message from or to them takes longer, in milliseconds. */
  readonly #slow = new Map<Machine, number>();
  readonly #pipes = new Set<Pipe>();

  constructor(
    readonly world: World,
    readonly settings: NetworkSettings = NETWORK_DEFAULTS,
  ) {}

  /** A link that is slow for good: every message from or to this machine takes so many milliseconds longer. */
  slow(machine: Machine, extraMs: number): void {
    this.#slow.set(machine, extraMs);
  }

  isCut(from: Machine, to: Machine): boolean {
    return this.#cuts.has(key(from, to));
  }

  cut(from: Machine, to: Machine): void {
    this.#cuts.add(key(from, to));
  }

  /** What was held arrives, late and in order; or its connection is found broken. */
  heal(from: Machine, to: Machine): void {
    if (!this.#cuts.delete(key(from, to))) return;
    for (const pipe of this.#pipes) if (pipe.from.machine === from && pipe.to.machine === to) pipe.healed();
  }

  /** One way between two processes. */
  pipe(from: Process, to: Process, broken: () => void): Pipe {
    const pipe = new Pipe(this, from, to, broken);
    this.#pipes.add(pipe);
    return pipe;
  }

  forget(pipe: Pipe): void {
    this.#pipes.delete(pipe);
  }

  delay(from: Machine, to: Machine): number {
    const { delayMs, delayMsMax, retransmitMs, lossRate } = this.settings;
    const { random } = this.world;
    const lost = random.chance(lossRate) ? retransmitMs * random.integer(1, 3) : 0;
    const extraMs = (this.#slow.get(from) ?? 0) + (this.#slow.get(to) ?? 0);
    return Math.min(delayMsMax, 0.1 + random.exponential(delayMs)) + lost + extraMs;
  }
}

export class Pipe {
  readonly #held: (() => void)[] = [];
  #lastMs = 0;
  #closed = false;

  constructor(
    private readonly network: Network,
    readonly from: Process,
    readonly to: Process,
    private readonly broken: () => void,
  ) {}

  /** Arrives after what was sent before it. */
  send(deliver: () => void): void {
    if (this.#closed) return;
    const { world } = this.network;
    const atMs = Math.max(this.#lastMs, world.nowMs + this.network.delay(this.from.machine, this.to.machine));
    this.#lastMs = atMs;
    world.after(atMs - world.nowMs, () => this.#arrive(deliver));
  }

  #arrive(deliver: () => void): void {
    if (this.#closed) return;
    if (this.#held.length > 0 || this.network.isCut(this.from.machine, this.to.machine)) this.#held.push(deliver);
    else this.to.enter(deliver);
  }

  healed(): void {
    const held = this.#held.splice(0);
    if (held.length === 0) return;
    const { world, settings } = this.network;
    if (!world.random.chance(settings.survivalRate)) return this.broken();
    for (const deliver of held) this.send(deliver);
  }

  close(): void {
    this.#closed = true;
    this.network.forget(this);
  }
}
