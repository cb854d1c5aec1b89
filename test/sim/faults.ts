/**
 * What breaks, when, and for how long: drawn from the seed, several at a time, until everything is healed at once. A
 * fault is a function that breaks something and returns what mends it.
 */
import type { SimAgent } from './agent.js';
import type { SimCoordinator } from './coordinator.js';
import type { Machine } from './machine.js';
import type { Mesh } from './simulation.js';

type Mend = () => void;
/** Undefined: there is nothing to break just now. */
type Break = (mesh: Mesh) => { target: string; mend: Mend } | undefined;

const aliveAgent = (mesh: Mesh): SimAgent | undefined => {
  const alive = mesh.agents.filter(({ process }) => process.alive && !process.stopped && !process.machine.asleep);
  return alive.length > 0 ? mesh.world.random.pick(alive) : undefined;
};

const aliveCoordinator = (mesh: Mesh): SimCoordinator | undefined => {
  const alive = mesh.coordinators.filter(({ process }) => process.alive && !process.stopped);
  return alive.length > 0 ? mesh.world.random.pick(alive) : undefined;
};

const killAgent =
  (powerCut: boolean): Break =>
  (mesh) => {
    const agent = aliveAgent(mesh);
    if (!agent) return undefined;
    agent.kill({ powerCut });
    return { target: agent.name, mend: () => agent.start() };
  };

/** Neither a stopped agent nor a sleeping machine can end tasks by the clock. */
const stopAgent: Break = (mesh) => {
  const agent = aliveAgent(mesh);
  if (!agent) return undefined;
  const { process, name } = agent;
  process.stop();
  mesh.recorder.add({ kind: 'node-asleep', atMs: mesh.world.nowMs, node: name });
  const mend = () => {
    process.resume();
    mesh.recorder.add({ kind: 'node-awake', atMs: mesh.world.nowMs, node: name });
  };
  return { target: name, mend };
};

const suspend: Break = (mesh) => {
  const agent = aliveAgent(mesh);
  if (!agent) return undefined;
  const { process, name } = agent;
  const { machine } = process;
  machine.suspend();
  mesh.recorder.add({ kind: 'node-asleep', atMs: mesh.world.nowMs, node: name });
  const mend = () => {
    mesh.recorder.add({ kind: 'node-awake', atMs: mesh.world.nowMs, node: name });
    machine.wake();
    process.catchUp();
  };
  return { target: name, mend };
};

type Ways = readonly ('up' | 'down')[];

/** Packets of one node are lost: towards every coordinator or one, in one direction or both. */
const partition =
  (ways: Ways): Break =>
  (mesh) => {
    const { network, world } = mesh;
    const agent = world.random.pick(mesh.agents);
    const from = agent.options.machine;
    const all = mesh.coordinators.map(({ process }) => process.machine);
    const to = world.random.chance(0.7) ? all : [world.random.pick(all)];
    const pairs = to.flatMap((machine): [Machine, Machine][] => [
      ...(ways.includes('up') ? [[from, machine] as [Machine, Machine]] : []),
      ...(ways.includes('down') ? [[machine, from] as [Machine, Machine]] : []),
    ]);
    const fresh = pairs.filter(([a, b]) => !network.isCut(a, b));
    if (fresh.length === 0) return undefined;
    for (const [a, b] of fresh) network.cut(a, b);
    return { target: agent.name, mend: () => fresh.forEach(([a, b]) => network.heal(a, b)) };
  };

/** A connection breaks at once, and each side hears of it, or only one does. */
const reset: Break = (mesh) => {
  const { random } = mesh.world;
  const agent = random.pick(mesh.agents);
  const client = random.chance(0.7);
  agent.breakOff({ client, server: !client || random.chance(0.5) });
  return { target: agent.name, mend: () => undefined };
};

const killCoordinator: Break = (mesh) => {
  const coordinator = aliveCoordinator(mesh);
  if (!coordinator) return undefined;
  coordinator.kill();
  for (const agent of mesh.agents) agent.lost(coordinator);
  return {
    target: coordinator.name,
    mend: () => {
      if (!coordinator.process.alive) coordinator.start();
    },
  };
};

const stopCoordinator: Break = (mesh) => {
  const coordinator = aliveCoordinator(mesh);
  if (!coordinator) return undefined;
  const { process, name } = coordinator;
  process.stop();
  return { target: name, mend: () => process.resume() };
};

const database =
  (change: (mesh: Mesh) => Mend): Break =>
  (mesh) => ({ target: 'database', mend: change(mesh) });

const databaseDown = database(({ database: it }) => {
  it.isDown = true;
  return () => (it.isDown = false);
});

const databaseFlaky = database(({ database: it }) => {
  it.flaky = true;
  return () => (it.flaky = false);
});

const databaseSlow = database(({ database: it, world }) => {
  it.slowness = world.random.pick([20, 200, 1000]);
  return () => (it.slowness = 1);
});

/** Somebody sets a clock, by up to an hour either way. */
const clockJump: Break = (mesh) => {
  const { random } = mesh.world;
  const process = random.pick([...mesh.agents, ...mesh.coordinators]).process;
  process.machine.wallOffsetMs += (random.next() - 0.5) * 7_200_000;
  return { target: process.name, mend: () => undefined };
};

const FAULTS: readonly (readonly [name: string, weight: number, act: Break])[] = [
  ['agent-killed', 3, killAgent(false)],
  ['power-cut', 1, killAgent(true)],
  ['agent-stopped', 1, stopAgent],
  ['machine-asleep', 2, suspend],
  ['partition', 3, partition(['up', 'down'])],
  ['partition-up', 2, partition(['up'])],
  ['partition-down', 2, partition(['down'])],
  ['connection-reset', 3, reset],
  ['coordinator-killed', 3, killCoordinator],
  ['coordinator-stopped', 3, stopCoordinator],
  ['database-down', 1, databaseDown],
  ['database-flaky', 3, databaseFlaky],
  ['database-slow', 1, databaseSlow],
  ['clock-jump', 1, clockJump],
];

const ALL = FAULTS.flatMap((fault) => Array.from({ length: fault[1] }, () => fault));

export class FaultPlan {
  over = false;
  readonly #open = new Set<Mend>();

  constructor(private readonly mesh: Mesh) {}

  start(): void {
    const { world, scenario } = this.mesh;
    world.after(scenario.faultyMs, () => this.#healAll());
    this.#next();
  }

  #next(): void {
    const { world, scenario } = this.mesh;
    if (scenario.faultEveryMs === Number.POSITIVE_INFINITY) return;
    world.after(world.random.exponential(scenario.faultEveryMs), () => {
      if (this.over) return;
      this.#inject();
      this.#next();
    });
  }

  #inject(): void {
    const { mesh } = this;
    const { world, recorder, scenario } = mesh;
    const [fault, , act] = world.random.pick(ALL);
    const done = act(mesh);
    if (!done) return;
    const { target } = done;
    recorder.add({ kind: 'fault-injected', atMs: world.nowMs, fault, target });
    const mend = () => {
      if (!this.#open.delete(mend)) return;
      done.mend();
      recorder.add({ kind: 'fault-healed', atMs: world.nowMs, fault, target });
    };
    this.#open.add(mend);
    // Around the lease: much shorter, about as long, and longer.
    const { nodeLease } = scenario.config;
    world.after(world.random.exponential(nodeLease * world.random.pick([0.1, 0.5, 1, 2])), mend);
  }

  #healAll(): void {
    const { world, recorder } = this.mesh;
    this.over = true;
    for (const mend of [...this.#open]) mend();
    recorder.add({ kind: 'all-healed', atMs: world.nowMs });
  }
}
