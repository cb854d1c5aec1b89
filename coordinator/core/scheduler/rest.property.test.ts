/**
 * While nothing happens outside, plans come to rest: what one asks back, the next does not put where it was. Each plan is
 * carried out in a real ledger, at one moment of time, by agents that give back whatever they are asked for.
 */
import { test } from 'tap';
import { SeededRandom } from '../../../test/support/random.js';
import { makeKind, makeNode, makeRoom, makeSettings, makeWork } from '../../../test/support/snapshot.js';
import { Ledger } from '../ledger.js';
import type { Allowance } from '../quotas.js';
import { plan } from './plan.js';
import type { NodeView, Plan, PlanSettings, ReturnedTask, WorkView } from './types.js';

const KINDS = [makeKind(1), makeKind(2, { cpuMillis: 2000 }), makeKind(3, { gpus: 1 })];
/** Far more than a mesh that comes to rest needs. */
const PLANS_MAX = 60;

interface Job extends WorkView {
  fresh: number;
  returned: ReturnedTask[];
}

class Scene {
  readonly #ledger = new Ledger();
  readonly #nodes: NodeView[];
  readonly #jobs: Job[];
  readonly #settings: PlanSettings;
  /** Of tasks at a time, by namespace; the others have none. */
  readonly #quotas = new Map<string, number>();
  #generation = 0;
  #index = 1000;

  constructor(private readonly random: SeededRandom) {
    const count = random.integer(2, 6);
    this.#nodes = Array.from({ length: count }, (_, at) => this.#node(at + 1));
    for (const { seq, total } of this.#nodes) this.#ledger.setNode(seq, total);
    this.#jobs = Array.from({ length: random.integer(1, 4) }, (_, at) => this.#job(at + 1));
    const strategy = random.chance(0.8) ? 'score' : random.pick(['round-robin', 'random'] as const);
    this.#settings = makeSettings({ strategy, pipelineDelayMs: random.pick([5, 50, 2000]) });
    if (random.chance(0.3)) this.#quotas.set('a', random.integer(0, 10));
  }

  /** Makes plans until one wants nothing. @returns the last plan when that does not come */
  rest(): Plan | undefined {
    let made: Plan | undefined;
    for (let plans = 0; plans < PLANS_MAX; plans++) {
      made = this.#plan();
      if (made.assignments.length + made.retractions.length === 0) return undefined;
      this.#carryOut(made);
    }
    return made;
  }

  /** What runs on one of the nodes ends, or new work comes, or what runs fails and comes back. */
  happen(): void {
    const { random } = this;
    const node = random.pick(this.#nodes);
    const running = this.#ledger.ofNode(node.seq).filter(({ holding }) => holding);
    if (random.chance(0.3)) this.#jobs.push(this.#job(this.#jobs.length + 1));
    else
      for (const attempt of running) {
        this.#ledger.remove(attempt);
        if (random.chance(0.5)) this.#back(attempt.job, attempt.index, [...attempt.failedNodes, node.seq]);
      }
  }

  #node(seq: number): NodeView {
    const { random } = this;
    const slots = random.integer(1, 6);
    return makeNode(seq, slots, {
      total: makeRoom(slots, { gpus: random.integer(0, 1) }),
      rttMs: random.pick([0.2, 5, 80]),
      pace: random.pick([0.125, 0.5, 1, 1.8, 3, 8]),
      reliability: random.pick([1, 1, 0.5]),
      finished: random.integer(0, 50),
      draining: random.chance(0.1),
    });
  }

  #job(job: number): Job {
    const { random } = this;
    const count = this.#nodes.length;
    const blockedNodes = new Set(random.chance(0.2) ? [random.integer(1, count)] : []);
    const made = makeWork(job, random.integer(0, 12), {
      ...{ kind: random.pick(KINDS), priority: random.integer(-1, 1), submitter: random.pick(['ann', 'bob']) },
      ...{
        blockedNodes,
        namespace: random.pick(['a', 'b']),
        taskMs: random.pick([undefined, 3, 400, 10_000, 60_000, 7_200_000]),
      },
    });
    const returned = Array.from({ length: random.integer(0, 4) }, () => ({
      index: this.#index++,
      failedNodes: random.chance(0.5) ? [random.integer(1, count)] : [],
    }));
    return { ...made, returned };
  }

  #plan(): Plan {
    const taskMsOf = (job: number) => this.#jobs.find((one) => one.job === job)?.taskMs;
    const nodes = this.#nodes.map((node): NodeView => {
      const room = this.#ledger.room(node.seq, (job) => {
        const ms = taskMsOf(job);
        return ms === undefined ? undefined : ms * (node.pace ?? 1);
      });
      return { ...node, ...room };
    });
    const prefilled = this.#ledger.prefilled();
    const work = this.#jobs.filter(
      ({ job, fresh, returned }) => fresh + returned.length > 0 || prefilled.some((row) => row.job === job),
    );
    const snapshot = { nodes, work, heldBySubmitter: this.#ledger.heldBySubmitter(), prefilled };
    const allowances = this.#allowances();
    return plan({ ...snapshot, allowances }, this.#settings, 0, this.random.next);
  }

  #allowances(): Map<string, Allowance> {
    const left = new Map<string, Allowance>();
    for (const [namespace, tasks] of this.#quotas) {
      const held = this.#jobs.reduce(
        (sum, { job, namespace: of }) => sum + (of === namespace ? this.#ledger.heldByJob(job) : 0),
        0,
      );
      left.set(namespace, { tasks: Math.max(0, tasks - held), cpuMillis: Infinity });
    }
    return left;
  }

  #carryOut({ retractions, assignments }: Plan): void {
    const back = retractions.flatMap((retraction) =>
      this.#ledger.takeBack(retraction).map((ref) => ({ ...ref, node: retraction.node })),
    );
    for (const { node, job: seq, fresh, returned } of assignments) {
      const job = this.#jobs.find((one) => one.job === seq) as Job;
      job.fresh -= fresh;
      for (const index of returned) {
        const [task] = job.returned.splice(
          job.returned.findIndex((one) => one.index === index),
          1,
        );
        this.#add(job, node, index, task?.failedNodes ?? []);
      }
      for (let left = fresh; left > 0; left--) this.#add(job, node, this.#index++, []);
    }
    for (const ref of back) {
      const gone = this.#ledger.remove(ref, ref.node);
      if (gone) this.#back(gone.job, gone.index, gone.failedNodes);
    }
  }

  #back(job: number, index: number, failedNodes: readonly number[]): void {
    this.#jobs.find((one) => one.job === job)?.returned.push({ index, failedNodes });
  }

  #add({ job, kind, submitter }: Job, node: number, index: number, failedNodes: readonly number[]): void {
    const ref = { job, index, generation: ++this.#generation, node };
    this.#ledger.add({ ...ref, failures: failedNodes.length, losses: 0, failedNodes }, kind, submitter, 0);
  }
}

test('plans come to rest', async (t) => {
  const restless: string[] = [];
  for (let seed = 1; seed <= 1000; seed++) {
    const random = new SeededRandom(seed);
    const scene = new Scene(random);
    for (let event = 0; event <= 6; event++) {
      const last = scene.rest();
      if (last)
        restless.push(`${seed}, after ${event} events: ${JSON.stringify([last.assignments, last.retractions])}`);
      if (last) break;
      scene.happen();
    }
  }
  t.same(restless, []);
});
