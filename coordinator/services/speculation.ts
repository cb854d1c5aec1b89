/**
 * Second attempts for stragglers of jobs that asked for them (`--speculate`). Once a second it looks at the jobs that are
 * near their end, compares what runs of them with what completed (core/speculation.ts), and gives what takes much longer a
 * copy on an idle node. The copy is committed before its agent is told, as every assignment is; which of the two results
 * counts is decided in the store (CopyStore), and the other attempt is killed (copies.ts).
 *
 * When a commit's answer is lost the same is asked again until there is an answer: a copy that nobody was told of would
 * hold its task's row without running. A job that ended or is being cancelled meanwhile is no concern any more.
 */
import type { Clock } from '../../common/clock.js';
import type { Service } from '../../common/lifecycle.js';
import type { Logger } from '../../common/log.js';
import { Loop } from '../../common/loop.js';
import { OnDisconnect } from '../../proto/gen/mesh/v1/common.js';
import type { Ledger, LiveAttempt } from '../core/ledger.js';
import { costOf } from '../core/room.js';
import type { NodeView } from '../core/scheduler/types.js';
import type { RetryPolicy } from '../core/task.js';
import {
  copiesMax,
  nearsEnd,
  planCopies,
  type RunningTask,
  type SpeculationSettings,
  stragglerAgeMs,
} from '../core/speculation.js';
import type { CopyAsked, Settlement, Store } from '../ports.js';
import type { Copies } from './copies.js';
import type { Fleet } from './fleet.js';
import { problemOf, valuesFor, type ValuesByJob, valuesOf } from './handover.js';
import type { Jobs, LiveJob } from './jobs.js';
import type { Namespaces } from './namespaces.js';
import type { Secrets } from './secrets.js';

const EVERY_MS = 1000;
/** What completed is read again after so long; near a job's end it changes little. */
const RUN_TIMES_MS = 5000;
/** Rows of the job that are looked at for it, from its last task backwards. */
const SAMPLE_ROWS = 2000;
/** A copy that the store refused, because its task stands otherwise there, is not asked for again so soon. */
const REFUSED_MS = 5000;

export interface SpeculationOptions {
  store: Store;
  jobs: Jobs;
  fleet: Fleet;
  ledger: Ledger;
  copies: Copies;
  namespaces: Pick<Namespaces, 'whyHeldBack'>;
  settings: SpeculationSettings;
  /** The nodes as the planner sees them now. */
  nodes: () => NodeView[];
  clock: Clock;
  log: Logger;
  epoch: () => number;
  onAssigned: (node: string) => void;
  secrets: Secrets;
  /** As in Dispatch. */
  onUnfit: (attempts: readonly LiveAttempt[], why: (job: number) => string) => void;
}

export class Speculation implements Service {
  readonly name = 'speculation';
  readonly #options: SpeculationOptions;
  readonly #loop: Loop;
  readonly #runTimes = new Map<number, { readMs: number; times: number[] }>();
  /** Attempts of which the store refused a copy, and until when none is asked for. */
  readonly #refused = new WeakMap<LiveAttempt, number>();
  #unsure: CopyAsked[] = [];

  constructor(options: SpeculationOptions) {
    this.#options = options;
    this.#loop = new Loop({
      name: 'speculation.turn',
      clock: options.clock,
      everyMs: EVERY_MS,
      turn: () => this.#turn(),
      onError: (error) => options.log.warn({ event: 'speculation.failed', err: error }),
    });
  }

  async start(): Promise<void> {
    await this.#loop.start();
  }

  async stop(): Promise<void> {
    await this.#loop.stop();
  }

  async #turn(): Promise<void> {
    const { jobs, copies } = this.#options;
    for (const seq of copies.jobs()) if (!jobs.get(seq)) copies.forgetJob(seq);
    for (const seq of this.#runTimes.keys()) if (!jobs.get(seq)) this.#runTimes.delete(seq);
    for (const asked of this.#unsure.splice(0)) await this.#make(asked);
    for (const job of [...jobs.all()]) if (mayCopy(job)) await this.#look(job);
  }

  async #look(job: LiveJob): Promise<void> {
    const { copies, settings, nodes, namespaces } = this.#options;
    const room = copiesMax(job.row.counts.total) - copies.underWay(job.row.seq);
    if (room <= 0) return;
    const running = this.#running(job);
    if (!running.some(({ ageMs }) => ageMs >= settings.floorMs)) return;
    const fromAgeMs = stragglerAgeMs(await this.#times(job.row.seq), settings);
    if (fromAgeMs === undefined || !running.some(({ ageMs }) => ageMs >= fromAgeMs)) return;
    const { kind, blockedNodes } = job;
    const work = { kind, cost: costOf(kind.resources), blockedNodes, running, fromAgeMs, copiesMax: room };
    for (const { task, to } of planCopies(work, nodes())) {
      if (namespaces.whyHeldBack(job)) return;
      const { index, generation, node } = task;
      await this.#make({ job: job.row.seq, index, generation, node, to });
    }
  }

  /** What runs of the job and may have a copy; where one has ended, as old as that is long ago. */
  #running({ row: { seq }, policy }: LiveJob): RunningTask[] {
    const { ledger, copies, clock } = this.#options;
    const nowMs = clock.monotonicMs();
    return ledger.runningOf(seq).flatMap((attempt) => {
      const { job, index, generation, node, failedNodes, startedAtMs } = attempt;
      if (startedAtMs === undefined || nowMs < (this.#refused.get(attempt) ?? 0)) return [];
      const aloneSinceMs = copies.aloneSinceMs(attempt);
      if (copies.has(attempt) && (aloneSinceMs === undefined || !survivesOneMore(attempt, policy))) return [];
      const ageMs = nowMs - Math.max(startedAtMs, aloneSinceMs ?? startedAtMs);
      return [{ job, index, generation, node, failedNodes, ageMs }];
    });
  }

  async #times(seq: number): Promise<number[]> {
    const { store, clock } = this.#options;
    const known = this.#runTimes.get(seq);
    const nowMs = clock.monotonicMs();
    if (known && nowMs - known.readMs < RUN_TIMES_MS) return known.times;
    const times = await store.copies.runTimesMs(seq, SAMPLE_ROWS);
    this.#runTimes.set(seq, { readMs: nowMs, times });
    return times;
  }

  async #make(asked: CopyAsked): Promise<void> {
    const { store, copies, jobs, ledger, secrets, clock, epoch } = this.#options;
    const { to: _, ...original } = asked;
    if (!jobs.get(asked.job)) return;
    const values = await valuesFor(secrets, jobs, [asked.job]);
    const attempt = ledger.get(original, original.node);
    copies.ask(original);
    const made = await store.copies.make(epoch(), asked).catch((error: unknown) => {
      this.#unsure.push(asked);
      throw error;
    });
    jobs.apply(made.jobs);
    if (made.task) return this.#told(asked, made.task, values);
    copies.refused(original);
    if (attempt) this.#refused.set(attempt, clock.monotonicMs() + REFUSED_MS);
  }

  /** Committed: into the ledger, and told; unless the job is being cancelled, which ends both. */
  async #told(
    asked: CopyAsked,
    task: Awaited<ReturnType<Store['tasks']['assign']>>['tasks'][number],
    values: ValuesByJob,
  ): Promise<void> {
    const { copies, jobs, ledger, fleet, clock, log, epoch, onAssigned, onUnfit } = this.#options;
    const { to, ...original } = asked;
    const job = jobs.get(asked.job);
    if (!job || job.row.cancelling) return;
    const isAside = ledger.setAside(original);
    copies.made(original, { job: task.job, index: task.index, generation: task.generation, node: to });
    const attempt = ledger.add(task, job.kind, job.row.submitter, clock.monotonicMs());
    const node = fleet.get(to);
    // The failures and losses of the task, its original, and this one: the number its agent hears is its own.
    const told = { ...task, losses: task.losses + 1 };
    const problem = problemOf(values, task.job);
    if (problem !== undefined) onUnfit([attempt], () => problem);
    else node?.session?.assign(epoch(), { ranges: [], tasks: [told] }, (seq) => jobs.get(seq)?.body, valuesOf(values));
    if (node) onAssigned(node.row.name);
    log.info({
      event: 'task.copied',
      job: job.row.id,
      index: task.index,
      node: node?.row.name,
      generation: task.generation,
    });
    if (!isAside) await copies.settle(epoch(), [vanished(original)]);
  }
}

/** Another copy must not cost the task the attempt that runs. */
const survivesOneMore = ({ failures, losses }: LiveAttempt, { failuresMax, lossesMax }: RetryPolicy): boolean =>
  failures + 1 < failuresMax && losses + 1 < lossesMax;

/** `stop` promises that no two attempts run at a time (invariant I8), whatever else was asked. */
const mayCopy = ({ row }: LiveJob): boolean =>
  row.spec.speculate && row.spec.onDisconnect !== OnDisconnect.STOP && !row.cancelling && nearsEnd(row.counts);

/** The original's end was reported and not recognised while the copy's commit was in doubt; its agent has forgotten it. */
const vanished = (original: Omit<CopyAsked, 'to'>): Settlement => ({
  ...original,
  ...{ to: 'RETRYING', outcome: 'node-fault', failure: 0, loss: 1, dueInMs: 0, finishedAgeMs: 0 },
  error: 'its end was lost while a copy of it was made',
  ...{ exitCode: undefined, signal: undefined, resultJson: undefined, output: undefined },
  ...{ runUs: undefined, peakMemoryBytes: undefined },
});
