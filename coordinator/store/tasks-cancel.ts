import { type RawBuilder, sql } from 'kysely';
import { MeshError } from '../../common/errors.js';
import type { JobChange, LiveTask } from '../ports.js';
import type { Database } from './database.js';
import { makeRows } from './task-ranges.js';
import {
  type JobChangeJson,
  jobChangeJson,
  keyOf,
  lease,
  movedJobs,
  runAsLeader,
  toJobChange,
  type Verdict,
  verdict,
} from './leading.js';

interface CancelRow extends Verdict {
  live: LiveTask[];
  cancelled: number;
  /** Rows the job has; undefined when the job is not being cancelled. */
  row_count: number | null;
  before: JobChangeJson | null;
}

/**
 * One page of a cancelled job, by index: live rows → CANCELLED. The first page also counts the tasks that have no row as
 * cancelled (`skipped`), without making rows for them; their inputs stay for a retry. Ends the job when nothing is live.
 */
export function cancelStatement(epoch: number, job: number, fromIndex: number, limit: number): RawBuilder<CancelRow> {
  return sql<CancelRow>`
    with ${lease(epoch)},
    locked as materialized (
      select seq, total - materialised as missing, materialised - skipped as row_count from job
      where seq = ${job}::bigint and cancelling and completed_at is null and exists (select from lease)
      for no key update
    ),
    picked as materialized (
      select job, index, status, generation, node, failures, losses, started_at from task
      where job = ${job}::bigint and index >= ${fromIndex}::integer and index < ${fromIndex + limit}::integer
        and status in ('QUEUED', 'ASSIGNED', 'RUNNING', 'RETRYING') and exists (select from locked)
      for no key update
    ),
    changed as (
      update task t set status = 'CANCELLED', finished_at = now(), due_at = null
      from picked p where ${keyOf(sql`p.job`, sql`p.index`)}
      returning p.*
    ),
    recorded as (
      insert into task_attempt (job, index, generation, attempt, node, outcome, started_at, finished_at)
      select job, index, generation, failures + losses + 1, node, 'cancelled', started_at, now()
      from changed where status = 'RUNNING'
    ),
    delta as (
      select l.seq as job, -(count(*) filter (where c.status = 'QUEUED'))::integer as queued,
        -(count(*) filter (where c.status = 'ASSIGNED'))::integer as assigned,
        -(count(*) filter (where c.status = 'RUNNING'))::integer as running,
        -(count(*) filter (where c.status = 'RETRYING'))::integer as retrying,
        0 as completed, 0 as failed, count(c.status)::integer as cancelled, 0 as cursor
      from locked l left join changed c on true group by l.seq
    ),
    ${movedJobs({ making: true })}
    select ${verdict}, (select row_count from locked) as row_count,
      (select count(*) from changed) + coalesce((select missing from locked), 0) as cancelled,
      (select ${jobChangeJson} from job j where j.seq = ${job}::bigint) as before,
      (
        select coalesce(json_agg(json_build_object(
          'job', job, 'index', index, 'generation', generation, 'node', node, 'status', status, 'failures', failures,
          'losses', losses
        ) order by index), '[]') from changed where status in ('ASSIGNED', 'RUNNING')
      ) as live`;
}

/** @throws MeshError NOT_FOUND when there is no such job */
export async function cancel(
  database: Database,
  epoch: number,
  job: number,
  fromIndex: number,
  limit: number,
): Promise<{ nextIndex: number | undefined; live: LiveTask[]; cancelled: number; job: JobChange }> {
  await makeRows(database, epoch, [{ job, from: fromIndex, to: fromIndex + limit }]);
  const row = await runAsLeader(database, epoch, cancelStatement(epoch, job, fromIndex, limit));
  const change = row.jobs[0] ?? row.before;
  if (!change) throw new MeshError('NOT_FOUND', `there is no job number ${job}`);
  const next = fromIndex + limit;
  return {
    nextIndex: row.row_count !== null && next < row.row_count ? next : undefined,
    live: row.live,
    cancelled: row.cancelled,
    job: toJobChange(change),
  };
}
