/** The work of one job as the planner sees it. */
import type { ReturnedTask, WorkView } from '../core/scheduler/types.js';
import type { LiveJob } from './jobs.js';

const NOTHING: readonly ReturnedTask[] = [];

/** @param nowMs monotonic */
export const workView = (
  job: LiveJob,
  returned: readonly ReturnedTask[] | undefined,
  fresh: number,
  nowMs: number,
): WorkView => ({
  job: job.row.seq,
  kind: job.kind,
  priority: job.row.priority,
  submitter: job.row.submitter,
  namespace: job.row.namespace,
  arrival: job.row.seq,
  fresh,
  returned: returned ?? NOTHING,
  blockedNodes: job.blockedNodes,
  taskMs: job.taskTime.ms,
  unassignedForMs: nowMs - job.assignedAtMs,
});
