/** The most tasks of a job: far beyond what anybody needs, and small enough to be refused before it hurts. */
export const TASKS_MAX = 10_000_000;
/** A task may fail retries + 1 times. */
export const DEFAULT_RETRIES = 2;
/** The first backoff; it doubles with each failure, with full jitter. */
export const DEFAULT_BACKOFF_MS = 1000;
