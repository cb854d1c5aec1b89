/** Tasks as they are stored, and every way to move one. */
import type { AttemptOutcome, TaskPast, TaskRef, TaskStatus } from '../core/task.js';
import type { JobChange } from './jobs.js';
import type { CompletedRun } from './runs.js';

/** A range of fresh tasks for one node, going on where the job's last one ended, or returned tasks by index. */
export type AssignItem =
  | { job: number; node: number; from: number; to: number }
  | { job: number; node: number; indexes: number[] };

export interface AssignedTask extends TaskRef, TaskPast {
  node: number;
  /** JSON TaskInput, or undefined. */
  input: string | undefined;
}

/** Fresh tasks of one job, all in their first generation, from `from` to before `to`. */
export interface AssignedRange {
  job: number;
  node: number;
  from: number;
  to: number;
  /** JSON TaskInput of each; undefined where the job's tasks have none. */
  inputs: readonly (string | undefined)[] | undefined;
}

export interface Assigned {
  /** Of the fresh tasks that were asked for. */
  ranges: AssignedRange[];
  /** Those that had come back. */
  tasks: AssignedTask[];
}

/** How many tasks there are in all of them. */
export const countOfRanges = (ranges: readonly { from: number; to: number }[]): number =>
  ranges.reduce((sum, { from, to }) => sum + to - from, 0);

/** One attempt's end, with the state the core decided on. */
export interface Settlement extends TaskRef {
  node: number;
  /** It is known that the task is in no range of its job, but has a row of its own. */
  hasRow?: boolean;
  to: 'COMPLETED' | 'FAILED' | 'RETRYING' | 'QUEUED';
  outcome: AttemptOutcome;
  /** Added to the task's counters: 0 or 1. */
  failure: 0 | 1;
  loss: 0 | 1;
  /** For RETRYING and QUEUED: from now. */
  dueInMs: number | undefined;
  exitCode: number | undefined;
  signal: string | undefined;
  error: string | undefined;
  resultJson: string | undefined;
  /** An encoded OutputTail, or undefined. */
  output: Uint8Array | undefined;
  /** Microseconds the attempt ran; milliseconds since it ended. */
  runUs: number | undefined;
  finishedAgeMs: number;
  peakMemoryBytes: number | undefined;
}

export interface Settled {
  /** Which of the given settlements matched, by position; then which tasks of each run. */
  accepted: boolean[];
  jobs: JobChange[];
}

export interface LiveTask extends TaskRef, TaskPast {
  node: number;
  status: 'ASSIGNED' | 'RUNNING';
  /** Milliseconds since it started, or since it was assigned where no more is known; absent where nobody asks. */
  ageMs?: number;
}

/** An attempt that was given away, comes back, and is further ahead than the one that replaced it. */
export interface ReadoptItem extends TaskRef {
  /** Where it ran, and still runs or has ended. */
  node: number;
  /** The present attempt of the task. */
  replacement: { generation: number; node: number };
  /** Milliseconds since it started; undefined when only its row knows. */
  ageMs: number | undefined;
}

export interface ReadoptedTask extends LiveTask {
  /** The generation its agent knows it by. */
  former: number;
  replacement: { generation: number; node: number };
}

export interface TaskRow extends TaskRef {
  status: TaskStatus;
  failures: number;
  losses: number;
  node: string | undefined;
  exitCode: number | undefined;
  queuedAtMs: number;
  assignedAtMs: number | undefined;
  startedAtMs: number | undefined;
  finishedAtMs: number | undefined;
  lastError: string | undefined;
  resultJson: string | undefined;
  output: Uint8Array | undefined;
  runUs: number | undefined;
  peakMemoryBytes: number | undefined;
}

export interface TaskQuery {
  job: number;
  status?: TaskStatus;
  fromIndex: number;
  /** Not this one and none after it. */
  toIndex?: number;
  limit: number;
  /** Looks at no others: those with an attempt that failed, those that came back and wait, or these, of live tasks. */
  among?: 'failed' | 'returned' | readonly number[];
}

export interface TaskStore {
  /**
   * Fresh, or due RETRYING or QUEUED → ASSIGNED; raises generation, moves the cursor, starts the job. A range of fresh tasks
   * that does not begin at the job's cursor is left.
   */
  assign(epoch: number, items: AssignItem[]): Promise<Assigned & { jobs: JobChange[] }>;
  /** ASSIGNED → RUNNING. `ageMs` since the attempt started. */
  markRunning(
    epoch: number,
    items: (TaskRef & { node: number; ageMs: number })[],
  ): Promise<{ changed: TaskRef[]; jobs: JobChange[] }>;
  /**
   * ASSIGNED or RUNNING → what the core decided; ends jobs whose last task this was.
   * @param runs of tasks that are in none of the others and not among `items`
   */
  settle(epoch: number, items: readonly Settlement[], runs?: readonly CompletedRun[]): Promise<Settled>;
  /** RETRYING or QUEUED → RUNNING on the node and generation it had before it was given up; again, if it was done before. */
  adopt(epoch: number, items: (TaskRef & { node: number })[]): Promise<{ changed: LiveTask[]; jobs: JobChange[] }>;
  /**
   * ASSIGNED or RUNNING as `replacement` → RUNNING on the node that returns, under a generation of its own. Only what was
   * recorded as lost with that node and in that generation can come back; the loss is taken back. The replacement, if it
   * ran, is recorded as cancelled. Repeating one that was done names it again.
   */
  readopt(epoch: number, items: ReadoptItem[]): Promise<{ changed: ReadoptedTask[]; jobs: JobChange[] }>;
  /** Any live state → CANCELLED, at most `limit` rows from `fromIndex`; also covers rows that were never made. */
  cancel(
    epoch: number,
    job: number,
    fromIndex: number,
    limit: number,
  ): Promise<{ nextIndex: number | undefined; live: LiveTask[]; cancelled: number; job: JobChange }>;
  /** Jobs after the given one, in order, to which work came back, due or not; at most `limit`. */
  returned(afterJob: number, limit: number): Promise<number[]>;
  /**
   * Returned tasks of these jobs whose time has come: of each job the oldest, at most `limitEach`, so that what one has
   * too much of, or no node for, hides nothing of another. Jobs that are being cancelled have none.
   */
  due(
    jobs: readonly number[],
    limitEach: number,
  ): Promise<{ job: number; index: number; failedNodes: number[]; failures: number; losses: number }[]>;
  /** Milliseconds until the next returned task of these jobs falls due; undefined when none waits for its time. */
  nextDueInMs(jobs: readonly number[]): Promise<number | undefined>;
  /** ASSIGNED and RUNNING tasks of jobs that are not terminal; how a new leader learns what is out there. */
  live(): Promise<LiveTask[]>;
  list(query: TaskQuery): Promise<TaskRow[]>;
  /** How many rows of the job were ever made: the tasks from 0 on; 0 for a job that is not there. */
  made(job: number): Promise<number>;
  /** Attempts of one task that did not succeed, oldest first. */
  attempts(
    job: number,
    index: number,
  ): Promise<
    {
      generation: number;
      attempt: number;
      node: string;
      outcome: AttemptOutcome;
      error: string | undefined;
      output: Uint8Array | undefined;
      startedAtMs: number | undefined;
      finishedAtMs: number;
    }[]
  >;
  /** Terminal tasks from an index on, in index order, for results; stops before the first that is not terminal. */
  results(
    job: number,
    fromIndex: number,
    limit: number,
  ): Promise<{ index: number; status: TaskStatus; resultJson: string | undefined; output: Uint8Array | undefined }[]>;
  /** The stored input of each given task, by position. */
  inputs(refs: readonly TaskRef[]): Promise<(string | undefined)[]>;
  /** What results and output of a job take, of all its attempts, as they are stored. */
  storedBytes(job: number): Promise<number>;
  /** How many distinct nodes, other than the given one, were lost while they ran each given task, by position. */
  nodesLost(refs: readonly (TaskRef & { node: number })[]): Promise<number[]>;
  /** Inputs of the tasks that did not complete, in index order, for a retry. */
  unfinishedInputs(
    job: number,
    fromIndex: number,
    limit: number,
  ): Promise<{ index: number; input: string | undefined }[]>;
}
