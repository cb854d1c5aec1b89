/** Successes of one kind, as one: what most of them are (adr/0026-ranges-and-blocks.md). */
import { resultAt } from '../../common/result-run.js';
import type { Settlement } from './tasks.js';

/** Successive tasks of one job, of one node, whose first attempts succeeded at one time, with no more to say than this. */
export interface CompletedRun {
  job: number;
  node: number;
  /** The index of the first. */
  first: number;
  /** It is known that the tasks are in no range of their job, but have rows of their own. */
  hasRows: boolean;
  /** Microseconds each of them ran, 0 where that is not known; so many tasks there are. */
  runUs: readonly number[];
  /** JSON: one result of each, or one for all; '' is none. */
  resultsJson: readonly string[];
  exitCode: number | undefined;
  /** Milliseconds since they ended. */
  finishedAgeMs: number;
}

/** How many tasks there are in all of them. */
export const countOfRuns = (runs: readonly CompletedRun[]): number =>
  runs.reduce((sum, { runUs }) => sum + runUs.length, 0);

/** What the task at this place of the run returned. */
export const resultOf = (run: Pick<CompletedRun, 'resultsJson'>, place: number): string | undefined =>
  resultAt(run, place) || undefined;

/** What is said of the task at this place of the run, by itself. */
export const settlementAt = (run: CompletedRun, place: number): Settlement => ({
  job: run.job,
  index: run.first + place,
  generation: 1,
  node: run.node,
  hasRow: run.hasRows,
  to: 'COMPLETED',
  outcome: 'succeeded',
  failure: 0,
  loss: 0,
  dueInMs: undefined,
  exitCode: run.exitCode,
  signal: undefined,
  error: undefined,
  resultJson: resultOf(run, place),
  output: undefined,
  runUs: run.runUs[place] || undefined,
  finishedAgeMs: run.finishedAgeMs,
  peakMemoryBytes: undefined,
});

/** All of it one by one. */
export const settlementsOf = (run: CompletedRun): Settlement[] => run.runUs.map((_, place) => settlementAt(run, place));
