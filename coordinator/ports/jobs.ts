/** Jobs as they are stored. */
import type { JobSpec } from '../../proto/gen/mesh/v1/mesh.js';
import type { JobCounts, JobStatus } from '../core/job.js';

export interface JobRow {
  seq: number;
  id: string;
  name: string;
  type: 'process' | 'function';
  status: JobStatus;
  priority: number;
  /** See `submitterOf`. */
  submitter: string;
  /** The group of submitters that it counts for, as it was when the job was submitted. */
  namespace: string;
  spec: JobSpec;
  retryOf: string | undefined;
  counts: JobCounts;
  /** The first index that was never assigned. */
  cursor: number;
  /** Set when somebody asked to cancel, or fail-fast did; the planner skips the job from then on. */
  cancelling: boolean;
  error: string | undefined;
  createdAtMs: number;
  startedAtMs: number | undefined;
  completedAtMs: number | undefined;
}

export interface NewJob {
  id: string;
  submitter: string;
  idempotencyKey: string;
  /**
   * SHA-256 of specification and items: tells a repeated submission from a different one with the same key. Asked after
   * the inputs were read to their end, because they are hashed on the way and never held.
   */
  specDigest: () => string;
  spec: JobSpec;
  total: number;
  retryOf: string | undefined;
  hasInputs: boolean;
  /** Default: `default`. */
  namespace?: string;
  /** Bytes of the files its tasks are given; asked after the inputs were read. Default 0. */
  stagedBytes?: () => number;
  /** Asked after the inputs were read and before a job is kept; keeps it out by throwing, unless it is there already. */
  admit?: () => Promise<void>;
  /**
   * Asked last, and only where the job is kept by itself: the node to which all its tasks are assigned by the commit that
   * keeps it. Not of a job with inputs.
   */
  place?: () => number | undefined;
  /**
   * The leader's epoch: a job that a former leader took would be unknown to the present one. Without it nobody's lead is
   * asked for.
   */
  epoch?: number | undefined;
}

/** What a statement that moves tasks says about their jobs, so that memory follows the store. */
export interface JobChange {
  seq: number;
  status: JobStatus;
  counts: JobCounts;
  cursor: number;
  startedAtMs: number | undefined;
  completedAtMs: number | undefined;
}

export interface JobStore {
  /**
   * Commits the job; `inputs` are JSON TaskInputs in index order, without line breaks, stored in chunks. Same key and digest: the old job.
   * @throws MeshError LEADERSHIP_LOST when another epoch rules, IDEMPOTENCY_CONFLICT
   */
  create(job: NewJob, inputs: AsyncIterable<string[]>): Promise<{ job: JobRow; created: boolean }>;
  get(id: string): Promise<JobRow | undefined>;
  list(query: { status?: JobStatus; submitter?: string; limit: number; before?: number }): Promise<JobRow[]>;
  /** Jobs that are not terminal, in order of arrival. */
  live(): Promise<JobRow[]>;
  /** Number of retained jobs per status, for the metrics. */
  countByStatus(): Promise<Map<JobStatus, number>>;
  /** Sums of the task counters over all retained jobs, for the metrics. */
  taskTotals(): Promise<JobCounts>;
  /**
   * Rows that an earlier version made ahead of their assignment go, and their inputs wait for it again. For a leader that
   * begins, before it looks at jobs: one of that version may have led until now.
   */
  withdrawRows(epoch: number): Promise<void>;
  /** Marks it; undefined when it was terminal already. `error` is set for fail-fast. */
  requestCancel(epoch: number, seq: number, error: string | undefined): Promise<JobChange | undefined>;
  /** Deletes terminal jobs and everything of them, in bounded statements. */
  remove(jobs: readonly number[]): Promise<void>;
  /** Terminal jobs that ended before, oldest first. */
  endedBefore(ms: number, limit: number): Promise<{ seq: number; id: string }[]>;
}
