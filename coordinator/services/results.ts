/**
 * How attempts end. Agents report in batches; reports of all sessions are gathered while a commit is under way and
 * settled together in the next (group commit), then acknowledged. What the statement did not accept is stale: it is
 * acknowledged too, so that the agent forgets it, and counted, not logged one by one (a noisy peer cannot flood the
 * log). Nothing is acknowledged before its commit.
 */
import { Batcher } from '../../common/batcher.js';
import type { Clock } from '../../common/clock.js';
import { MeshError } from '../../common/errors.js';
import { groupBy } from '../../common/group-by.js';
import type { Service } from '../../common/lifecycle.js';
import type { Logger } from '../../common/log.js';
import type { FinishedBatch, Started } from '../../proto/gen/mesh/v1/agent.js';
import type { Ledger, LiveAttempt } from '../core/ledger.js';
import type { AttemptOutcome, TaskRef } from '../core/task.js';
import type { Settlement, Store } from '../ports.js';
import { Aftermath, type Prepared } from './aftermath.js';
import type { Audit } from './audit.js';
import type { Changes } from './changes.js';
import type { Copies } from './copies.js';
import type { Fleet, LiveNode } from './fleet.js';
import type { Jobs } from './jobs.js';
import { NodeJudge } from './node-judge.js';
import type { PipelineDelay } from './pipeline-delay.js';
import {
  apart,
  completedRun,
  isRun,
  newRunReport,
  type RunReport,
  sortRuns,
  toTaskRuns,
  weight,
  type WholeRun,
} from './result-runs.js';
import { type AgentSession, toRefs } from './session.js';
import { ResultQuota } from './result-quota.js';
import { beganMs, blankFinished, completion, newReport, type Report, settlementOf, toOutcome } from './settlement.js';
import { Starts } from './starts.js';
import { Unsaved } from './unsaved.js';

/** Two of the longest runs an agent sends go together: one more than half of that alone would halve every commit. */
const BATCH_MAX = 1024;

export interface ResultsOptions {
  store: Store;
  audit: Audit;
  jobs: Jobs;
  fleet: Fleet;
  ledger: Ledger;
  copies: Copies;
  changes: Changes;
  clock: Clock;
  log: Logger;
  random: () => number;
  epoch: () => number;
  /** Room fell free or work came back. */
  onCapacity: () => void;
  /** Some task waits for the time at which it is due. */
  onReturned: () => void;
  /** A fail-fast job lost a task for good. */
  onFailFast: (job: number, reason: string) => void;
  onStale: (count: number) => void;
  pipeline: PipelineDelay;
  /** What results of one job may take. */
  jobBytesMax: number;
  observe: ResultObserver;
}

export interface ResultObserver {
  retried(reason: AttemptOutcome): void;
  ran(runMs: number, waitMs: number): void;
  jobEnded(seconds: number): void;
}

/** What one commit settles. */
interface Batch {
  prepared: Prepared[];
  /** Reports that wait for the next one. */
  later: Report[];
  seen: Set<LiveAttempt>;
  /** Tasks with two attempts of which one is in here. */
  copied: Set<string>;
}

export class Results implements Service {
  readonly name = 'results';
  readonly #options: ResultsOptions;
  readonly #judge: NodeJudge;
  readonly #quota: ResultQuota;
  readonly #aftermath: Aftermath;
  readonly #finished: Batcher<Report | RunReport>;
  readonly #unsaved: Unsaved<Report | RunReport>;
  readonly #starts: Starts;
  /** Being given away: an attempt is lost once, however often somebody notices. */
  readonly #leaving = new WeakSet<LiveAttempt>();

  constructor(options: ResultsOptions) {
    this.#options = options;
    this.#judge = new NodeJudge(options);
    this.#quota = new ResultQuota(options);
    this.#aftermath = new Aftermath({
      ...options,
      ...{ quota: this.#quota, judge: this.#judge, refuse: (session, ref) => this.#refuse(session, ref) },
    });
    this.#finished = new Batcher({
      itemsMax: BATCH_MAX,
      weigh: weight,
      flush: (items) => this.#settle(items),
      onError: (error, items) => this.#unsaved.failed(error, items),
    });
    this.#unsaved = new Unsaved({
      ...{ kind: 'results', clock: options.clock, log: options.log },
      again: (items) => this.#finished.addAll(items),
    });
    this.#starts = new Starts(options);
  }

  async start(): Promise<void> {
    const { jobs, log } = this.#options;
    for (const job of jobs.all()) {
      // Nobody waits for it: a job of a million tasks takes a second.
      this.#quota
        .load(job)
        .catch((error: unknown) => log.warn({ event: 'results.uncounted', job: job.row.id, err: error }));
    }
  }

  async stop(): Promise<void> {
    await this.settled();
    this.#unsaved.stop();
    this.#starts.stop();
  }

  /** Resolves when everything that was said so far is committed, or has failed and waits for the next try. */
  async settled(): Promise<void> {
    await this.#finished.idle();
    await this.#starts.idle();
  }

  report(session: AgentSession, { items, runs }: FinishedBatch): void {
    const receivedMs = this.#options.clock.monotonicMs();
    this.#take(session, [
      ...items.map((finished) => newReport(finished, toOutcome(finished.outcome), receivedMs, { session })),
      ...runs.map((run) => newRunReport(session, run, receivedMs)),
    ]);
  }

  /** What a session said; it owes them until they are settled. */
  #take(session: AgentSession, reports: readonly (Report | RunReport)[]): void {
    session.owe(reports.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0));
    this.#finished.addAll(reports);
  }

  started(session: AgentSession, items: readonly Started[]): void {
    this.#starts.add(session, items);
  }

  /** The infrastructure took these away: the node is gone, or it restarted without them. */
  lost(
    attempts: readonly LiveAttempt[],
    outcome: 'node-lost' | 'shutdown',
    error: string,
    /** Until what is fenced there is dead for certain; see core/settle.ts. */
    fencedInMs = 0,
  ): void {
    const receivedMs = this.#options.clock.monotonicMs();
    const leaving = attempts.filter((attempt) => !this.#leaving.has(attempt));
    for (const attempt of leaving) this.#leaving.add(attempt);
    if (outcome === 'node-lost') this.#judge.lost(new Set(leaving.map((attempt) => attempt.node)));
    this.#finished.addAll(
      leaving.map((attempt) =>
        newReport({ ...blankFinished(attempt), error }, outcome, receivedMs, { session: undefined, fencedInMs }),
      ),
    );
  }

  /** These were assigned and cannot be given what they need: their agents are not told, and they have failed. */
  unfit(attempts: readonly LiveAttempt[], why: (job: number) => string): void {
    const receivedMs = this.#options.clock.monotonicMs();
    this.#finished.addAll(
      attempts.map((attempt) =>
        newReport({ ...blankFinished(attempt), error: why(attempt.job) }, 'failed', receivedMs, { session: undefined }),
      ),
    );
  }

  /**
   * Resolves when nothing of the node is being given away: until that is committed nobody knows what is the node's.
   * @throws MeshError NOT_READY while it cannot be committed
   */
  async gaveAway(node: number): Promise<void> {
    if (!this.isGivingAway(node)) return;
    await this.settled();
    if (this.isGivingAway(node)) throw new MeshError('NOT_READY', 'what this agent had is being given away');
  }

  isGivingAway(node: number): boolean {
    return this.#options.ledger.ofNode(node).some((attempt) => this.#leaving.has(attempt));
  }

  /** The agent said goodbye and closed its stream: what it still held is lost to its shutdown, due at once. */
  gone(node: LiveNode): void {
    this.#options.ledger.releaseAll(node.row.seq);
    this.lost(this.#options.ledger.ofNode(node.row.seq), 'shutdown', `the agent on ${node.row.name} was stopped`);
  }

  /** Dropped by the agent before they started: they wait again and count as nothing. What it kept may be asked again. */
  retracted(session: AgentSession, refs: readonly TaskRef[], kept: readonly TaskRef[]): void {
    for (const ref of kept) this.#options.ledger.keep(ref, session.node);
    const receivedMs = this.#options.clock.monotonicMs();
    this.#take(
      session,
      refs.map((ref) => newReport(blankFinished(ref), 'retracted', receivedMs, { session })),
    );
  }

  async #settle(gathered: (Report | RunReport)[]): Promise<void> {
    const { copies, epoch, clock, onStale } = this.#options;
    const singles = gathered.filter((report): report is Report => !isRun(report));
    const batch: Batch = { prepared: [], later: [], seen: new Set(), copied: new Set() };
    const nodesLost = await this.#nodesLost(singles);
    const nowMs = clock.monotonicMs();
    const [said, found] = [singles.filter(({ session }) => session), singles.filter(({ session }) => !session)];
    for (const report of said) this.#prepare(report, batch, nodesLost, nowMs);
    const { whole, parted, later } = sortRuns(gathered.filter(isRun), batch.seen, {
      ...this.#options,
      quota: this.#quota,
    });
    const reports = [...singles, ...parted.flatMap(apart)];
    for (const report of reports.slice(singles.length)) this.#prepare(report, batch, nodesLost, nowMs);
    // An agent that stops says what has ended, and is gone: of what it said nothing is lost.
    if (found.length > 0) for (const { singles } of whole) for (const attempt of singles) batch.seen.add(attempt);
    for (const report of found) this.#prepare(report, batch, nodesLost, nowMs);
    const { prepared } = batch;
    if (prepared.length + whole.length > 0) {
      const { accepted, jobs } = await copies.settle(
        epoch(),
        prepared.map(({ settlement }) => settlement),
        whole.map((run) => completedRun(run, nowMs)),
      );
      await this.#aftermath.findOut(prepared, whole, accepted);
      this.#aftermath.committed(prepared, whole, accepted, jobs);
    }
    onStale(reports.length - prepared.length - batch.later.length);
    this.#acknowledge(batch.later.length > 0 ? reports.filter((report) => !batch.later.includes(report)) : reports);
    for (const { session, sizeBytes } of parted) session.repay(sizeBytes);
    this.#acknowledgeRuns(whole);
    this.#finished.addAll([...batch.later, ...later]);
    this.#unsaved.saved(
      later.length > 0 ? gathered.filter((report) => !later.includes(report as RunReport)) : gathered,
    );
  }

  /** Into the batch, unless it is stale. */
  #prepare(report: Report, batch: Batch, nodesLost: ReadonlyMap<LiveAttempt, number>, nowMs: number): void {
    const { ledger, copies, jobs } = this.#options;
    const attempt = ledger.get(report.finished);
    const foreign = report.session !== undefined && attempt !== undefined && attempt.node !== report.session.node;
    if (!attempt || foreign || batch.seen.has(attempt)) {
      if (report.session) this.#refuse(report.session, report.finished);
      return;
    }
    if (copies.has(attempt)) {
      // Of two attempts of one task the second is decided on by what the first added to the task's counters.
      const key = `${attempt.job}.${attempt.index}`;
      if (batch.copied.has(key)) {
        batch.later.push(report);
        return;
      }
      batch.copied.add(key);
    }
    batch.seen.add(attempt);
    const job = jobs.get(attempt.job);
    const fitting = job ? this.#quota.fit(report, job) : report;
    const { finished, outcome, receivedMs } = fitting;
    const settlement =
      outcome === 'succeeded'
        ? completion(attempt, job, finished, finished.ageMs + nowMs - receivedMs)
        : this.#decide(fitting, attempt, nodesLost.get(attempt) ?? 0);
    batch.prepared.push({ report: fitting, attempt, settlement });
  }

  /** It names what is not, or no longer, its own. Of a condemned attempt it says that the room is free. */
  #refuse(session: AgentSession, ref: TaskRef): void {
    const { audit, ledger, fleet, onCapacity } = this.#options;
    ledger.release(ref, session.node);
    onCapacity();
    const node = fleet.nameOf(session.node);
    const certificate = fleet.get(session.node)?.row.certificateSerial ?? '';
    audit.tally({ name: `agent/${node}`, address: '', certificate }, 'result.stale', node);
  }

  /** How many nodes each of these took down, the present one included; only asked for attempts that had begun. */
  async #nodesLost(reports: Report[]): Promise<Map<LiveAttempt, number>> {
    const started = reports
      .filter(({ outcome }) => outcome === 'node-lost')
      .map(({ finished }) => this.#options.ledger.get(finished))
      .filter((attempt) => attempt && beganMs(attempt) !== undefined) as LiveAttempt[];
    const before = started.some((attempt) => attempt.losses > 0)
      ? await this.#options.store.tasks.nodesLost(started)
      : started.map(() => 0);
    return new Map(started.map((attempt, position) => [attempt, (before[position] ?? 0) + 1]));
  }

  #decide(report: Report, attempt: LiveAttempt, nodesLost: number): Settlement {
    const { jobs, fleet, clock, random } = this.#options;
    return settlementOf(report, attempt, {
      ...{ job: jobs.get(attempt.job), nodes: report.outcome === 'node-lost' ? fleet.count() : 0, nodesLost },
      nowMs: clock.monotonicMs(),
      random: random(),
    });
  }

  #acknowledge(reports: Report[]): void {
    const bySession = new Map<AgentSession, TaskRef[]>();
    for (const { session, finished, outcome, sizeBytes } of reports) {
      session?.repay(sizeBytes);
      if (!session || outcome === 'retracted') continue;
      const refs = bySession.get(session);
      if (refs) refs.push(finished);
      else bySession.set(session, [finished]);
    }
    for (const [session, refs] of bySession) session.send({ $case: 'finishedAck', value: toRefs(refs) });
  }

  #acknowledgeRuns(whole: readonly WholeRun[]): void {
    for (const [session, runs] of groupBy(whole, ({ report }) => report.session)) {
      for (const { report } of runs) session.repay(report.sizeBytes);
      session.send({ $case: 'finishedRunsAck', value: toTaskRuns(runs.map(({ report }) => report.run)) });
    }
  }
}
