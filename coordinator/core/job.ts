import type { Role } from '../../common/identity/identity.js';

/**
 * The life of a job.
 *
 * QUEUED     accepted; no task has been assigned yet. Left by: the first assignment, cancel.
 * RUNNING    some task has been assigned. Left when every task is terminal.
 * COMPLETED  every task completed.
 * FAILED     a task ran out of attempts, and the policy does not forgive it.
 * PARTIALLY_COMPLETED  some tasks failed and the policy is `partial`.
 * CANCELLED  somebody cancelled it, or its policy did (`fail-fast` ends as FAILED).
 */
export const JOB_STATUSES = ['QUEUED', 'RUNNING', 'COMPLETED', 'FAILED', 'PARTIALLY_COMPLETED', 'CANCELLED'] as const;
export type JobStatus = (typeof JOB_STATUSES)[number];

export const isTerminal = (status: JobStatus): boolean => status !== 'QUEUED' && status !== 'RUNNING';

/**
 * Whose a job is: a submitter's name, and for other roles the role with it, because names are unique per role only. A
 * submitter who happens to be called like an operator sees nothing of the operator's.
 */
export const submitterOf = ({ role, name }: { role: Role; name: string }): string =>
  role === 'submitter' ? name : `${role}/${name}`;

/** Columns of the job row, moved in the same statement as the tasks they count. */
export interface JobCounts {
  total: number;
  /** Tasks that the counters below know: those that have a row, because they were assigned once, and the skipped. */
  materialised: number;
  /** Assigned once, and waiting again. */
  queued: number;
  assigned: number;
  running: number;
  retrying: number;
  completed: number;
  failed: number;
  cancelled: number;
}
