/** I6: once faults have healed and a leader leads, everything progresses within two lease lengths, backoff excluded. */
import type { Invariant, Violation } from './check.js';
import type { History, HistoryEvent } from './events.js';
import { acknowledged } from './results.js';
import { taskKey } from './runs.js';

/** What counts as the mesh moving. */
const MOVES: ReadonlySet<HistoryEvent['kind']> = new Set([
  'task-assigned',
  'attempt-began',
  'attempt-ended',
  'attempt-settled',
  'task-terminal',
]);

/**
 * After the last fault the mesh never stands still for longer than two leases while a task waits that could run. It
 * stands still when nothing runs and nothing happens; the time until the earliest task is due does not count.
 */
export const progress: Invariant = (history, { leaseMs, slackMs }) => {
  const healed = history.findLastIndex((event) => event.kind === 'all-healed');
  if (healed === -1) return [];
  const limitMs = 2 * leaseMs + slackMs;
  const found: Violation[] = [];
  const state = new Standing(history.slice(0, healed));
  let stillSinceMs = (history[healed] as HistoryEvent).atMs;
  for (const event of history.slice(healed + 1)) {
    const quiet = state.open > 0 && state.running === 0 && event.atMs - stillSinceMs > limitMs;
    const sinceMs = quiet ? Math.max(stillSinceMs, state.dueMs()) : stillSinceMs;
    if (quiet && event.atMs - sinceMs > limitMs) {
      const seconds = ((event.atMs - sinceMs) / 1000).toFixed(1);
      found.push({
        invariant: 'I6',
        message: `nothing ran and nothing moved for ${seconds} s while ${state.open} tasks waited`,
        atMs: sinceMs,
      } satisfies Violation);
      stillSinceMs = event.atMs;
    }
    if (MOVES.has(event.kind) || event.kind === 'job-acknowledged') stillSinceMs = event.atMs;
    state.follow(event);
  }
  return found;
};

/** How many tasks are open, how many run, and when the first of those that wait may go on. */
class Standing {
  open = 0;
  running = 0;
  readonly #dueMs = new Map<string, number>();
  readonly #waiting = new Set<string>();
  readonly #ended = new Set<string>();

  constructor(before: History) {
    for (const job of acknowledged(before).values()) this.#admit(job.job, job.tasks);
    for (const event of before) if (event.kind !== 'job-acknowledged') this.follow(event);
  }

  #admit(job: string, tasks: number): void {
    this.open += tasks;
    for (let index = 0; index < tasks; index++) this.#waiting.add(taskKey({ job, index }));
    // The answer to a submission may come after the first tasks have ended.
    for (const key of this.#ended) if (this.#waiting.delete(key)) this.open--;
  }

  follow(event: HistoryEvent): void {
    if (event.kind === 'job-acknowledged') this.#admit(event.job, event.tasks);
    if (event.kind === 'attempt-began') this.running++;
    if (event.kind === 'attempt-ended') this.running--;
    if (event.kind === 'attempt-settled' && event.dueInMs !== undefined)
      this.#dueMs.set(taskKey(event), event.atMs + event.dueInMs);
    if (event.kind === 'task-assigned') this.#dueMs.delete(taskKey(event));
    if (event.kind === 'task-terminal') this.#ended.add(taskKey(event));
    if (event.kind === 'task-terminal' && this.#waiting.delete(taskKey(event))) {
      this.open--;
      this.#dueMs.delete(taskKey(event));
    }
  }

  /** When the first open task may go on; minus infinity when one may already. */
  dueMs(): number {
    let earliest = Number.POSITIVE_INFINITY;
    for (const key of this.#waiting) earliest = Math.min(earliest, this.#dueMs.get(key) ?? Number.NEGATIVE_INFINITY);
    return earliest;
  }
}
