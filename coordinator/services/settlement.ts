/** From what was said about the end of an attempt to what is committed about its task. */
import { type Finished, Outcome } from '../../proto/gen/mesh/v1/agent.js';
import { OutputTail } from '../../proto/gen/mesh/v1/common.js';
import type { LiveAttempt } from '../core/ledger.js';
import { settle } from '../core/settle.js';
import { isFenced } from '../core/spec.js';
import { type AttemptOutcome, RANGE_MIN, type TaskRef } from '../core/task.js';
import type { Settlement } from '../ports.js';
import type { LiveJob } from './jobs.js';
import type { AgentSession } from './session.js';

export interface Report {
  /** Undefined when it is the coordinator's own finding. */
  session: AgentSession | undefined;
  finished: Finished;
  outcome: AttemptOutcome;
  /** Monotonic; however long the database is away, a result is no younger than that. */
  receivedMs: number;
  /** What it takes in memory while it waits, about; the session owes it until then. */
  sizeBytes: number;
  /** A commit of it failed, and nobody knows whether it took effect. */
  unsure: true | undefined;
  fencedInMs: number;
  /** It would end the same way again: no retry. */
  final: true | undefined;
}

/** Of a report without what it brings. */
export const REPORT_BYTES = 256;

/** Reports come by the hundred thousand: all are made here, of one shape. */
export const newReport = (
  finished: Finished,
  outcome: AttemptOutcome,
  receivedMs: number,
  { session, fencedInMs = 0 }: { session: AgentSession | undefined; fencedInMs?: number },
): Report => ({
  session,
  finished,
  outcome,
  receivedMs,
  sizeBytes: session ? REPORT_BYTES + payloadBytes(finished) : 0,
  unsure: undefined,
  fencedInMs,
  final: undefined,
});

/** What a result brings: what is stored of it, and what it takes in memory. */
export function payloadBytes({ resultJson, error, output }: Finished): number {
  let bytes = resultJson.length + error.length;
  for (const chunk of output?.chunks ?? []) bytes += chunk.data.length;
  return bytes;
}

export interface Circumstances {
  job: LiveJob | undefined;
  /** Distinct nodes this task took down, the present one included. */
  nodesLost: number;
  /** Nodes that may get work some time. */
  nodes: number;
  /** Monotonic. */
  nowMs: number;
  /** In [0, 1). */
  random: number;
}

const NO_POLICY = { failuresMax: 1, lossesMax: 1, backoffMs: 0, backoffCapMs: 0 };

interface Success {
  resultJson: string;
  runUs: number;
  exitCode?: number | undefined;
  output?: OutputTail | undefined;
  peakMemoryBytes?: number | undefined;
}

/** What was said of a success needs no decision. */
export const completion = (
  attempt: LiveAttempt,
  job: LiveJob | undefined,
  success: Success,
  finishedAgeMs: number,
): Settlement => ({
  job: attempt.job,
  index: attempt.index,
  generation: attempt.generation,
  node: attempt.node,
  hasRow: attempt.generation > 1 || (job !== undefined && job.row.counts.total < RANGE_MIN),
  to: 'COMPLETED',
  outcome: 'succeeded',
  failure: 0,
  loss: 0,
  dueInMs: undefined,
  exitCode: success.exitCode,
  signal: undefined,
  error: undefined,
  resultJson: success.resultJson || undefined,
  output: success.output ? OutputTail.encode(success.output).finish() : undefined,
  runUs: success.runUs || undefined,
  finishedAgeMs,
  peakMemoryBytes: success.peakMemoryBytes,
});

export function settlementOf(report: Report, attempt: LiveAttempt, circumstances: Circumstances): Settlement {
  const { finished, outcome, receivedMs, fencedInMs } = report;
  const { job, nodesLost, nodes, nowMs, random } = circumstances;
  const sinceMs = beganMs(attempt);
  const ranMs = finished.runUs > 0 ? finished.runUs / 1000 : Math.max(0, receivedMs - (sinceMs ?? receivedMs));
  // Of what its node took with it, the row must tell what had begun from what had not: it counts for quarantine.
  const guessUs = outcome === 'node-lost' && sinceMs !== undefined ? Math.max(1, Math.round(ranMs * 1000)) : undefined;
  const decision = settle(
    {
      outcome,
      error: finished.error || undefined,
      counts: { failures: attempt.failures, losses: attempt.losses },
      policy: report.final ? NO_POLICY : (job?.policy ?? NO_POLICY),
      ranMs,
      fenced: job !== undefined && isFenced(job.row.spec),
      ...{ fencedInMs, nodesLost, nodes },
    },
    random,
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
    runUs: finished.runUs || guessUs,
    finishedAgeMs: finished.ageMs + nowMs - receivedMs,
    peakMemoryBytes: finished.peakMemoryBytes,
  };
}

const OUTCOMES: Partial<Record<Outcome, AttemptOutcome>> = {
  [Outcome.SUCCEEDED]: 'succeeded',
  [Outcome.FAILED]: 'failed',
  [Outcome.TIMED_OUT]: 'timed-out',
  [Outcome.CANCELLED]: 'cancelled',
  [Outcome.SHUTDOWN]: 'shutdown',
};

/** What has not begun has not run: prefilled attempts of a lost node are due at once and condemn nobody. */
export const beganMs = (attempt: LiveAttempt): number | undefined =>
  attempt.startedAtMs ?? (attempt.holding ? attempt.assignedAtMs : undefined);

export const toOutcome = (outcome: Outcome): AttemptOutcome => OUTCOMES[outcome] ?? 'node-fault';

export function blankFinished(ref: TaskRef): Finished {
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
