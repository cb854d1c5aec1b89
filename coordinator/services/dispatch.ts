/**
 * From waiting work to told agents: snapshot → plan → one committed assignment → messages. A turn starts when work
 * comes in, room falls free, a node joins or a returned task falls due, and once a second anyway. ASSIGNED is committed
 * before any agent is told; an agent that hears of it twice drops the repeat.
 *
 * A job that comes in while nothing else waits does not wait for a turn: it is planned before it is committed, and the same
 * commit assigns its tasks (`place`).
 */
import type { Clock, Timer } from '../../common/clock.js';
import { groupBy } from '../../common/group-by.js';
import type { Service } from '../../common/lifecycle.js';
import type { Logger } from '../../common/log.js';
import { Loop } from '../../common/loop.js';
import type { Ledger, LiveAttempt } from '../core/ledger.js';
import { plan } from '../core/scheduler/plan.js';
import { shortlist, type Waiter } from '../core/scheduler/shortlist.js';
import type {
  NodeReason,
  NodeView,
  Plan,
  PlanSettings,
  Reasons,
  Retraction,
  ReturnedTask,
  Snapshot,
  WorkView,
} from '../core/scheduler/types.js';
import {
  type Assigned,
  type AssignedRange,
  type AssignItem,
  countOfRanges,
  type LiveTask,
  type Store,
} from '../ports.js';
import { FirstPlacement, type PlacedJob, type Placement } from './first-placement.js';
import type { Namespaces } from './namespaces.js';
import type { Fleet } from './fleet.js';
import type { Jobs, LiveJob } from './jobs.js';
import type { PipelineDelay } from './pipeline-delay.js';
import { problemOf, toldOf, valuesFor, type ValuesByJob, valuesOf } from './handover.js';
import type { Secrets } from './secrets.js';
import { nodeView } from './node-view.js';
import { toRefs } from './session.js';
import { UNSURE_MS } from './unsure.js';
import { workView } from './work-view.js';

/** Returned tasks looked at per turn, shared equally among the jobs that have any. */
const DUE_PAGE = 5000;
/** Jobs whose returned tasks are looked at in one turn; the next turn goes on with the jobs that follow. */
const DUE_JOBS_MAX = 500;
/** Assignments of unknown outcome that are kept in mind; the oldest are left to the next term. */
const LATE_MAX = 100;
/** Without a sign that something came back, the store is asked this often anyway. */
const DUE_LOOK_MS = 1000;

export interface DispatchOptions {
  store: Store;
  jobs: Jobs;
  fleet: Fleet;
  ledger: Ledger;
  /** What namespaces with quotas may still be assigned. */
  namespaces: Pick<Namespaces, 'allowances'>;
  settings: PlanSettings;
  pipeline: PipelineDelay;
  secrets: Secrets;
  /** These attempts cannot be given what they need; for each its reason. */
  onUnfit: (attempts: readonly LiveAttempt[], why: (job: number) => string) => void;
  clock: Clock;
  log: Logger;
  random: () => number;
  epoch: () => number;
  observe: { planned(seconds: number): void; assigned(node: string, tasks: number): void };
}

export class Dispatch implements Service {
  readonly name = 'dispatch';
  readonly #options: DispatchOptions;
  readonly #loop: Loop;
  #dueTimer: Timer | undefined;
  #lookForDue = true;
  #inTurn = false;
  readonly #first: FirstPlacement;
  #lookedMs = Number.NEGATIVE_INFINITY;
  /** The last job whose returned work was looked at; 0 when the next look begins with the first. */
  #lookedUpTo = 0;
  #reasons = new Map<number, Reasons>();
  /** To be found out: assignments whose commit failed, so that nobody knows whether it took effect. */
  #unsure: AssignItem[] = [];
  /** Those that were found out, and that the server may still commit although nobody waits for it. */
  #late: { items: AssignItem[]; untilMs: number }[] = [];

  constructor(options: DispatchOptions) {
    this.#options = options;
    this.#first = new FirstPlacement({
      jobs: options.jobs,
      plan: (work) => this.#plan(this.#snapshotOf([work], [])),
      given: (range) => this.#given({ ranges: [range], tasks: [] }, NO_VALUES),
      unsure: (item) => {
        this.#unsure.push(item);
        this.wake();
      },
    });
    this.#loop = new Loop({
      name: 'dispatch.turn',
      clock: options.clock,
      everyMs: 1000,
      turn: () => this.#turn(),
      onError: (error) => options.log.error({ event: 'dispatch.failed', err: error }, 'could not place work'),
    });
  }

  async start(): Promise<void> {
    await this.#loop.start();
  }

  async stop(): Promise<void> {
    this.#dueTimer?.cancel();
    await this.#loop.stop();
  }

  wake(): void {
    this.#loop.wake();
  }

  /** Some task came back and carries a time at which it is due. */
  returned(): void {
    this.#lookForDue = true;
    this.wake();
  }

  /** Why each node was or was not taken for this job's kind of work, in the last plan that looked at it. */
  reasons(kind: number, job: number): readonly NodeReason[] {
    return this.#reasons.get(kind)?.get(kind, job) ?? [];
  }

  async #turn(): Promise<void> {
    this.#inTurn = true;
    try {
      await this.#first.pending;
      await this.#assign();
    } finally {
      this.#inTurn = false;
    }
  }

  /** Where all tasks of a job that is about to be committed may go at once; undefined while anything else waits. */
  place(job: PlacedJob, count: number): Placement | undefined {
    const { jobs, ledger } = this.#options;
    const isBusy = this.#inTurn || this.#unsure.length > 0 || this.#lookForDue;
    if (isBusy || jobs.waiting().size > 0 || ledger.prefilled().length > 0) return undefined;
    return this.#first.place(job, count);
  }

  #plan(snapshot: Snapshot): Plan {
    const { settings, pipeline, clock, random, observe } = this.#options;
    const beganMs = clock.monotonicMs();
    const result = plan(
      snapshot,
      { ...settings, pipelineDelayMs: pipeline.ms, heldMs: pipeline.heldMs },
      beganMs,
      random,
    );
    observe.planned((clock.monotonicMs() - beganMs) / 1000);
    for (const kind of result.reasons.kinds()) this.#remember(kind, result.reasons);
    return result;
  }

  async #assign(): Promise<void> {
    this.#lookAtLate();
    if (this.#unsure.length > 0) await this.#findOut();
    const returned = await this.#dueWork();
    const snapshot = this.#snapshot(returned);
    if (snapshot.work.length === 0) return this.#options.pipeline.idle();
    const result = this.#plan(snapshot);
    for (const retraction of result.retractions) this.#retract(retraction);
    if (result.assignments.length > 0) await this.#commit(result);
  }

  /**
   * Returned tasks by job; arms a timer for the next one that is not due yet. Every job with returned work gets its share
   * of the page, and many jobs take turns: thousands of tasks that no node can take delay nobody else's.
   */
  async #dueWork(): Promise<Map<number, ReturnedTask[]>> {
    const { store, clock } = this.#options;
    const nowMs = clock.monotonicMs();
    if (!this.#lookForDue && nowMs - this.#lookedMs < DUE_LOOK_MS) return new Map();
    this.#lookForDue = false;
    this.#lookedMs = nowMs;
    const back = await this.#jobsWithReturned();
    this.#dueTimer?.cancel();
    if (back.length === 0) return new Map();
    // Asked before what is due: a task whose time comes between the two is in both, and never in neither.
    const nextDueInMs = await store.tasks.nextDueInMs(back);
    if (nextDueInMs !== undefined && nextDueInMs < 60_000)
      this.#dueTimer = clock.after(nextDueInMs + 1, () => this.returned(), { background: true });
    const due = await store.tasks.due(back, Math.floor(DUE_PAGE / back.length));
    this.#lookForDue = due.length > 0;
    return groupBy(due, ({ job }) => job);
  }

  /** All of them, or those whose turn it is. */
  async #jobsWithReturned(): Promise<number[]> {
    const { tasks } = this.#options.store;
    const from = this.#lookedUpTo;
    let back = await tasks.returned(from, DUE_JOBS_MAX);
    if (back.length === 0 && from > 0) back = await tasks.returned(0, DUE_JOBS_MAX);
    this.#lookedUpTo = back.length < DUE_JOBS_MAX ? 0 : (back.at(-1) as number);
    return back;
  }

  #snapshot(returned: Map<number, ReturnedTask[]>): Snapshot {
    const { jobs, ledger } = this.#options;
    const prefilled = ledger.prefilled();
    const concerned = new Set<LiveJob>();
    for (const group of jobs.waiting().values()) for (const job of shortlist(group, WAITER)) concerned.add(job);
    for (const seq of [...returned.keys(), ...prefilled.map(({ job }) => job)]) {
      const job = jobs.get(seq);
      if (job) concerned.add(job);
    }
    const work: WorkView[] = [];
    const nowMs = this.#options.clock.monotonicMs();
    for (const job of concerned)
      if (!job.row.cancelling) work.push(workView(job, returned.get(job.row.seq), jobs.fresh(job), nowMs));
    return this.#snapshotOf(work, prefilled);
  }

  #snapshotOf(work: readonly WorkView[], prefilled: Snapshot['prefilled']): Snapshot {
    const { ledger, namespaces } = this.#options;
    const nodes = work.length === 0 ? [] : this.nodes();
    const allowances = namespaces.allowances();
    const quotas = allowances ? { allowances } : {};
    return { nodes, work, heldBySubmitter: ledger.heldBySubmitter(), prefilled, ...quotas };
  }

  /** The nodes as the planner sees them now. */
  nodes(): NodeView[] {
    const nowMs = this.#options.clock.monotonicMs();
    return Array.from(this.#options.fleet.all(), (node) => nodeView(node, this.#options, nowMs));
  }

  async #commit(result: Plan): Promise<void> {
    const { store, jobs, epoch } = this.#options;
    const items = this.#toItems(result);
    // Read before it is committed: between the commit and the message nothing may wait, or a cancel would come first.
    const values = await this.#valuesFor(items);
    const { jobs: changes, ...given } = await store.tasks.assign(epoch(), items).catch((error: unknown) => {
      this.#unsure = items;
      this.#late.push({ items, untilMs: this.#options.clock.monotonicMs() + UNSURE_MS });
      if (this.#late.length > LATE_MAX) this.#late.shift();
      throw error;
    });
    jobs.apply(changes);
    this.#given(given, values);
    this.#lookAtRefused(items, given.ranges);
  }

  /** A statement that nobody waited for has ended by now, whatever it did: one last look. */
  #lookAtLate(): void {
    const nowMs = this.#options.clock.monotonicMs();
    while (this.#late[0] && this.#late[0].untilMs <= nowMs) this.#unsure.push(...(this.#late.shift()?.items ?? []));
  }

  /**
   * A range that was refused does not begin where the job's rows end: something else made rows meanwhile, and it can only be
   * an assignment that was given up too early.
   */
  #lookAtRefused(items: readonly AssignItem[], given: readonly AssignedRange[]): void {
    const ranges = items.filter((item) => 'from' in item);
    if (countOfRanges(given) < countOfRanges(ranges))
      this.#unsure = [...this.#late.flatMap((late) => late.items), ...ranges];
  }

  #valuesFor(items: readonly AssignItem[]): Promise<ValuesByJob> {
    const { secrets, jobs } = this.#options;
    return valuesFor(
      secrets,
      jobs,
      items.map(({ job }) => job),
    );
  }

  /**
   * The answer to an assignment was lost: what it did is read from the rows, and told. Nobody else assigns, so a task in
   * its ranges that is assigned and not in the ledger can only come from there.
   */
  async #findOut(): Promise<void> {
    const { store, jobs, ledger } = this.#options;
    const items = this.#unsure;
    const matches = (task: LiveTask) =>
      items.some(
        (item) =>
          item.job === task.job &&
          item.node === task.node &&
          ('from' in item ? task.index >= item.from && task.index < item.to : item.indexes.includes(task.index)),
      );
    for (const seq of new Set(items.map(({ job }) => job))) {
      const id = jobs.get(seq)?.row.id;
      const row = id === undefined ? undefined : await store.jobs.get(id);
      if (row) jobs.follow(row);
    }
    const unheard = (await store.tasks.live()).filter((task) => matches(task) && !ledger.has(task.job, task.index));
    const inputs = await store.tasks.inputs(unheard);
    const values = await this.#valuesFor(items);
    this.#unsure = [];
    this.#options.log.warn({ event: 'dispatch.recovered', tasks: unheard.length }, 'an assignment’s answer was lost');
    const tasks = unheard.map((task, position) => ({ ...task, input: inputs[position] }));
    this.#given({ ranges: [], tasks }, values);
  }

  /** Committed: into the ledger, and told. A job that is being cancelled has taken them back, or is about to. */
  #given({ ranges, tasks }: Assigned, values: ValuesByJob): void {
    const { ledger, clock, onUnfit } = this.#options;
    const nowMs = clock.monotonicMs();
    const told = new Map<number, Assigned>();
    const unfit: LiveAttempt[] = [];
    for (const range of ranges) {
      const job = this.#assignable(range.job, nowMs);
      if (!job) continue;
      ledger.addSpan(range, job.kind, job.row.submitter, nowMs);
      if (problemOf(values, range.job) === undefined) toldOf(told, range.node).ranges.push(range);
      else unfit.push(...ledger.ofJob(range.job).filter(({ index }) => index >= range.from && index < range.to));
    }
    for (const task of tasks) {
      const job = this.#assignable(task.job, nowMs);
      if (!job) continue;
      const attempt = ledger.add(task, job.kind, job.row.submitter, nowMs);
      if (problemOf(values, task.job) === undefined) toldOf(told, task.node).tasks.push(task);
      else unfit.push(attempt);
    }
    for (const [node, given] of told) this.#tell(node, given, values);
    if (unfit.length > 0) onUnfit(unfit, (job) => problemOf(values, job) ?? '');
    if (told.size > 0) this.#options.pipeline.told();
    if (ranges.length + tasks.length > 0) this.#loop.wake();
  }

  #assignable(seq: number, nowMs: number): LiveJob | undefined {
    const job = this.#options.jobs.get(seq);
    if (!job || job.row.cancelling) return undefined;
    job.assignedAtMs = nowMs;
    return job;
  }

  /** Fresh work is taken from each job's cursor in the order of the plan. */
  #toItems(result: Plan): AssignItem[] {
    const cursors = new Map<number, number>();
    const items: AssignItem[] = [];
    for (const { job, node, fresh, returned } of result.assignments) {
      const row = this.#options.jobs.get(job)?.row;
      if (!row) continue;
      if (returned.length > 0) items.push({ job, node, indexes: returned });
      if (fresh === 0) continue;
      const from = cursors.get(job) ?? row.cursor;
      cursors.set(job, from + fresh);
      items.push({ job, node, from, to: from + fresh });
    }
    return items;
  }

  #tell(node: number, given: Assigned, values: ValuesByJob): void {
    const { fleet, jobs, observe, epoch } = this.#options;
    const live = fleet.get(node);
    if (!live) return;
    observe.assigned(live.row.name, countOfRanges(given.ranges) + given.tasks.length);
    live.session?.assign(epoch(), given, (job) => jobs.get(job)?.body, valuesOf(values));
  }

  #retract(retraction: Retraction): void {
    const { fleet, ledger } = this.#options;
    const refs = ledger.takeBack(retraction);
    if (refs.length > 0) fleet.get(retraction.node)?.session?.send({ $case: 'retract', value: toRefs(refs) });
  }

  #remember(kind: number, reasons: Reasons): void {
    this.#reasons.delete(kind);
    this.#reasons.set(kind, reasons);
    if (this.#reasons.size > 1000) this.#reasons.delete(this.#reasons.keys().next().value as number);
  }
}

const WAITER: Waiter<LiveJob> = {
  arrival: ({ row }) => row.seq,
  waiting: ({ row }) => row.counts.total - row.cursor,
  isBlocked: ({ blockedNodes }) => blockedNodes.size > 0,
};

const NO_VALUES: ValuesByJob = new Map();
