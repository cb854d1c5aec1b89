/** Jobs that people submit, as seeded as everything else: of all policies, some cancelled, some of higher priority. */
import { MeshError } from '../../common/errors.js';
import { PROTOCOL } from '../../common/package.js';
import type { AttemptSpec } from '../../agent/core/types.js';
import type { JobRow } from '../../coordinator/ports.js';
import { OnDisconnect } from '../../proto/gen/mesh/v1/common.js';
import { JobSpec, OnFailure } from '../../proto/gen/mesh/v1/mesh.js';
import type { SimCoordinator } from './coordinator.js';
import type { Plan } from './executor.js';
import type { Recorder } from './recorder.js';
import type { Scenario } from './scenario.js';
import type { Mutation } from './simulation.js';
import type { World } from './world.js';

/** As in coordinator/services/jobs.ts. */
const LOSSES_MAX = 20;
const RETRY_MS = 1000;

export interface WorkloadOptions {
  world: World;
  recorder: Recorder;
  scenario: Scenario;
  coordinators: SimCoordinator[];
  mutation: Mutation | undefined;
  /** The job of this idempotency key as it is in the tables, seen from outside. */
  rowOf: (key: string) => JobRow | undefined;
  /** A function's module is there. */
  stage: (digest: string) => void;
}

interface Order {
  number: number;
  spec: JobSpec;
  /** Undefined: nobody cancels it. */
  cancelAfterMs: number | undefined;
  job: JobRow | undefined;
}

const keyOf = (order: Order): string => `key-${order.number}`;

/** What the tasks of a job are like. */
interface Character {
  meanMs: number;
  failRate: number;
  faultRate: number;
  /** Attempts that take ten times as long as they should. */
  straggleRate: number;
}

const STRAGGLE = 10;

export class Workload {
  readonly #options: WorkloadOptions;
  readonly #characters = new Map<string, Character>();
  #open = 0;
  #sent = 0;

  constructor(options: WorkloadOptions) {
    this.#options = options;
  }

  /** Every job was acknowledged and has ended. */
  get done(): boolean {
    return this.#open === 0 && this.#sent === this.#options.scenario.jobs;
  }

  start(): void {
    const { world, scenario } = this.#options;
    for (let number = 1; number <= scenario.jobs; number++) {
      const order = this.#draw(number);
      world.after(500 + world.random.next() * scenario.faultyMs * 0.8, () => {
        this.#sent++;
        this.#open++;
        this.#submit(order);
      });
    }
  }

  /** What an attempt will do: its own chance, of its job's character. */
  readonly planner = (attempt: AttemptSpec): Plan => {
    const { random } = this.#options.world;
    const character = this.#characters.get(argument(attempt)) ?? {
      ...{ meanMs: 100, failRate: 0, faultRate: 0, straggleRate: 0 },
    };
    const roll = random.next();
    const outcome =
      roll < character.faultRate
        ? 'node-fault'
        : roll < character.faultRate + character.failRate
          ? 'failed'
          : 'succeeded';
    const length = random.chance(character.straggleRate) ? STRAGGLE : 1;
    return { outcome, durationMs: 1 + length * random.exponential(character.meanMs) };
  };

  #draw(number: number): Order {
    const { world, scenario } = this.#options;
    const { random } = world;
    const name = `order-${number}`;
    const onDisconnect = random.chance(0.5) && PROTOCOL.max >= 2 ? OnDisconnect.STOP : OnDisconnect.KEEP;
    const speculate = onDisconnect === OnDisconnect.KEEP && random.chance(0.5);
    this.#characters.set(name, {
      meanMs: random.pick([5, 300, 3000, 12_000]),
      failRate: random.pick([0, 0, 0.1, 0.4]),
      faultRate: random.pick([0, 0, 0.03]),
      straggleRate: speculate ? 0.2 : 0,
    });
    this.#options.stage(String(number).padStart(64, '0'));
    const work = random.chance(0.8)
      ? { $case: 'process' as const, value: { argv: [name], environment: {} } }
      : {
          $case: 'function' as const,
          value: { moduleDigest: String(number).padStart(64, '0'), exportName: '', environment: {} },
        };
    const taskCount = random.integer(1, scenario.tasksMax);
    const spec = JobSpec.fromPartial({
      ...{ name, work: work as never, taskCount, array: taskCount > 1 ? { start: 0, step: 1 } : undefined },
      retries: random.integer(0, 3),
      backoffMs: random.pick([0, 500, 2000]),
      priority: random.pick([0, 0, 10]),
      onFailure: random.pick([OnFailure.FINISH, OnFailure.FINISH, OnFailure.PARTIAL, OnFailure.FAIL_FAST]),
      ...{ onDisconnect, speculate },
    });
    return { number, spec, cancelAfterMs: random.chance(0.2) ? random.next() * 10_000 : undefined, job: undefined };
  }

  /** Tries every coordinator in turn, with the same key, until one says that the job is safe. */
  #submit(order: Order): void {
    const { world, coordinators, mutation } = this.#options;
    const target = world.random.pick(coordinators);
    let taken = false;
    this.#call(target, async (plane) => {
      const { intake } = plane;
      taken = true;
      const { spec } = order;
      const items = (async function* () {})();
      const actor = { name: 'submitter/anna', address: '', certificate: '' };
      return intake.submit({ actor, submitter: 'anna', idempotencyKey: keyOf(order), spec, items, hasItems: false });
    }).then(
      (job) => this.#acknowledged(order, job),
      (error: unknown) => {
        if (error instanceof MeshError && error.exitCode === 2) world.fail(error);
        else if (mutation === 'acknowledge-early' && taken) this.#promised(order);
        else world.after(RETRY_MS * (0.5 + world.random.next()), () => this.#submit(order));
      },
    );
  }

  /** The submitter was told that the job is safe before it was, so nobody tries again. */
  #promised(order: Order): void {
    const { recorder, world, rowOf } = this.#options;
    const row = rowOf(keyOf(order));
    if (row) return this.#acknowledged(order, row);
    this.#open--;
    const { taskCount: tasks } = order.spec;
    recorder.add({
      ...{ kind: 'job-acknowledged', atMs: world.nowMs, job: order.spec.name, tasks, onDisconnect: 'keep' },
      ...{ failuresMax: 1, lossesMax: LOSSES_MAX },
    });
  }

  /** An answer that does not come within ten seconds is no answer. */
  #call<T>(target: SimCoordinator, call: (plane: NonNullable<SimCoordinator['plane']>) => Promise<T>): Promise<T> {
    const { world } = this.#options;
    return new Promise((resolve, reject) => {
      const failed = (error: unknown) => world.after(0.5, () => reject(error));
      const timer = world.after(10_000, () => reject(new MeshError('TIMED_OUT', 'no answer')));
      world.after(0.5, () => {
        const { plane, process } = target;
        if (!plane || !target.leads) return failed(new MeshError('UNREACHABLE', 'nobody is there'));
        process.enter(() => {
          // A coordinator that does not lead throws at once.
          (async () => call(plane))().then((value) => {
            timer.cancel();
            world.after(0.5, () => resolve(value));
          }, failed);
        });
      });
    });
  }

  #acknowledged(order: Order, job: JobRow): void {
    const { recorder, world } = this.#options;
    order.job = job;
    const { spec } = order;
    recorder.add({
      ...{ kind: 'job-acknowledged', atMs: world.nowMs, job: String(job.seq), tasks: job.counts.total },
      onDisconnect: spec.onDisconnect === OnDisconnect.STOP ? 'stop' : 'keep',
      ...(spec.speculate ? { speculate: true } : {}),
      ...{ failuresMax: spec.retries + 1, lossesMax: LOSSES_MAX },
    });
    if (order.cancelAfterMs !== undefined) world.after(order.cancelAfterMs, () => this.#cancel(order));
    this.#watch(order);
  }

  #cancel(order: Order): void {
    const { coordinators, world } = this.#options;
    const { job } = order;
    if (!job) return;
    this.#call(world.random.pick(coordinators), (plane) => plane.cancellation.cancel(job, undefined)).then(
      () => undefined,
      () => undefined,
    );
  }

  /** Looks, from outside, whether the job is over. */
  #watch(order: Order): void {
    const { world } = this.#options;
    const row = this.#options.rowOf(keyOf(order));
    if (!row || (row.status !== 'QUEUED' && row.status !== 'RUNNING')) this.#open--;
    else world.after(500, () => this.#watch(order));
  }
}

/** Which order an attempt belongs to, from what it is told to do. */
const argument = ({ body }: AttemptSpec): string =>
  body.work?.$case === 'process' ? (body.work.value.argv[0] ?? '') : `order-${Number(body.work?.value.moduleDigest)}`;
