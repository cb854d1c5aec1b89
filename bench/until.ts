import { pause, systemClock } from '../common/clock.js';

/** Longer than any run takes on a slow machine; what takes longer hangs. */
export const RUN_MS_MAX = 10 * 60_000;

/** Asks until it is so. @throws when it is not within RUN_MS_MAX */
export async function until(what: string, pollMs: number, isSo: () => boolean | Promise<boolean>): Promise<void> {
  const endMs = systemClock.monotonicMs() + RUN_MS_MAX;
  while (!(await isSo())) {
    if (systemClock.monotonicMs() > endMs) throw new Error(`${what} did not happen within ${RUN_MS_MAX / 60_000} min`);
    await pause(systemClock, pollMs);
  }
}
