/**
 * How attempts end. Agents report in batches; reports of all sessions are gathered while a commit is under way and
 * settled together in the next (group commit), then acknowledged. What the statement did not accept is stale: it is
 * acknowledged too, so that the agent forgets it, and counted, not logged one by one (a noisy peer cannot flood the
 * log). Nothing is acknowledged before its commit.
 */
import { Batcher } from '../../common/batcher.js';
import type { Clock } from '../../common/clock.js';
import { MeshError } from '../../common/errors.js';
import type { Service } from '../../common/lifecycle.js';
import type { Logger } from '../../common/log.js';
import type { Finished, Started } from '../../proto/gen/mesh/v1/agent.js';
import { OnFailure } from '../../proto/gen/mesh/v1/mesh.js';
import type { Ledger, LiveAttempt } from '../core/ledger.js';
import type { AttemptOutcome, TaskRef } from '../core/task.js';
import type { JobChange, JobRow, Settlement, Store } from '../ports.js';
import type { Changes } from './changes.js';
import type { Audit } from './audit.js';
import type { Copies } from './copies.js';
import type { Fleet, LiveNode } from './fleet.js';
import type { Jobs } from './jobs.js';
import { NodeJudge } from './node-judge.js';
import type { PipelineDelay } from './pipeline-delay.js';
import { RunTimes } from './run-times.js';
import { type AgentSession, toRefs } from './session.js';
import { ResultQuota } from './result-quota.js';
import {
  beganMs,
  blankFinished,
  completion,
  newReport,
  payloadBytes,
  type Report,
  settlementOf,
  toOutcome,
} from './settlement.js';
import { Starts } from './starts.js';
import { Unsaved } from './unsaved.js';

const BATCH_MAX = 1000;

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

interface Prepared {
  report: Report;
  attempt: LiveAttempt;
  settlement: Settlement;
}

export class Results implements Service {
  readonly name = 'results';
  readonly #options: ResultsOptions;
  readonly #judge: NodeJudge;
  readonly #quota: ResultQuota;
  readonly #finished: Batcher<Report>;
  readonly #unsaved: Unsaved<Report>;
  readonly #starts: Starts;
  /** Being given away: an attempt is lost once, however often somebody notices. */
  readonly #leaving = new WeakSet<LiveAttempt>();

  constructor(options: ResultsOptions) {
    this.#options = options;
    this.#judge = new NodeJudge(options);
    this.#quota = new ResultQuota(options);
    this.#finished = new Batcher({
      itemsMax: BATCH_MAX,
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

  report(session: AgentSession, items: readonly Finished[]): void {
    const receivedMs = this.#options.clock.monotonicMs();
    this.#take(
      session,
      items.map((finished) => newReport(finished, toOutcome(finished.outcome), receivedMs, { session })),
    );
  }

  /** What a session said; it owes them until they are settled. */
  #take(session: AgentSession, reports: readonly Report[]): void {
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

  async #settle(reports: Report[]): Promise<void> {
    const { copies, epoch } = this.#options;
    const nodesLost = await this.#nodesLost(reports);
    const nowMs = this.#options.clock.monotonicMs();
    const prepared: Prepared[] = [];
    const seen = new Set<LiveAttempt>();
    const copied = new Set<string>();
    const later: Report[] = [];
    for (const report of reports) {
      const attempt = this.#options.ledger.get(report.finished);
      const foreign = report.session !== undefined && attempt !== undefined && attempt.node !== report.session.node;
      if (!attempt || foreign || seen.has(attempt)) {
        if (report.session) this.#refuse(report.session, report.finished);
        continue;
      }
      if (copies.has(attempt)) {
        // Of two attempts of one task the second is decided on by what the first added to the task's counters.
        const key = `${attempt.job}.${attempt.index}`;
        if (copied.has(key)) {
          later.push(report);
          continue;
        }
        copied.add(key);
      }
      seen.add(attempt);
      const job = this.#options.jobs.get(attempt.job);
      const fitting = job ? this.#quota.fit(report, job) : report;
      const settlement =
        fitting.outcome === 'succeeded'
          ? completion(fitting, attempt, nowMs)
          : this.#decide(fitting, attempt, nodesLost.get(attempt) ?? 0);
      prepared.push({ report: fitting, attempt, settlement });
    }
    if (prepared.length > 0) {
      const settled = await copies.settle(
        epoch(),
        prepared.map((item) => item.settlement),
      );
      await this.#findOut(prepared.filter(({ report }, position) => report.unsure && !settled.accepted[position]));
      this.#afterCommit(prepared, settled.accepted, settled.jobs);
    }
    this.#options.onStale(reports.length - prepared.length - later.length);
    this.#acknowledge(later.length > 0 ? reports.filter((report) => !later.includes(report)) : reports);
    this.#finished.addAll(later);
    this.#unsaved.saved(reports);
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

  /**
   * What was refused after a failed commit was committed by it: the jobs' changes went with the lost answer and are
   * read from their rows.
   */
  async #findOut(items: readonly Prepared[]): Promise<void> {
    const { store, jobs, onFailFast } = this.#options;
    for (const seq of new Set(items.map(({ attempt }) => attempt.job))) {
      const id = jobs.get(seq)?.row.id;
      const row = id === undefined ? undefined : await store.jobs.get(id);
      if (!row) continue;
      this.#jobsEnded(jobs.follow(row));
      if (row.spec.onFailure === OnFailure.FAIL_FAST && row.counts.failed > 0) onFailFast(seq, 'a task failed');
    }
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

  #afterCommit(prepared: Prepared[], accepted: boolean[], jobChanges: JobChange[]): void {
    const { jobs, ledger, fleet, clock, observe, onFailFast, onCapacity, onReturned, onStale, pipeline } =
      this.#options;
    const valid = prepared.filter((_, position) => accepted[position]);
    let stale = 0;
    const nowMs = clock.monotonicMs();
    const ran = new RunTimes();
    prepared.forEach((item, position) => {
      const { attempt, settlement, report } = item;
      const { outcome, finished } = report;
      ledger.remove(attempt);
      if (!accepted[position]) {
        stale++;
        if (report.session && !report.unsure) this.#refuse(report.session, attempt);
        return;
      }
      const job = jobs.get(attempt.job);
      if (job) this.#quota.charge(job, payloadBytes(finished));
      if (settlement.to === 'RETRYING') observe.retried(outcome);
      if (outcome === 'succeeded' && job) {
        const runMs = finished.runUs / 1000;
        ran.add(job, attempt.node, runMs);
        observe.ran(runMs, Math.max(0, nowMs - attempt.assignedAtMs - runMs));
      }
      if (settlement.to === 'FAILED' && job?.row.spec.onFailure === OnFailure.FAIL_FAST)
        onFailFast(attempt.job, `task ${attempt.index} failed: ${settlement.error ?? outcome}`);
      this.#emitOutput(attempt, finished);
      if (settlement.to === 'COMPLETED') this.#options.changes.results.emit(attempt.job, settlement);
    });
    if (stale > 0) onStale(stale);
    ran.teach(fleet);
    // What was never told to a node says nothing about it.
    this.#judge.settled(valid.filter(({ report }) => report.session !== undefined || report.outcome !== 'failed'));
    this.#jobsEnded(jobs.apply(jobChanges));
    for (const node of new Set(prepared.map((item) => item.attempt.node))) {
      const live = fleet.get(node);
      if (live?.session?.open) fleet.alive(live);
    }
    const first = prepared[0];
    if (first) pipeline.freed(first.report.receivedMs);
    if (prepared.some(({ settlement }) => settlement.dueInMs !== undefined)) onReturned();
    else onCapacity();
  }

  #jobsEnded(ended: readonly JobRow[]): void {
    const { clock, observe, log } = this.#options;
    for (const job of ended) {
      const endedAtMs = job.completedAtMs ?? clock.wallMs();
      observe.jobEnded((endedAtMs - job.createdAtMs) / 1000);
      log.info({ event: 'job.ended', job: job.id, status: job.status, tasks: job.counts.total });
    }
  }

  #emitOutput(attempt: LiveAttempt, finished: Finished): void {
    const { changes, clock } = this.#options;
    if (!changes.output.has(attempt.job)) return;
    changes.output.emit(attempt.job, {
      job: attempt.job,
      index: attempt.index,
      generation: attempt.generation,
      attempt: attempt.failures + attempt.losses + 1,
      startedAtMs: clock.wallMs() - finished.ageMs - finished.runUs / 1000,
      chunks: finished.output?.chunks ?? [],
      last: true,
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
}
