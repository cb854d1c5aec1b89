/**
 * The mesh that chaos is made in: PostgreSQL, coordinators and agents as processes of their own, each agent behind a
 * wire that can be broken. As root on Linux every machine is a network namespace, they find each other over mDNS, wires
 * are broken with iptables, and a second coordinator stands by. Elsewhere all are on loopback with one coordinator, and
 * wires are broken in a proxy.
 */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import postgres from 'postgres';
import { systemClock } from '../../common/clock.js';
import { silentLogger } from '../../common/log.js';
import { EmbeddedPostgres } from '../../coordinator/postgres/embedded.js';
import type { HistoryEvent } from '../history/events.js';
import { FaultyProxy } from '../support/faulty-proxy.js';
import { Firewall, inside, noFirewall, type Way } from '../support/lan-mesh.js';
import { watchOver } from '../support/leftovers.js';
import { type Agent, Mesh } from '../support/mesh.js';
import { Lan } from '../support/netns.js';
import { freeze, thaw } from '../support/process-tree.js';
import type { Program, Spawner } from '../support/program.js';
import { noteTransitions, uptimeMs } from '../support/trail.js';

export const LEASE_MS = 5000;
const COORDINATOR = ['--heartbeat', '500ms', '--node-lease', `${LEASE_MS}ms`, '--leader-lease', '3s'];
const AGENT = ['--kill-grace', '300ms', '--stop-grace', '500ms'];

/** What lies between one agent and the others. */
export interface Wire {
  block(...ways: Way[]): void;
  /** Resets connections, for as long as it is not healed. */
  reset(): void;
  /** The interface goes down and comes back with another address; undefined where there is none. */
  unplug: (() => () => void) | undefined;
  heal(): void;
}

export class ChaosAgent {
  #agent: Agent | undefined;
  #frozen: number[] = [];

  constructor(
    readonly name: string,
    readonly slots: number,
    readonly wire: Wire,
    private readonly begin: () => Promise<Agent>,
    private readonly note: (event: HistoryEvent) => void,
  ) {}

  async start(): Promise<void> {
    this.#agent = await this.begin();
    this.note({ kind: 'node-awake', node: this.name, atMs: uptimeMs() });
    this.note({ kind: 'node-started', node: this.name, slots: this.slots, atMs: uptimeMs() });
  }

  /** What it leaves runs on and cannot be fenced until the next start: for the promises that is a sleep. */
  async kill(): Promise<void> {
    this.note({ kind: 'node-asleep', node: this.name, atMs: uptimeMs() });
    this.note({ kind: 'node-killed', node: this.name, atMs: uptimeMs() });
    await this.#agent?.program.kill();
  }

  async stop(): Promise<void> {
    await this.#agent?.program.stop();
  }

  freeze(): void {
    this.note({ kind: 'node-asleep', node: this.name, atMs: uptimeMs() });
    if (this.#agent?.program.running) this.#frozen = freeze(this.#agent.program.pid);
  }

  thaw(): void {
    thaw(this.#frozen);
    this.note({ kind: 'node-awake', node: this.name, atMs: uptimeMs() });
  }
}

export class ChaosCoordinator {
  #program: Program | undefined;

  constructor(
    readonly name: string,
    private readonly begin: () => Promise<Program>,
  ) {}

  get program(): Program {
    if (!this.#program) throw new Error(`the coordinator ${this.name} was not started`);
    return this.#program;
  }

  /** Again when the database went away while it started: it says so and ends, and services of a system are restarted. */
  async start(): Promise<void> {
    for (let restarts = 0; ; restarts++) {
      try {
        this.#program = await this.begin();
        return;
      } catch (error) {
        if (restarts === RESTARTS_MAX || !UNREACHED.test((error as Error).message)) throw error;
      }
    }
  }
}

const RESTARTS_MAX = 5;
const UNREACHED = /ended with code 3: mesh-coordinator: the database /;
const COORDINATORS = ['coordinator', 'standby'];
const PORT = 7443;

export class World {
  readonly events: HistoryEvent[] = [];
  readonly agents: ChaosAgent[] = [];
  readonly coordinators: ChaosCoordinator[];
  readonly mesh: Mesh;
  readonly #directory = mkdtempSync(join(tmpdir(), 'mesh-chaos-'));
  readonly #lan: Lan | undefined;
  readonly #proxies: FaultyProxy[] = [];
  readonly #postgres: EmbeddedPostgres;
  readonly #dismiss: () => void;
  #sql: postgres.Sql | undefined;

  constructor(names: readonly string[]) {
    this.#lan = noFirewall ? undefined : new Lan([...COORDINATORS, ...names], {});
    this.mesh = new Mesh({ mdns: this.#lan !== undefined });
    this.coordinators = COORDINATORS.slice(0, this.#lan ? 2 : 1).map(
      (name) => new ChaosCoordinator(name, () => this.#startCoordinator(name)),
    );
    // Marked by its folder alone: it bears no variable.
    this.#dismiss = watchOver('MESH_CHAOS=none', this.#directory);
    const settings = { fsync: 'off' };
    this.#postgres = new EmbeddedPostgres({
      ...{ directory: join(this.#directory, 'postgres'), log: silentLogger, clock: systemClock, settings },
    });
  }

  /** How machines are told apart here. */
  get place(): string {
    return noFirewall ? `on loopback: ${noFirewall}` : 'each machine in a network namespace of its own';
  }

  get trail(): string {
    return this.mesh.witness.path('trail');
  }

  get sql(): postgres.Sql {
    if (!this.#sql) throw new Error('the world has not begun');
    return this.#sql;
  }

  readonly note = (event: HistoryEvent): void => void this.events.push(event);

  async start(slots: ReadonlyMap<string, number>): Promise<void> {
    await this.#postgres.start();
    const { host, port, user, password, database } = this.#postgres.connection;
    this.#sql = postgres({ host, port, user, password, database, max: 2, onnotice: () => undefined });
    const home = this.#lan?.host('coordinator');
    if (home) this.mesh.enter = ['ip', 'netns', 'exec', home.namespace];
    for (const coordinator of this.coordinators) await coordinator.start();
    await noteTransitions(this.sql);
    for (const [name, count] of slots) this.agents.push(await this.#makeAgent(name, count));
    await Promise.all(this.agents.map((agent) => agent.start()));
  }

  async #startCoordinator(name: string): Promise<Program> {
    const host = this.#lan?.host(name);
    const { host: socket, port, user, password, database } = this.#postgres.connection;
    const place = `host=${encodeURIComponent(socket)}&port=${port}`;
    const url = `postgres://${user}:${encodeURIComponent(password)}@/${database}?${place}`;
    const args = ['--listen', host?.address() ?? '127.0.0.1', '--database-url', url, '--name', name, ...COORDINATOR];
    // A machine of its own has every port free.
    if (host) args.push('--port', String(PORT));
    const { profile } = this.mesh;
    const isMore = profile !== '' && !existsSync(join(this.mesh.root, name));
    if (isMore) args.push('--join', await this.mesh.token('--role', 'coordinator', '--name', name));
    const { program } = await this.mesh.startCoordinator({
      data: name,
      args,
      ...(host ? { spawner: inside(host) } : {}),
    });
    if (profile !== '') this.mesh.profile = profile;
    return program;
  }

  killPostgres(): void {
    if (this.#postgres.pid !== undefined) process.kill(this.#postgres.pid, 'SIGKILL');
  }

  /** @returns what was left behind, or did not end as it should */
  async close(): Promise<string[]> {
    const problems = await this.mesh.close();
    await this.#sql?.end({ timeout: 5 });
    await this.#postgres.stop();
    for (const proxy of this.#proxies) await proxy.close();
    this.#lan?.close();
    rmSync(this.#directory, { recursive: true, force: true });
    this.#dismiss();
    return problems;
  }

  async #makeAgent(name: string, slots: number): Promise<ChaosAgent> {
    const args = [...AGENT, '--slots', String(slots)];
    const host = this.#lan?.host(name);
    let wire: Wire;
    let spawner: Spawner | undefined;
    if (host) {
      spawner = inside(host);
      wire = lanWire(this.#lan as Lan, name);
    } else {
      const proxy = new FaultyProxy(() => this.mesh.coordinator.ready.address);
      await proxy.listen();
      this.#proxies.push(proxy);
      args.push('--coordinator', proxy.address);
      wire = proxyWire(proxy);
    }
    const begin = (): Promise<Agent> => this.mesh.startAgent(name, { args, spawner });
    return new ChaosAgent(name, slots, wire, begin, this.note);
  }
}

function lanWire(lan: Lan, name: string): Wire {
  const host = lan.host(name);
  const firewall = new Firewall(host);
  let addresses = 0;
  return {
    block: (...ways) => firewall.isolate(...ways),
    reset: () => firewall.reset(),
    heal: () => firewall.heal(),
    unplug: () => {
      host.ip('link', 'set', 'eth0', 'down');
      host.ip('address', 'flush', 'dev', 'eth0');
      // Nobody else's: each host has a range of its own.
      const address = `10.88.0.${100 + 20 * Number(host.address().split('.').at(-1)) + (addresses++ % 20)}`;
      return () => {
        host.ip('address', 'add', `${address}/24`, 'broadcast', '+', 'dev', 'eth0');
        host.ip('link', 'set', 'eth0', 'up');
      };
    },
  };
}

function proxyWire(proxy: FaultyProxy): Wire {
  return {
    block: (...ways) => {
      if (ways.includes('in')) proxy.hold('down');
      if (ways.includes('out')) proxy.hold('up');
    },
    reset: () => proxy.refuse(true),
    heal: () => {
      proxy.refuse(false);
      proxy.release('up');
      proxy.release('down');
    },
    unplug: undefined,
  };
}
