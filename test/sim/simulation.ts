/** One run of one seed: a mesh is set up, works while things break, is healed, drains, and its history is checked. */
import './quiet-host.js';
import { silentLogger } from '../../common/log.js';
import type { CoordinatorConfig } from '../../coordinator/coordinator.js';
import { check, type Violation } from '../history/check.js';
import type { HistoryEvent } from '../history/events.js';
import { SimAgent } from './agent.js';
import { SimCoordinator } from './coordinator.js';
import { SimDatabase } from './database.js';
import { FaultPlan } from './faults.js';
import { TaskHost } from './executor.js';
import { Machine, WALL_START_MS } from './machine.js';
import { Network } from './network.js';
import { Recorder } from './recorder.js';
import { type Scenario, scenarioOf } from './scenario.js';
import { Tables } from './store/tables.js';
import { traceLogger } from './trace-log.js';
import { Witness } from './witness.js';
import { Workload } from './workload.js';
import { World } from './world.js';

/**
 * What the promises rest on, taken away one at a time in the simulator's own parts: a checker that finds nothing wrong
 * then would be worth nothing.
 *
 * generation-guard   neither the database nor the coordinator's memory asks which attempt of a task a result is of.
 * epoch-guard        the database lets a former leader write.
 * acknowledge-early  a submitter hears that its job is safe before it is committed.
 * no-fence           an agent's lease never ends: it kills nothing when it is cut off.
 * lose-outbox        what an agent keeps of results does not outlive its process.
 */
export const MUTATIONS = ['generation-guard', 'epoch-guard', 'acknowledge-early', 'no-fence', 'lose-outbox'] as const;
export type Mutation = (typeof MUTATIONS)[number];

export interface RunOptions {
  seed: number;
  mutation?: Mutation | undefined;
  scenario?: Partial<Scenario>;
  /** Takes the trace, a line at a time. */
  write?: ((line: string) => void) | undefined;
}

export interface RunResult {
  seed: number;
  violations: Violation[];
  history: HistoryEvent[];
  hash: string;
  events: number;
  virtualMs: number;
}

/** Everything has settled this long before the end is called. */
const SETTLE_MS = 40_000;

export async function simulate(options: RunOptions): Promise<RunResult> {
  const { seed, mutation } = options;
  const world = new World(seed, options.write);
  // Stale results are rare on a network that repeats nothing.
  const provoked = mutation === 'generation-guard' ? { duplicateRate: 0.3 } : {};
  const scenario: Scenario = { ...scenarioOf(world.random), ...provoked, ...options.scenario };
  const mesh = new Mesh(world, scenario, mutation);
  const unhandled = (error: unknown) => world.fail(error);
  process.on('unhandledRejection', unhandled);
  try {
    await mesh.run();
  } finally {
    process.off('unhandledRejection', unhandled);
  }
  const { history } = mesh.recorder;
  const leaseMs = Math.max(scenario.config.nodeLease, scenario.config.leaderLease);
  const violations = check(history, { leaseMs });
  if (!mesh.drained) violations.push({ invariant: 'I6', message: 'the mesh never drained', atMs: world.nowMs });
  return { seed, violations, history, hash: world.hash, events: world.events, virtualMs: world.nowMs };
}

/** All the parts of one run. */
export class Mesh {
  readonly recorder: Recorder;
  readonly network: Network;
  readonly database: SimDatabase;
  readonly tables: Tables;
  readonly coordinators: SimCoordinator[];
  readonly agents: SimAgent[];
  readonly hosts: TaskHost[];
  readonly workload: Workload;
  drained = false;

  constructor(
    readonly world: World,
    readonly scenario: Scenario,
    readonly mutation: Mutation | undefined,
  ) {
    const { random } = world;
    this.recorder = new Recorder(world);
    this.network = new Network(world);
    this.tables = new Tables({
      // Dates, as coordinators compare them with their own.
      now: () => WALL_START_MS + world.nowMs,
      observe: (event) => this.recorder.add({ ...event, atMs: world.nowMs }),
      guards: { generation: mutation !== 'generation-guard', epoch: mutation !== 'epoch-guard' },
    });
    this.database = new SimDatabase(world, this.tables);
    const log = (name: string) => (world.isTraced ? traceLogger(world, name) : silentLogger);
    const addresses = () => this.coordinators.map(({ address }) => address);
    const config: Partial<CoordinatorConfig> = scenario.config;
    this.coordinators = Array.from({ length: scenario.coordinators }, (_, i): SimCoordinator => {
      const name = `coordinator-${i + 1}`;
      const restart = () => world.after(500 + random.next() * 2000, () => this.#restart(coordinator));
      const coordinator: SimCoordinator = new SimCoordinator({
        ...{ machine: new Machine(world, name), database: this.database, config, coordinators: addresses },
        ...{ log: log(name), onExit: restart, guardless: mutation === 'generation-guard' },
      });
      return coordinator;
    });
    this.workload = new Workload({
      world,
      recorder: this.recorder,
      scenario,
      coordinators: this.coordinators,
      mutation,
      rowOf: (key) => [...this.tables.jobs.values()].find((job) => job.idempotencyKey === key),
      stage: (digest) => this.tables.blobs.set(digest, { sizeBytes: 1, usedAtMs: this.tables.now() }),
    });
    const witness = new Witness(this.recorder, world, scenario);
    this.hosts = scenario.nodes.map(({ speed, dieTogether }, i) => {
      const machine = new Machine(world, `node-${i + 1}`);
      return new TaskHost(machine, this.recorder, this.workload.planner, { speed, dieTogether, killMsMax: 200 });
    });
    this.agents = scenario.nodes.map(({ slots }, i) => {
      const host = this.hosts[i] as TaskHost;
      const { machine } = host;
      return new SimAgent({
        ...{ machine, host, slots, network: this.network, recorder: this.recorder, log: log(machine.name) },
        coordinators: () => this.coordinators,
        tap: (agent) => witness.tap(agent),
        fenceless: mutation === 'no-fence',
        forgetful: mutation === 'lose-outbox',
      });
    });
  }

  async run(): Promise<void> {
    const { world, scenario, recorder } = this;
    this.coordinators.forEach((coordinator, i) =>
      world.after(i * 50 + world.random.next() * 20, () => coordinator.start()),
    );
    for (const agent of this.agents) world.after(world.random.next() * 1000, () => agent.start());
    this.workload.start();
    const faults = new FaultPlan(this);
    faults.start();
    await world.runUntil(() => faults.over && this.workload.done, scenario.limitMs);
    this.drained = faults.over && this.workload.done;
    await world.runUntil(() => false, world.nowMs + SETTLE_MS);
    this.#finalRows();
    recorder.add({ kind: 'end', atMs: world.nowMs });
  }

  #restart(coordinator: SimCoordinator): void {
    if (!coordinator.process.alive) coordinator.start();
  }

  #finalRows(): void {
    const { recorder, world } = this;
    for (const { seq, status, counts, tasks } of this.tables.jobs.values()) {
      const { completed, failed, cancelled } = counts;
      const job = String(seq);
      recorder.add({ kind: 'final-job', atMs: world.nowMs, job, status, completed, failed, cancelled });
      for (const { index, status: ended, generation, failures, losses } of tasks)
        recorder.add({
          kind: 'final-task',
          atMs: world.nowMs,
          job,
          index,
          status: ended,
          generation,
          failures,
          losses,
        });
    }
  }
}
