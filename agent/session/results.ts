/** What the coordinator is told of attempts' ends: one by one, or of what is plain in runs of successive tasks. */
import { resultAt, RUN_RESULT_CHARS_MAX } from '../../common/result-run.js';
import { type Finished, type FinishedBatch, Outcome, type SucceededRun } from '../../proto/gen/mesh/v1/agent.js';
import type { Attempt } from '../core/attempt.js';
import type { AttemptEnd, AttemptRef } from '../core/types.js';
import type { OutputSpool } from '../output/spool.js';

export type Result = Finished | SucceededRun;

export const isRun = (result: Result): result is SucceededRun => 'resultsJson' in result;

/** Of how many attempts. */
export const countOf = (result: Result): number => (isRun(result) ? result.runUs.length : 1);

/** Which. */
export function* refsOf(result: Result): Generator<AttemptRef> {
  if (!isRun(result)) return yield result;
  const { job, first, runUs } = result;
  for (let i = 0; i < runUs.length; i++) yield { job, index: first + i, generation: 1 };
}

const UINT32_MAX = 2 ** 32 - 1;

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

/** Whether a success without output may be part of a run. */
export const isPlain = ({ generation }: AttemptRef, resultJson: string, runUs: number): boolean =>
  generation === 1 && resultJson.length <= RUN_RESULT_CHARS_MAX && runUs <= UINT32_MAX;

/** Adds a plain success to the run it follows on, or begins another one. Returns the run that it is part of. */
export function goOn(
  run: SucceededRun | undefined,
  { job, index }: AttemptRef,
  resultJson: string,
  runUs: number,
  exitCode: number | undefined,
): SucceededRun {
  const tookUs = Math.round(runUs);
  if (!run || run.job !== job || run.first + run.runUs.length !== index || run.exitCode !== exitCode)
    return { job, first: index, ageMs: 0, runUs: [tookUs], resultsJson: [resultJson], exitCode };
  const { resultsJson } = run;
  const count = run.runUs.push(tookUs);
  // One says it of all until one is different.
  if (resultsJson.length === 1 && resultsJson[0] === resultJson) return run;
  while (resultsJson.length < count - 1) resultsJson.push(resultsJson[0] as string);
  resultsJson.push(resultJson);
  return run;
}

/** Its results one by one. */
export const apart = (run: SucceededRun): Finished[] =>
  run.runUs.map((runUs, place) => ({
    ...blank({ job: run.job, index: run.first + place, generation: 1 }, Outcome.SUCCEEDED, ''),
    ...{ runUs, ageMs: run.ageMs, resultJson: resultAt(run, place), exitCode: run.exitCode },
  }));

/** As they travel and are kept. */
export function toBatch(results: Iterable<Result>): FinishedBatch {
  const batch: FinishedBatch = { items: [], runs: [] };
  for (const result of results) {
    if (isRun(result)) batch.runs.push(result);
    else batch.items.push(result);
  }
  return batch;
}

/** What it takes in memory and on the wire, about. */
export function bytesOf(result: Result): number {
  if (isRun(result)) return result.resultsJson.reduce((sum, text) => sum + text.length, 64 + 4 * result.runUs.length);
  const { resultJson, error, output } = result;
  let bytes = 64 + resultJson.length + error.length;
  if (output) for (const chunk of output.chunks) bytes += 16 + chunk.data.length;
  return bytes;
}
