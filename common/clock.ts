/**
 * Time as the rest of the program sees it. Everything that measures, waits or stamps takes a Clock, so that tests and
 * the simulator can own time. Leases and durations use `monotonicMs`; only what people read uses `wallMs`.
 */
export interface Timer {
  cancel(): void;
}

export interface Clock {
  /** Milliseconds, fractional, from an arbitrary origin; never goes back, stops while the machine sleeps. */
  monotonicMs(): number;
  /** Milliseconds since 1970-01-01 UTC. May jump either way. */
  wallMs(): number;
  /** Calls `fire` once after at least `delayMs`. The timer does not keep the process alive when `background` is set. */
  after(delayMs: number, fire: () => void, options?: { background?: boolean }): Timer;
}

export const systemClock: Clock = {
  monotonicMs: () => performance.now(),
  wallMs: () => Date.now(),
  after(delayMs, fire, options) {
    const handle = setTimeout(fire, Math.min(Math.max(0, delayMs), 2 ** 31 - 1));
    if (options?.background) handle.unref();
    return { cancel: () => clearTimeout(handle) };
  },
};

/** Resolves after `delayMs`, or at once when `signal` aborts. Never rejects. */
export function pause(clock: Clock, delayMs: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const finish = () => {
      timer.cancel();
      signal?.removeEventListener('abort', finish);
      resolve();
    };
    const timer = clock.after(delayMs, finish);
    signal?.addEventListener('abort', finish, { once: true });
  });
}
