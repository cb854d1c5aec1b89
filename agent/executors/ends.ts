/** How attempts end that were never followed closely, because they did not start or were over at once. */
import { MeshError } from '../../common/errors.js';
import type { AttemptEnd, AttemptOutcome, AttemptSpec, StopReason } from '../core/types.js';
import { NodeFault } from '../core/types.js';
import { fillArguments } from './environment.js';
import { excessProblem, exitProblem, spawnProblem, stopProblem } from './problems.js';
import type { Bounds } from './sandbox/bounds.js';

const end = (
  outcome: AttemptOutcome,
  how: Partial<Pick<AttemptEnd, 'exitCode' | 'signal' | 'error' | 'runUs'>>,
): AttemptEnd => ({
  outcome,
  exitCode: how.exitCode,
  signal: how.signal,
  error: how.error,
  runUs: how.runUs ?? 0,
  peakMemoryBytes: undefined,
  resultJson: undefined,
});

/** By itself. */
export function ownEnd(
  { exitCode, signal, runMs = 0 }: { exitCode: number | undefined; signal: string | undefined; runMs?: number },
  bounds: Bounds,
): AttemptEnd {
  const how = { exitCode, signal, runUs: Math.round(runMs * 1000) };
  if (exitCode === 0) return end('succeeded', how);
  return end('failed', { ...how, error: excessProblem(bounds, signal, 0) ?? exitProblem(exitCode, signal) });
}

/** Somebody ended it before it began. */
export const stoppedEnd = (reason: StopReason): AttemptEnd => end(reason, { error: stopProblem(reason) });

/** @param error why it could not be started, or why nobody knows how it ended */
export function notStarted(error: unknown, attempt: AttemptSpec): AttemptEnd {
  if (error instanceof MeshError) return end('failed', { error: error.message });
  if (error instanceof NodeFault) return end('node-fault', { error: error.message });
  const { work } = attempt.body;
  const command = work?.$case === 'process' ? (fillArguments(work.value.argv, attempt)[0] ?? '') : '';
  const problem = spawnProblem(error, command);
  return end(problem.exitCode === undefined ? 'node-fault' : 'failed', problem);
}
