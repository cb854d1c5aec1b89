/** What the coordinator is told of an attempt's end. */
import { type Finished, Outcome } from '../../proto/gen/mesh/v1/agent.js';
import type { Attempt } from '../core/attempt.js';
import type { AttemptEnd, AttemptRef } from '../core/types.js';
import type { OutputSpool } from '../output/spool.js';

const OUTCOMES: Record<AttemptEnd['outcome'], Outcome> = {
  succeeded: Outcome.SUCCEEDED,
  failed: Outcome.FAILED,
  'timed-out': Outcome.TIMED_OUT,
  cancelled: Outcome.CANCELLED,
  shutdown: Outcome.SHUTDOWN,
  // Nobody's fault, and due again at once: to the coordinator it is the same.
  fenced: Outcome.SHUTDOWN,
  'node-fault': Outcome.NODE_FAULT,
};

/** What the coordinator is told. Output that the disk would not take makes it the node's failure, whatever it was. */
export function resultOf(attempt: Attempt, end: AttemptEnd, spool: OutputSpool | undefined): Finished {
  const unkept = end.outcome === 'succeeded' || end.outcome === 'failed' ? spool?.failure : undefined;
  return {
    job: attempt.job,
    index: attempt.index,
    generation: attempt.generation,
    outcome: unkept === undefined ? OUTCOMES[end.outcome] : Outcome.NODE_FAULT,
    exitCode: end.exitCode,
    signal: end.signal ?? '',
    error: unkept === undefined ? (end.error ?? '') : `the output could not be kept: ${unkept}`,
    runUs: Math.round(end.runUs),
    ageMs: 0,
    peakMemoryBytes: end.peakMemoryBytes,
    resultJson: end.resultJson ?? '',
    output: spool?.tail(),
  };
}

/** The end of one that never ran. */
export function blank({ job, index, generation }: AttemptRef, outcome: Outcome, error: string): Finished {
  return {
    ...{ job, index, generation, outcome, error },
    exitCode: undefined,
    signal: '',
    runUs: 0,
    ageMs: 0,
    peakMemoryBytes: undefined,
    resultJson: '',
    output: undefined,
  };
}
