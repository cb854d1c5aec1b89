/** Exponential backoff with full jitter, after "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015). */
export interface Backoff {
  baseMs: number;
  capMs: number;
}

/**
 * How long to wait before try `attempt` (1 = the first retry): uniform in [0, min(cap, base · 2^(attempt-1))].
 * @param random in [0, 1)
 */
export function backoffMs(backoff: Backoff, attempt: number, random: number): number {
  const ceiling = Math.floor(Math.min(backoff.capMs, backoff.baseMs * 2 ** Math.min(attempt - 1, 40)));
  return Math.floor(random * (ceiling + 1));
}
