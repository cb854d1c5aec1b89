/**
 * Runs of plain successes (`SucceededRun`), which stay one thing from the wire to their acknowledgement. A run is settled
 * whole when every task of it is live where it was reported from and nothing about any of them needs care; otherwise its
 * results are looked at one by one, as if they had come so.
 */
import { resultAt } from '../../common/result-run.js';
import { Outcome, type SucceededRun, type TaskRuns } from '../../proto/gen/mesh/v1/agent.js';
import type { Ledger, LiveAttempt, LiveRun } from '../core/ledger.js';
import { RANGE_MIN } from '../core/task.js';
import type { CompletedRun } from '../ports.js';
import type { Copies } from './copies.js';
import type { Jobs, LiveJob } from './jobs.js';
import type { ResultQuota } from './result-quota.js';
import type { AgentSession } from './session.js';
import { blankFinished, newReport, type Report, REPORT_BYTES } from './settlement.js';

export interface RunReport {
  session: AgentSession;
  run: SucceededRun;
  /** As of a report by itself. */
  receivedMs: number;
  sizeBytes: number;
  unsure: true | undefined;
}

/** One that is settled whole. */
export interface WholeRun extends LiveRun {
  report: RunReport;
  job: LiveJob;
}

export const isRun = (report: Report | RunReport): report is RunReport => 'run' in report;

/** How many results it says. */
export const weight = (report: Report | RunReport): number => (isRun(report) ? report.run.runUs.length : 1);

/** What each of its tasks adds while it waits: a number, and what becomes of it during the commit. */
const TASK_BYTES = 64;

export const newRunReport = (session: AgentSession, run: SucceededRun, receivedMs: number): RunReport => ({
  session,
  run,
  receivedMs,
  sizeBytes: REPORT_BYTES + TASK_BYTES * run.runUs.length + payloadBytes(run),
  unsure: undefined,
});

/** What is stored of it: a result that it says once is one of each task. */
export function payloadBytes({ resultsJson, runUs }: SucceededRun): number {
  if (resultsJson.length === 1) return (resultsJson[0] as string).length * runUs.length;
  return resultsJson.reduce((bytes, text) => bytes + text.length, 0);
}

/** Its results one by one. The run answers for what they take in memory. */
export const apart = ({ run, session, receivedMs, unsure }: RunReport): Report[] =>
  run.runUs.map((runUs, place) => {
    const ref = { job: run.job, index: run.first + place, generation: 1 };
    const { ageMs, exitCode } = run;
    const said = { outcome: Outcome.SUCCEEDED, runUs, ageMs, exitCode, resultJson: resultAt(run, place) };
    const report = newReport({ ...blankFinished(ref), ...said }, 'succeeded', receivedMs, { session });
    return { ...report, sizeBytes: 0, unsure };
  });

export interface RunSorting {
  ledger: Ledger;
  jobs: Jobs;
  copies: Copies;
  quota: ResultQuota;
}

/**
 * Which of them can be settled whole, in order of job and index, beside the attempts that `seen` says are settled with
 * them. `later` are those that say again what another one of them says.
 */
export function sortRuns(
  reports: readonly RunReport[],
  seen: ReadonlySet<LiveAttempt>,
  sorting: RunSorting,
): { whole: WholeRun[]; parted: RunReport[]; later: RunReport[] } {
  const [whole, parted, later]: [WholeRun[], RunReport[], RunReport[]] = [[], [], []];
  const ordered = reports.toSorted(({ run: a }, { run: b }) => a.job - b.job || a.first - b.first);
  let [job, end] = [0, 0];
  for (const report of ordered) {
    const { run } = report;
    if (run.job === job && run.first < end) {
      later.push(report);
      continue;
    }
    [job, end] = [run.job, run.first + run.runUs.length];
    const found = asWhole(report, seen, sorting);
    if (found) whole.push(found);
    else parted.push(report);
  }
  return { whole, parted, later };
}

function asWhole(
  report: RunReport,
  seen: ReadonlySet<LiveAttempt>,
  { ledger, jobs, copies, quota }: RunSorting,
): WholeRun | undefined {
  const { run, session } = report;
  const job = jobs.get(run.job);
  if (!job || copies.count(run.job) > 0 || quota.isFull(job)) return undefined;
  const live = ledger.liveRun(run.job, session.node, run.first, run.runUs.length);
  if (!live || (seen.size > 0 && live.singles.some((attempt) => seen.has(attempt)))) return undefined;
  return { report, job, ...live };
}

/**
 * How long the first of a run of commands, which ran one after the other, had been over when it was told. Functions are
 * told within milliseconds.
 */
export const waitedMs = ({ exitCode, runUs, ageMs }: SucceededRun): number =>
  exitCode === undefined ? 0 : ageMs + runUs.reduce((sum, us) => sum + us, -(runUs[0] ?? 0)) / 1000;

/** As it is committed. */
export const completedRun = ({ report: { run, receivedMs, session }, job }: WholeRun, nowMs: number): CompletedRun => ({
  job: run.job,
  node: session.node,
  first: run.first,
  hasRows: job.row.counts.total < RANGE_MIN,
  runUs: run.runUs,
  resultsJson: run.resultsJson,
  exitCode: run.exitCode,
  finishedAgeMs: run.ageMs + nowMs - receivedMs,
});

/** As they are acknowledged. */
export const toTaskRuns = (runs: readonly SucceededRun[]): TaskRuns => ({
  jobs: runs.map(({ job }) => job),
  firsts: runs.map(({ first }) => first),
  counts: runs.map(({ runUs }) => runUs.length),
});
