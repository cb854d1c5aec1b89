/** The faults that chaos mixes: how each is injected, and how it is healed. */
import type { SeededRandom } from '../support/random.js';
import type { Way } from '../support/lan-mesh.js';
import type { ChaosAgent, World } from './world.js';
import { LEASE_MS } from './world.js';

/** Ends a fault; may take as long as a program needs to start. */
export type Heal = () => void | Promise<void>;

export interface Fault {
  kind: string;
  /** Of one another's targets, at most one fault at a time. */
  target: 'agent' | 'coordinator' | 'database';
  /** How long it lasts before it is healed. */
  lastsMs(random: SeededRandom): number;
  inject(world: World, agent: ChaosAgent, random: SeededRandom): Promise<Heal> | Heal;
}

const shortMs = (random: SeededRandom): number => random.integer(200, LEASE_MS / 2);
/** Now shorter than the lease, now longer. */
const anyMs = (random: SeededRandom): number => random.integer(500, 2 * LEASE_MS);
const momentMs = (random: SeededRandom): number => random.integer(50, 500);

const partition = (kind: string, ...ways: Way[]): Fault => ({
  kind,
  target: 'agent',
  lastsMs: anyMs,
  inject: (_, { wire }) => {
    wire.block(...ways);
    return () => wire.heal();
  },
});

export const FAULTS: readonly Fault[] = [
  {
    kind: 'agent killed',
    target: 'agent',
    lastsMs: anyMs,
    inject: async (_, agent) => {
      await agent.kill();
      return () => agent.start();
    },
  },
  {
    kind: 'agent restarted',
    target: 'agent',
    lastsMs: momentMs,
    inject: async (_, agent) => {
      await agent.stop();
      return () => agent.start();
    },
  },
  {
    kind: 'machine asleep',
    target: 'agent',
    lastsMs: anyMs,
    inject: (_, agent) => {
      agent.freeze();
      return () => agent.thaw();
    },
  },
  partition('partition, both ways', 'in', 'out'),
  partition('partition, to the agent', 'in'),
  partition('partition, from the agent', 'out'),
  {
    kind: 'connections reset',
    target: 'agent',
    lastsMs: momentMs,
    inject: (_, { wire }) => {
      wire.reset();
      return () => wire.heal();
    },
  },
  {
    kind: 'interface down, new address',
    target: 'agent',
    lastsMs: shortMs,
    inject: (_, { wire }) => wire.unplug?.() ?? (() => undefined),
  },
  {
    kind: 'coordinator killed',
    target: 'coordinator',
    lastsMs: shortMs,
    inject: async (world, _, random) => {
      const coordinator = random.pick(world.coordinators);
      await coordinator.program.kill();
      return () => coordinator.start();
    },
  },
  {
    kind: 'coordinator restarted',
    target: 'coordinator',
    lastsMs: momentMs,
    inject: async (world, _, random) => {
      const coordinator = random.pick(world.coordinators);
      await coordinator.program.stop();
      return () => coordinator.start();
    },
  },
  {
    kind: 'coordinator asleep',
    target: 'coordinator',
    lastsMs: anyMs,
    inject: (world, _, random) => {
      const { program } = random.pick(world.coordinators);
      program.signal('SIGSTOP');
      return () => program.signal('SIGCONT');
    },
  },
  {
    kind: 'PostgreSQL killed',
    target: 'database',
    lastsMs: shortMs,
    inject: (world) => {
      world.killPostgres();
      return () => undefined;
    },
  },
];

/** Those that can happen here. */
export const faultsFor = (world: World): Fault[] =>
  FAULTS.filter(({ kind }) => kind !== 'interface down, new address' || world.agents[0]?.wire.unplug !== undefined);
