/**
 * The life of a task. Guards are in SQL (coordinator/store/tasks.ts); decisions are here.
 *
 * QUEUED     waits for its first assignment, or again after a retraction. Left by: assign, cancel, adoption.
 * ASSIGNED   committed to a node, which may not know yet. Left by: start (after ~250 ms), end, retraction, loss, cancel.
 * RUNNING    seen running for a while; short tasks skip it. Left by: end, loss, cancel, a copy (which is ASSIGNED next).
 * RETRYING   failed or was lost with attempts left; waits until `due_at`. Left by: assign, cancel, adoption.
 * COMPLETED, FAILED, CANCELLED  terminal.
 */
export const TASK_STATUSES = ['QUEUED', 'ASSIGNED', 'RUNNING', 'RETRYING', 'COMPLETED', 'FAILED', 'CANCELLED'] as const;
export type TaskStatus = (typeof TASK_STATUSES)[number];

/** So many fresh tasks that a node is given at once are kept as one range, fewer as rows (adr/0026). */
export const RANGE_MIN = 16;

/** Which attempt is meant: with the node it is the fence on every message about the task (invariant I3). */
export interface TaskRef {
  /** The job's number in the store. */
  job: number;
  index: number;
  generation: number;
}

/** The attempt, for maps and sets. */
export const attemptKey = (ref: TaskRef): string => `${ref.job}.${ref.index}.${ref.generation}`;

/** How an attempt ended, as the agent or the reaper says it. */
export type AttemptOutcome =
  | 'succeeded'
  | 'failed'
  | 'timed-out'
  | 'cancelled'
  | 'shutdown'
  | 'node-fault'
  | 'node-lost'
  | 'retracted';

/** Counted on the task and bounded separately (I4): what the task did itself, and what the infrastructure did to it. */
export interface AttemptCounts {
  failures: number;
  losses: number;
}

/** What is known of a task from the attempts it had. */
export interface TaskPast extends AttemptCounts {
  /** Nodes it failed on, by number; avoided while another feasible one exists. Absent where nobody asks. */
  failedNodes?: readonly number[];
}

/** Of a task that failed on no node. The same for all of them, so that it costs each a pointer. */
export const NOWHERE: readonly number[] = [];

export interface RetryPolicy {
  /** A task may fail this many times; one more than `--retries`. */
  failuresMax: number;
  /** A task may be lost this many times. */
  lossesMax: number;
  backoffMs: number;
  backoffCapMs: number;
}
