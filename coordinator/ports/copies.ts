/** Second attempts of tasks that take long (adr/0012-speculation.md). */
import type { TaskPast, TaskRef } from '../core/task.js';
import type { JobChange } from './jobs.js';
import type { AssignedTask, Settlement } from './tasks.js';

/** The attempt that runs, as it is known, and the node a second one of the task shall run on. */
export interface CopyAsked extends TaskRef {
  node: number;
  to: number;
}

/** The attempt a copied task had before its copy. */
export interface OriginalAttempt extends TaskRef, TaskPast {
  node: number;
  /** The copy has ended: this is the task's only attempt. */
  alone: boolean;
}

/** With what is known of the task after it. */
export interface CopySettled extends TaskPast {
  /** Whether the settled attempt was one of the task's; nothing was changed otherwise. */
  accepted: boolean;
  /** The task's attempts that are live after it. Whatever else is thought to run of the task is superseded. */
  live: (TaskRef & { node: number })[];
  jobs: JobChange[];
}

/**
 * Tasks with two live attempts, each of which may end the task (adr/0012-speculation.md). The task's row is the later one,
 * the *copy*; the earlier one, the *original*, is kept beside it. The original is valid exactly while the task is ASSIGNED
 * or RUNNING in the generation that its copy got, so every statement of TaskStore that ends or moves the task ends the
 * original too, and needs to know nothing of it.
 */
export interface CopyStore {
  /**
   * A task RUNNING in exactly this generation on exactly this node → ASSIGNED on `to` in its next generation; the attempt
   * that runs becomes its original, or is again if a former copy left it alone. Refused (no task) when the guard does not
   * match, when `to` is the same node, when it has a copy already, and when its job is being cancelled or has ended. Whether the node suits is the planner's
   * affair, which knows whether there is another. Repeating one that was done returns it again, as long as both attempts
   * live. Moves the counters from running to assigned.
   */
  make(epoch: number, asked: CopyAsked): Promise<{ task: AssignedTask | undefined; jobs: JobChange[] }>;
  /**
   * One attempt's end, for a task that may have two. Matches the original or the task's row; without an original it is what
   * TaskStore.settle is. To COMPLETED or FAILED it ends the task, with this attempt's node (and generation, if it is the
   * original's), and the other attempt with it, which is recorded as cancelled if it ran. To RETRYING or QUEUED only this
   * attempt ends while the other lives: failures, losses and failed nodes are counted and the attempt is recorded, but the
   * task stays live, with the copy as it is, or RUNNING with the original, which is then `alone`: the row gets the
   * original's node and times, keeps the copy's generation, and no attempt matches it but the original. The last one to end
   * moves the task as TaskStore.settle would.
   */
  settle(epoch: number, item: Settlement): Promise<CopySettled>;
  /** Forgets the originals of a job that is being cancelled; each is recorded as cancelled. Repeating is harmless. */
  cancel(epoch: number, job: number): Promise<void>;
  /** The valid originals of jobs that have not ended; how a new leader learns of them, together with TaskStore.live. */
  live(): Promise<OriginalAttempt[]>;
  /** Running times of completed tasks among the last `rows` of the job by index, ascending, in milliseconds. */
  runTimesMs(job: number, rows: number): Promise<number[]>;
}
