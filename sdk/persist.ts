/**
 * Trying again: what the coordinator cannot do now it may do in a moment. Only errors that pass by themselves are waited
 * out, with full jitter, so that many clients that were turned away together do not come back together. The first try
 * and every further one must mean the same; for a submission its idempotency key sees to that.
 */
import { type Clock, pause, systemClock } from '../common/clock.js';
import { MeshError, toMeshError } from '../common/errors.js';
import { backoffMs } from '../common/retry.js';

/** How long a submission is tried again, unless the caller says otherwise. */
export const SUBMIT_PATIENCE_MS = 60_000;

const BACKOFF = { baseMs: 250, capMs: 5000 };

/** Passing states of the coordinator, of its database and disk, and of the way there. */
const PASSING: ReadonlySet<string> = new Set([
  'OVERLOADED',
  'DISK_FULL',
  'DATABASE_DOWN',
  'NOT_READY',
  'NOT_LEADER',
  'LEADERSHIP_LOST',
  'UNREACHABLE',
  'TIMED_OUT',
]);

export const isPassing = (error: unknown): boolean => PASSING.has(toMeshError(error).code);

export interface PersistOptions {
  /** Milliseconds from the first failure on; 0: the first failure is final. */
  patienceMs: number;
  /** Hears what is waited for before each pause. */
  onWait?: (error: MeshError, leftMs: number) => void;
  /** Ends the pause and all further tries. */
  signal?: AbortSignal | undefined;
  clock?: Clock;
  random?: () => number;
}

/**
 * Runs `attempt` until it succeeds, fails for good, or patience is over.
 * @throws whatever the last attempt threw; MeshError INTERRUPTED when the signal aborted a pause
 */
export async function persist<T>(attempt: () => Promise<T>, options: PersistOptions): Promise<T> {
  const { patienceMs, onWait, signal, clock = systemClock, random = Math.random } = options;
  let untilMs: number | undefined;
  for (let tries = 1; ; tries++) {
    try {
      return await attempt();
    } catch (error) {
      const nowMs = clock.monotonicMs();
      untilMs ??= nowMs + patienceMs;
      if (!isPassing(error) || nowMs >= untilMs || signal?.aborted) throw error;
      onWait?.(toMeshError(error), untilMs - nowMs);
      // The last try comes when patience ends, not before.
      await pause(clock, Math.min(untilMs - nowMs, backoffMs(BACKOFF, tries, random())), signal);
      if (signal?.aborted) throw new MeshError('INTERRUPTED', 'the submission was broken off', { cause: error });
    }
  }
}
