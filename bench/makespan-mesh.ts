/**
 * One simulated mesh of unequal machines working off a list of jobs: the product's own coordinator and agents, in virtual
 * time (test/sim), over a simulated network, database and tasks. Returns when each job was done, and what the bound of
 * bench/makespan-bound.ts must know: when which machine was down.
 */
import '../test/sim/quiet-host.js';
import { silentLogger } from '../common/log.js';
import type { AttemptSpec } from '../agent/core/types.js';
import type { PlanSettings } from '../coordinator/core/scheduler/types.js';
import type { JobRow } from '../coordinator/ports.js';
import { JobSpec, OnFailure } from '../proto/gen/mesh/v1/mesh.js';
import type { HistoryEvent } from '../test/history/events.js';
import { SimAgent } from '../test/sim/agent.js';
import { SimCoordinator } from '../test/sim/coordinator.js';
import { SimDatabase } from '../test/sim/database.js';
import { type Plan, TaskHost } from '../test/sim/executor.js';
import { Machine, WALL_START_MS } from '../test/sim/machine.js';
import { Network, NETWORK_DEFAULTS } from '../test/sim/network.js';
import { Recorder } from '../test/sim/recorder.js';
import { Tables } from '../test/sim/store/tables.js';
import { World } from '../test/sim/world.js';

export interface BenchNode {
  name: string;
  slots: number;
  /** Relative to the slowest kind of machine: what of a task's size a slot works off in a second. */
  speed: number;
  /** What a message from or to it takes longer, in milliseconds. */
  linkMs?: number;
  /** Its agent dies so often on average, in milliseconds, with all its tasks, and is back a few seconds later. */
  diesEveryMs?: number;
  /** Of attempts, those that it cannot start. */
  faultRate?: number;
}

export interface BenchJob {
  /** When it is submitted, in milliseconds from the first. */
  atMs: number;
  /** Of each task: milliseconds on a machine of speed 1. */
  sizesMs: readonly number[];
  speculate?: boolean;
}

export interface Outcome {
  /** From the first submission to the end of the last job. */
  makespanMs: number;
  /** Per node, from when to when it was down, in milliseconds from the first submission; the last may be open (Infinity). */
  down: { fromMs: number; toMs: number }[][];
  /** Simulated events: what the run cost. */
  events: number;
}

/** A task starts so long after its slot fell free, at most: about what spawning a process takes. */
const START_MS_MAX = 2;
const BACK_MS = [2000, 6000] as const;
const LIMIT_MS = 3_600_000;

/** Keeps what the bound needs and nothing else: a run has millions of events. */
class LifeRecorder extends Recorder {
  readonly lives: HistoryEvent[] = [];

  override add(event: HistoryEvent): void {
    if (event.kind === 'node-started' || event.kind === 'node-killed') this.lives.push(event);
  }
}

class BenchMesh {
  readonly world: World;
  readonly #recorder: LifeRecorder;
  readonly #tables: Tables;
  readonly #coordinator: SimCoordinator;
  readonly #agents: SimAgent[];
  readonly #rows = new Map<number, JobRow | undefined>();

  constructor(
    readonly nodes: readonly BenchNode[],
    readonly jobs: readonly BenchJob[],
    strategy: PlanSettings['strategy'],
    seed: number,
  ) {
    const world = new World(seed);
    this.world = world;
    const recorder = new LifeRecorder(world);
    this.#recorder = recorder;
    const network = new Network(world, { ...NETWORK_DEFAULTS, delayMs: 0.3, lossRate: 0 });
    this.#tables = new Tables({ now: () => WALL_START_MS + world.nowMs });
    const database = new SimDatabase(world, this.#tables);
    this.#coordinator = new SimCoordinator({
      ...{ machine: new Machine(world, 'coordinator'), database, config: { strategy }, log: silentLogger },
      ...{ coordinators: () => [this.#coordinator.address], guardless: false },
      onExit: () => world.fail(new Error('the coordinator gave up')),
    });
    this.#agents = nodes.map((node) => {
      const machine = new Machine(world, node.name);
      if (node.linkMs) network.slow(machine, node.linkMs);
      const settings = { speed: node.speed, dieTogether: true, killMsMax: 50, startMsMax: START_MS_MAX };
      const host = new TaskHost(machine, recorder, (attempt) => this.#plan(node, attempt), settings);
      return new SimAgent({
        ...{ machine, network, host, slots: node.slots, recorder, log: silentLogger },
        ...{ coordinators: () => [this.#coordinator], tap: () => ({}), fenceless: false, forgetful: false },
      });
    });
  }

  async run(): Promise<Outcome> {
    const { world, jobs } = this;
    this.#coordinator.start();
    await world.runUntil(() => this.#coordinator.leads, LIMIT_MS);
    for (const agent of this.#agents) agent.start();
    // Everybody is registered, and the first heartbeats have told how far away they are.
    await world.runUntil(() => false, world.nowMs + 10_000);
    const beganMs = world.nowMs;
    this.#agents.forEach((agent, at) => this.#breakNowAndThen(agent, this.nodes[at] as BenchNode));
    jobs.forEach((job, at) => world.after(job.atMs, () => this.#submit(at, job)));
    const status = (seq: number) => this.#tables.jobs.get(seq)?.status;
    await world.runUntil(
      () =>
        this.#rows.size === jobs.length &&
        [...this.#rows.keys()].every((seq) => status(seq) !== 'QUEUED' && status(seq) !== 'RUNNING'),
      beganMs + LIMIT_MS,
    );
    for (const seq of this.#rows.keys())
      if (status(seq) !== 'COMPLETED') throw new Error(`job ${seq} is ${status(seq)} in the end`);
    return { makespanMs: world.nowMs - beganMs, down: this.#down(beganMs), events: world.events };
  }

  #plan(node: BenchNode, { job, index }: AttemptSpec): Plan {
    const { random } = this.world;
    const at = Number(/\d+$/.exec(this.#tables.jobs.get(job)?.name ?? '')?.[0]);
    const durationMs = this.jobs[at]?.sizesMs[index] as number;
    return { durationMs, outcome: node.faultRate && random.chance(node.faultRate) ? 'node-fault' : 'succeeded' };
  }

  #breakNowAndThen(agent: SimAgent, node: BenchNode): void {
    if (!node.diesEveryMs) return;
    const { world } = this;
    world.after(world.random.exponential(node.diesEveryMs), () => {
      agent.kill({ powerCut: false });
      world.after(world.random.integer(...BACK_MS), () => {
        agent.start();
        this.#breakNowAndThen(agent, node);
      });
    });
  }

  #submit(at: number, { sizesMs, speculate = false }: BenchJob): void {
    const taskCount = sizesMs.length;
    const spec = JobSpec.fromPartial({
      ...{ name: `job-${at}`, work: { $case: 'process', value: { argv: ['x'], environment: {} } } as never, taskCount },
      ...{ array: taskCount > 1 ? { start: 0, step: 1 } : undefined, retries: 20, backoffMs: 0 },
      ...{ onFailure: OnFailure.FINISH, speculate },
    });
    const items = (async function* () {})();
    const actor = { name: 'submitter/anna', address: '', certificate: '' };
    const key = `job-${at}`;
    this.#coordinator.process.enter(() => {
      const { plane } = this.#coordinator;
      if (!plane) return this.world.fail(new Error('nobody leads'));
      plane.intake
        .submit({ actor, submitter: 'anna', idempotencyKey: key, spec, items, hasItems: false })
        .then((row) => this.#rows.set(row.seq, row))
        .catch((error: unknown) => this.world.fail(error));
    });
  }

  #down(beganMs: number): Outcome['down'] {
    return this.nodes.map(({ name }) => {
      const down: { fromMs: number; toMs: number }[] = [];
      for (const event of this.#recorder.lives) {
        if ((event.kind !== 'node-killed' && event.kind !== 'node-started') || event.node !== name) continue;
        if (event.kind === 'node-killed') down.push({ fromMs: event.atMs - beganMs, toMs: Infinity });
        else if (down.length > 0) (down.at(-1) as { toMs: number }).toMs = event.atMs - beganMs;
      }
      return down;
    });
  }
}

export async function workOff(
  nodes: readonly BenchNode[],
  jobs: readonly BenchJob[],
  strategy: PlanSettings['strategy'],
  seed: number,
): Promise<Outcome> {
  const mesh = new BenchMesh(nodes, jobs, strategy, seed);
  let rejected: ((error: unknown) => void) | undefined = (error) => mesh.world.fail(error);
  const unhandled = (error: unknown) => rejected?.(error);
  process.on('unhandledRejection', unhandled);
  try {
    return await mesh.run();
  } finally {
    process.off('unhandledRejection', unhandled);
    rejected = undefined;
  }
}
