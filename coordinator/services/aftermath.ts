/** What a committed batch of results changes beside the database: the ledger, what is learned, and who hears of it. */
import type { Clock } from '../../common/clock.js';
import type { Logger } from '../../common/log.js';
import type { Finished, SucceededRun } from '../../proto/gen/mesh/v1/agent.js';
import { OnFailure } from '../../proto/gen/mesh/v1/mesh.js';
import type { Ledger, LiveAttempt } from '../core/ledger.js';
import type { AttemptCounts, TaskRef } from '../core/task.js';
import { type JobChange, type JobRow, resultOf, type Settlement, type Store } from '../ports.js';
import type { Changes } from './changes.js';
import type { Fleet } from './fleet.js';
import type { Jobs } from './jobs.js';
import type { NodeJudge } from './node-judge.js';
import type { PipelineDelay } from './pipeline-delay.js';
import { payloadBytes as runBytes, waitedMs, type WholeRun } from './result-runs.js';
import type { ResultQuota } from './result-quota.js';
import type { ResultObserver } from './results.js';
import { RunTimes } from './run-times.js';
import type { AgentSession } from './session.js';
import { payloadBytes, type Report } from './settlement.js';

export interface Prepared {
  report: Report;
  attempt: LiveAttempt;
  settlement: Settlement;
}

export interface AftermathOptions {
  store: Store;
  jobs: Jobs;
  fleet: Fleet;
  ledger: Ledger;
  changes: Changes;
  clock: Clock;
  log: Logger;
  quota: ResultQuota;
  judge: NodeJudge;
  pipeline: PipelineDelay;
  observe: ResultObserver;
  onCapacity: () => void;
  onReturned: () => void;
  onFailFast: (job: number, reason: string) => void;
  onStale: (count: number) => void;
  /** It was said of what is not, or no longer, that session's. */
  refuse: (session: AgentSession, ref: TaskRef) => void;
}

/** `accepted` speaks of each single result in order, then of each task of each run. */
export class Aftermath {
  constructor(private readonly options: AftermathOptions) {}

  committed(
    prepared: readonly Prepared[],
    whole: readonly WholeRun[],
    accepted: readonly boolean[],
    jobChanges: JobChange[],
  ): void {
    const { jobs, fleet, onCapacity, onReturned, onStale, pipeline } = this.options;
    const nowMs = this.options.clock.monotonicMs();
    const ran = new RunTimes();
    let stale = 0;
    prepared.forEach((item, position) => {
      if (!this.#settled(item, accepted[position] === true, nowMs, ran)) stale++;
    });
    const valid = prepared.filter((_, position) => accepted[position]);
    // What was never told to a node says nothing about it.
    this.options.judge.settled(
      valid.filter(({ report }) => report.session !== undefined || report.outcome !== 'failed'),
    );
    let from = prepared.length;
    for (const run of whole) {
      stale += this.#runSettled(run, accepted, from, nowMs, ran);
      from += run.report.run.runUs.length;
    }
    if (stale > 0) onStale(stale);
    ran.teach(fleet);
    this.#jobsEnded(jobs.apply(jobChanges));
    const nodes = new Set(prepared.map(({ attempt }) => attempt.node));
    for (const { report } of whole) nodes.add(report.session.node);
    for (const node of nodes) {
      const live = fleet.get(node);
      if (live?.session?.open) fleet.alive(live);
    }
    const first = (prepared[0] ?? whole[0])?.report;
    const heldMs = whole.reduce((most, { report }) => Math.max(most, waitedMs(report.run)), 0);
    if (first) pipeline.freed(first.receivedMs, heldMs);
    if (prepared.some(({ settlement }) => settlement.dueInMs !== undefined)) onReturned();
    else onCapacity();
  }

  /** False when it was not accepted. */
  #settled({ attempt, settlement, report }: Prepared, isAccepted: boolean, nowMs: number, ran: RunTimes): boolean {
    const { jobs, ledger, observe, onFailFast } = this.options;
    const { outcome, finished } = report;
    ledger.remove(attempt);
    if (!isAccepted) {
      if (report.session && !report.unsure) this.options.refuse(report.session, attempt);
      return false;
    }
    const job = jobs.get(attempt.job);
    if (job) this.options.quota.charge(job, payloadBytes(finished));
    if (settlement.to === 'RETRYING') observe.retried(outcome);
    if (outcome === 'succeeded' && job) {
      const runMs = finished.runUs / 1000;
      ran.add(job, attempt.node, runMs);
      observe.ran(runMs, Math.max(0, nowMs - attempt.assignedAtMs - runMs));
    }
    if (settlement.to === 'FAILED' && job?.row.spec.onFailure === OnFailure.FAIL_FAST)
      onFailFast(attempt.job, `task ${attempt.index} failed: ${settlement.error ?? outcome}`);
    this.#emitOutput(attempt, finished);
    if (settlement.to === 'COMPLETED') this.options.changes.results.emit(attempt.job, settlement);
    return true;
  }

  /** How many of them were not accepted; what was said of them stands in `accepted` from there on. */
  #runSettled(
    { report, pieces, job }: WholeRun,
    accepted: readonly boolean[],
    from: number,
    nowMs: number,
    ran: RunTimes,
  ): number {
    const { ledger, observe, changes } = this.options;
    const { session, run, unsure } = report;
    const { length } = run.runUs;
    ledger.removeRun(run.job, session.node, run.first, length);
    const isHeard = changes.output.has(run.job) || changes.results.has(run.job);
    let [stale, totalMs, place] = [0, 0, 0];
    for (const { size, assignedAtMs } of pieces)
      for (const end = place + size; place < end; place++) {
        if (!accepted[from + place]) {
          stale++;
          if (!unsure) this.options.refuse(session, { job: run.job, index: run.first + place, generation: 1 });
          continue;
        }
        const runMs = (run.runUs[place] as number) / 1000;
        totalMs += runMs;
        observe.ran(runMs, Math.max(0, nowMs - assignedAtMs - runMs));
        if (isHeard) this.#emitOf(run, place);
      }
    const count = length - stale;
    if (count === 0) return stale;
    this.options.quota.charge(job, (runBytes(run) * count) / length);
    ran.add(job, session.node, totalMs, count);
    this.options.judge.succeeded(session.node, run.job, count);
    return stale;
  }

  /** Somebody follows the job. */
  #emitOf(run: SucceededRun, place: number): void {
    const { job, ageMs } = run;
    const index = run.first + place;
    const attempt = { job, index, generation: 1, failures: 0, losses: 0 };
    this.#emitOutput(attempt, { ageMs, runUs: run.runUs[place] as number, output: undefined });
    this.options.changes.results.emit(job, { index, resultJson: resultOf(run, place), output: undefined });
  }

  /**
   * What was refused after a failed commit was committed by it: the jobs' changes went with the lost answer and are
   * read from their rows.
   */
  async findOut(
    prepared: readonly Prepared[],
    whole: readonly WholeRun[],
    accepted: readonly boolean[],
  ): Promise<void> {
    const { store, jobs, onFailFast } = this.options;
    const unsure = new Set<number>();
    prepared.forEach(({ report, attempt }, at) => report.unsure && !accepted[at] && unsure.add(attempt.job));
    let from = prepared.length;
    for (const { report, job } of whole) {
      const { length } = report.run.runUs;
      if (report.unsure && accepted.slice(from, from + length).includes(false)) unsure.add(job.row.seq);
      from += length;
    }
    for (const seq of unsure) {
      const id = jobs.get(seq)?.row.id;
      const row = id === undefined ? undefined : await store.jobs.get(id);
      if (!row) continue;
      this.#jobsEnded(jobs.follow(row));
      if (row.spec.onFailure === OnFailure.FAIL_FAST && row.counts.failed > 0) onFailFast(seq, 'a task failed');
    }
  }

  #jobsEnded(ended: readonly JobRow[]): void {
    const { clock, observe, log } = this.options;
    for (const job of ended) {
      const endedAtMs = job.completedAtMs ?? clock.wallMs();
      observe.jobEnded((endedAtMs - job.createdAtMs) / 1000);
      // Who follows the job hears of it in this turn; a line takes as long to write as that.
      setImmediate(() => log.info({ event: 'job.ended', job: job.id, status: job.status, tasks: job.counts.total }));
    }
  }

  #emitOutput(attempt: TaskRef & AttemptCounts, finished: Pick<Finished, 'ageMs' | 'runUs' | 'output'>): void {
    const { changes, clock } = this.options;
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
}
