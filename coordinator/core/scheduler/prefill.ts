/**
 * How many tasks a node may hold beyond its slots. Between a slot falling free and its next task arriving lies one
 * pipeline delay (result, commit, plan, commit, message), and what the node waited before it told; a queue on the node bridges
 * it. It is as long as what the node finishes meanwhile: thousands of no-ops, one minute-long task, no task of hours, where the gap costs nothing and a
 * task in a queue could only miss a slot that falls free elsewhere.
 */
import type { PlanSettings } from './types.js';

/** Before anything is known: enough to learn quickly, little enough to be harmless if the tasks take hours. */
export const PREFILL_UNKNOWN_MAX = 4;
/** Below this many tasks per pipeline delay, a slot idles less than a thousandth of its time without a queue. */
const WORTH_QUEUEING = 0.001;
/** No node finishes tasks faster than this per slot, whatever was measured: bounds the rate of empty tasks. */
const TASK_MS_MIN = 0.001;

export interface PrefillInput {
  slots: number;
  rttMs: number;
  /** Learned time of the tasks to be queued. */
  taskMs: number | undefined;
  /** Tasks per millisecond that the busy slots finish; undefined: as if all ran such tasks. */
  turnoverPerMs: number | undefined;
}

type Delays = Pick<PlanSettings, 'pipelineDelayMs' | 'heldMs'>;

const delayMs = ({ rttMs }: Pick<PrefillInput, 'rttMs'>, { pipelineDelayMs, heldMs = 0 }: Delays): number =>
  pipelineDelayMs + heldMs + Math.max(0, rttMs);

/** Tasks the node finishes in one such delay; undefined while the task time is. */
export function finishedPerDelay(input: PrefillInput, delays: Delays): number | undefined {
  if (input.taskMs === undefined) return undefined;
  const alone = input.slots / Math.max(input.taskMs, TASK_MS_MIN);
  // Slots held by long tasks do not turn over for short ones; short tasks that run now do not speed long ones up.
  const rate = Math.min(alone, input.turnoverPerMs ?? alone);
  return rate * delayMs(input, delays);
}

/** The depth, before what is queued already is subtracted; a whole number from 0 to `prefillMax`. */
export function prefillDepth(input: PrefillInput, settings: Delays & Pick<PlanSettings, 'prefillMax'>): number {
  const exact = finishedPerDelay(input, settings);
  if (exact === undefined) return Math.min(input.slots, PREFILL_UNKNOWN_MAX, settings.prefillMax);
  return exact < WORTH_QUEUEING ? 0 : Math.min(Math.ceil(exact), settings.prefillMax);
}

/** No work may be queued deeper than this there. `allKnown`: the task times of all that waits are. */
export function prefillDepthMax(
  { slots, rttMs, turnoverPerMs }: Omit<PrefillInput, 'taskMs'>,
  { prefillMax, ...delays }: Delays & Pick<PlanSettings, 'prefillMax'>,
  allKnown: boolean,
): number {
  if (turnoverPerMs === undefined) return prefillMax;
  const known = Math.ceil(turnoverPerMs * delayMs({ rttMs }, delays));
  return Math.min(prefillMax, allKnown ? known : Math.max(known, Math.min(slots, PREFILL_UNKNOWN_MAX)));
}
