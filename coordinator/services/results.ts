/**
 * How attempts end. Agents report in batches; reports of all sessions are gathered while a commit is under way and
 * settled together in the next (group commit), then acknowledged. What the statement did not accept is stale: it is
 * acknowledged too, so that the agent forgets it, and counted, not logged one by one (a noisy peer cannot flood the
 * log). Nothing is acknowledged before its commit.
 */
import { Batcher } from '../../common/batcher.js';
import type { Clock } from '../../common/clock.js';
import type { Service } from '../../common/lifecycle.js';
import type { Logger } from '../../common/log.js';
import { type Finished, Outcome, type Started } from '../../proto/gen/mesh/v1/agent.js';
import { OutputTail } from '../../proto/gen/mesh/v1/common.js';
import { OnFailure } from '../../proto/gen/mesh/v1/mesh.js';
import type { Ledger, LiveAttempt } from '../core/ledger.js';
import { spoiledByNode, updateReliability } from '../core/node.js';
import { settle } from '../core/settle.js';
import type { AttemptOutcome, TaskRef } from '../core/task.js';
import type { JobChange, Settlement, Store } from '../ports.js';
import type { Changes } from './changes.js';
import type { Fleet, LiveNode } from './fleet.js';
import type { Jobs, LiveJob } from './jobs.js';
import { type AgentSession, toRefs } from './session.js';

const BATCH_MAX = 1000;
const RETRY_MS = 500;
/** A node that could not run this many attempts of one job gets no more of it. */
const JOB_FAULTS_MAX = 3;

export interface ResultsOptions {
  store: Store;
  jobs: Jobs;
  fleet: Fleet;
  ledger: Ledger;
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
  observe: ResultObserver;
}

export interface ResultObserver {
  retried(reason: AttemptOutcome): void;
  ran(runMs: number, waitMs: number): void;
  jobEnded(seconds: number): void;
}

interface Report {
  session: AgentSession | undefined;
  finished: Finished;
  outcome: AttemptOutcome;
}

interface Prepared extends Report {
  attempt: LiveAttempt;
  settlement: Settlement;
}

export class Results implements Service {
  readonly name = 'results';
  readonly #options: ResultsOptions;
  readonly #finished: Batcher<Report>;
  readonly #started: Batcher<{ session: AgentSession; item: Started }>;
  #stopped = false;

  constructor(options: ResultsOptions) {
    this.#options = options;
    this.#finished = new Batcher({
      itemsMax: BATCH_MAX,
      flush: (items) => this.#settle(items),
      onError: (error, items) => this.#again(error, items),
    });
    this.#started = new Batcher({
      itemsMax: BATCH_MAX,
      flush: (items) => this.#markRunning(items),
      onError: (error) => options.log.warn({ event: 'task.running-unsaved', err: error }),
    });
  }

  async start(): Promise<void> {}

  async stop(): Promise<void> {
    await this.#finished.idle();
    await this.#started.idle();
    this.#stopped = true;
  }

  report(session: AgentSession, items: readonly Finished[]): void {
    this.#finished.addAll(items.map((finished) => ({ session, finished, outcome: toOutcome(finished.outcome) })));
  }

  started(session: AgentSession, items: readonly Started[]): void {
    this.#started.addAll(items.map((item) => ({ session, item })));
  }

  /** The infrastructure took these away: the node is gone, or it restarted without them. */
  lost(attempts: readonly LiveAttempt[], outcome: 'node-lost' | 'shutdown', error: string): void {
    this.#finished.addAll(
      attempts.map((attempt) => ({
        session: undefined,
        outcome,
        finished: { ...blankFinished(attempt), error, ageMs: 0 },
      })),
    );
  }

  /** The agent said goodbye and closed its stream: what it still held is lost to its shutdown, due at once. */
  gone(node: LiveNode): void {
    this.lost(this.#options.ledger.ofNode(node.row.seq), 'shutdown', `the agent on ${node.row.name} was stopped`);
  }

  /** Dropped by the agent before they started: they wait again and count as nothing. What it kept may be asked again. */
  retracted(session: AgentSession, refs: readonly TaskRef[], kept: readonly TaskRef[]): void {
    for (const ref of kept) this.#options.ledger.keep(ref, session.node);
    this.#finished.addAll(
      refs.map((ref) => ({ session, outcome: 'retracted' as const, finished: blankFinished(ref) })),
    );
  }

  async #settle(reports: Report[]): Promise<void> {
    const { store, epoch } = this.#options;
    const nodesLost = await this.#nodesLost(reports);
    const prepared: Prepared[] = [];
    const seen = new Set<LiveAttempt>();
    for (const report of reports) {
      const attempt = this.#options.ledger.get(report.finished);
      const foreign = report.session !== undefined && attempt !== undefined && attempt.node !== report.session.node;
      if (!attempt || foreign || seen.has(attempt)) continue;
      seen.add(attempt);
      prepared.push({ ...report, attempt, settlement: this.#decide(report, attempt, nodesLost.get(attempt) ?? 0) });
    }
    if (prepared.length > 0) {
      const settled = await store.tasks.settle(
        epoch(),
        prepared.map((item) => item.settlement),
      );
      this.#afterCommit(prepared, settled.accepted, settled.jobs);
    }
    this.#options.onStale(reports.length - prepared.length);
    this.#acknowledge(reports);
  }

  /** How many nodes each of these took down, the present one included; only asked for attempts that had started. */
  async #nodesLost(reports: Report[]): Promise<Map<LiveAttempt, number>> {
    const started = reports
      .filter(({ outcome }) => outcome === 'node-lost')
      .map(({ finished }) => this.#options.ledger.get(finished))
      .filter((attempt) => attempt?.startedAtMs !== undefined) as LiveAttempt[];
    const before = started.some((attempt) => attempt.losses > 0)
      ? await this.#options.store.tasks.nodesLost(started)
      : started.map(() => 0);
    return new Map(started.map((attempt, position) => [attempt, (before[position] ?? 0) + 1]));
  }

  #decide({ finished, outcome }: Report, attempt: LiveAttempt, nodesLost: number): Settlement {
    const job = this.#options.jobs.get(attempt.job);
    const policy = job?.policy ?? { failuresMax: 1, lossesMax: 1, backoffMs: 0, backoffCapMs: 0 };
    // What never started has not run: prefilled attempts of a lost node are due at once.
    const sinceMs = attempt.startedAtMs ?? (attempt.holding ? attempt.assignedAtMs : undefined);
    const nowMs = this.#options.clock.monotonicMs();
    const ranMs = finished.runUs > 0 ? finished.runUs / 1000 : nowMs - (sinceMs ?? nowMs);
    const decision = settle(
      {
        outcome,
        error: finished.error || undefined,
        counts: { failures: attempt.failures, losses: attempt.losses },
        policy,
        ranMs,
        nodesLost,
        nodes: this.#options.fleet.count(),
      },
      this.#options.random(),
    );
    return {
      job: attempt.job,
      index: attempt.index,
      generation: attempt.generation,
      node: attempt.node,
      to: decision.to,
      outcome,
      failure: decision.failure,
      loss: decision.loss,
      dueInMs: decision.dueInMs,
      exitCode: finished.exitCode,
      signal: finished.signal || undefined,
      error: decision.error,
      resultJson: finished.resultJson || undefined,
      output: finished.output ? OutputTail.encode(finished.output).finish() : undefined,
      runUs: finished.runUs || undefined,
      finishedAgeMs: finished.ageMs,
      peakMemoryBytes: finished.peakMemoryBytes,
    };
  }

  #afterCommit(prepared: Prepared[], accepted: boolean[], jobChanges: JobChange[]): void {
    const { jobs, ledger, fleet, clock, observe, onFailFast, onCapacity, onReturned, onStale } = this.#options;
    let stale = 0;
    const nowMs = clock.monotonicMs();
    const ran = new Map<LiveJob, { count: number; totalMs: number }>();
    prepared.forEach((item, position) => {
      const { attempt, settlement, outcome, finished } = item;
      ledger.remove(attempt);
      if (!accepted[position]) {
        stale++;
        return;
      }
      const job = jobs.get(attempt.job);
      if (outcome === 'node-fault') this.#blameForJob(attempt);
      if (settlement.to === 'RETRYING') observe.retried(outcome);
      if (outcome === 'succeeded' && job) {
        const runMs = finished.runUs / 1000;
        const sum = ran.get(job) ?? { count: 0, totalMs: 0 };
        ran.set(job, { count: sum.count + 1, totalMs: sum.totalMs + runMs });
        observe.ran(runMs, Math.max(0, nowMs - attempt.assignedAtMs - runMs));
      }
      if (settlement.to === 'FAILED' && job?.row.spec.onFailure === OnFailure.FAIL_FAST)
        onFailFast(attempt.job, `task ${attempt.index} failed: ${settlement.error ?? outcome}`);
      this.#emitOutput(attempt, finished);
    });
    if (stale > 0) onStale(stale);
    for (const [job, { count, totalMs }] of ran) job.taskTime.observe(totalMs, count);
    this.#judgeNodes(prepared);
    for (const job of jobs.apply(jobChanges)) {
      const endedAtMs = job.completedAtMs ?? clock.wallMs();
      observe.jobEnded((endedAtMs - job.createdAtMs) / 1000);
      this.#options.log.info({ event: 'job.ended', job: job.id, status: job.status, tasks: job.counts.total });
    }
    for (const node of new Set(prepared.map((item) => item.attempt.node))) {
      const live = fleet.get(node);
      if (live?.session?.open) fleet.alive(live);
    }
    if (prepared.some(({ settlement }) => settlement.dueInMs !== undefined)) onReturned();
    else onCapacity();
  }

  /** Only failures the node caused count; a lost node is one event, however many attempts it held. */
  #judgeNodes(prepared: Prepared[]): void {
    const verdicts = new Map<number, { good: number; bad: number; lost: boolean }>();
    for (const { attempt, outcome } of prepared) {
      const spoiled = spoiledByNode(outcome);
      if (spoiled === undefined) continue;
      const verdict = verdicts.get(attempt.node) ?? { good: 0, bad: 0, lost: false };
      verdicts.set(attempt.node, verdict);
      if (outcome === 'node-lost') verdict.lost = true;
      else if (spoiled) verdict.bad++;
      else verdict.good++;
    }
    for (const [seq, { good, bad, lost }] of verdicts) {
      const node = this.#options.fleet.get(seq);
      if (!node) continue;
      node.reliability = updateReliability(node.reliability, false, good);
      node.reliability = updateReliability(node.reliability, true, bad + (lost ? 1 : 0));
      node.finished += good + bad;
    }
  }

  /** A node that cannot run this job's tasks gets no more of it. */
  #blameForJob(attempt: LiveAttempt): void {
    const { fleet, jobs, log } = this.#options;
    const job = jobs.get(attempt.job);
    const node = fleet.get(attempt.node);
    if (!job || !node) return;
    const faults = (job.faults.get(attempt.node) ?? 0) + 1;
    job.faults.set(attempt.node, faults);
    if (faults < JOB_FAULTS_MAX || job.blockedNodes.has(attempt.node)) return;
    job.blockedNodes.add(attempt.node);
    log.warn({ event: 'node.blocked-for-job', node: node.row.name, job: job.row.id, faults });
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
    for (const { session, finished, outcome } of reports) {
      if (!session || outcome === 'retracted') continue;
      const refs = bySession.get(session);
      if (refs) refs.push(finished);
      else bySession.set(session, [finished]);
    }
    for (const [session, refs] of bySession) session.send({ $case: 'finishedAck', value: toRefs(refs) });
  }

  async #markRunning(items: { session: AgentSession; item: Started }[]): Promise<void> {
    const { store, jobs, ledger, clock, epoch } = this.#options;
    const rows = items
      .filter(({ session, item }) => ledger.get(item)?.node === session.node)
      .map(({ session, item }) => ({ ...item, node: session.node }));
    if (rows.length === 0) return;
    const { changed, jobs: jobChanges } = await store.tasks.markRunning(epoch(), rows);
    const nowMs = clock.monotonicMs();
    const ageMs = new Map(rows.map((row) => [`${row.job}.${row.index}`, row.ageMs]));
    for (const ref of changed) {
      const attempt = ledger.get(ref);
      if (attempt) ledger.markRunning(ref, attempt.node, nowMs - (ageMs.get(`${ref.job}.${ref.index}`) ?? 0));
    }
    jobs.apply(jobChanges);
  }

  /** The database was away: what was not committed is not acknowledged, and is tried again until it is. */
  #again(error: unknown, items: Report[]): void {
    const { log, clock } = this.#options;
    log.error({ event: 'results.unsaved', count: items.length, err: error }, 'could not commit results; trying again');
    if (this.#stopped) return;
    clock.after(RETRY_MS, () => this.#finished.addAll(items));
  }
}

const OUTCOMES: Partial<Record<Outcome, AttemptOutcome>> = {
  [Outcome.SUCCEEDED]: 'succeeded',
  [Outcome.FAILED]: 'failed',
  [Outcome.TIMED_OUT]: 'timed-out',
  [Outcome.CANCELLED]: 'cancelled',
  [Outcome.SHUTDOWN]: 'shutdown',
};

const toOutcome = (outcome: Outcome): AttemptOutcome => OUTCOMES[outcome] ?? 'node-fault';

function blankFinished(ref: TaskRef): Finished {
  return {
    job: ref.job,
    index: ref.index,
    generation: ref.generation,
    outcome: Outcome.NODE_FAULT,
    exitCode: undefined,
    signal: '',
    error: '',
    runUs: 0,
    ageMs: 0,
    peakMemoryBytes: undefined,
    resultJson: '',
    output: undefined,
  };
}
