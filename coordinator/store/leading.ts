import { type RawBuilder, sql } from 'kysely';
import { MeshError } from '../../common/errors.js';
import type { JobStatus } from '../core/job.js';
import type { JobChange } from '../ports.js';
import { bigints } from './arrays.js';
import type { Database } from './database.js';

/**
 * The parts every statement that moves tasks is made of. Such a statement
 *
 * 1. reads the leader's row `for key share` (`lease`). A takeover, which changes the epoch and so a key, waits for it or is
 *    seen by it; a plain `exists` would let a paused ex-leader's statement commit after a takeover, because a snapshot is
 *    older than what commits meanwhile. A renewal changes no key and waits for nobody, however slowly others commit.
 * 2. locks the rows of the jobs it touches in order of their number (`locked`), so that no two statements deadlock. The
 *    two hot ones, assign and settle, take only a key share there: they touch different tasks, so both may work on one
 *    job at a time, and each holds the job's row alone just while it moves the counters (adr/0010-hot-statements.md).
 * 3. changes what matches its guard, and returns it.
 * 4. moves the jobs' counters by what was changed, and ends a job whose last task this was (`moved`).
 *
 * Its snapshot may be older than the locks it waited for; PostgreSQL then checks the guards again on the newest version
 * of each row (EvalPlanQual), and the counters are moved relative to that version.
 */
export const lease = (epoch: number): RawBuilder<unknown> =>
  sql`lease as materialized (select 1 from leader where epoch = ${epoch}::bigint for key share)`;

/**
 * Locks jobs that are not at their end; with `assignable` not those being cancelled either. With `shared`, others that
 * share may work on the same jobs at the same time.
 */
export const lockedJobs = (
  jobs: Iterable<number>,
  options: { assignable: boolean; shared?: boolean; columns?: RawBuilder<unknown> },
): RawBuilder<unknown> => sql`
  locked as materialized (
    select ${options.columns ?? sql`seq`} from job
    where seq = any(${bigints([...new Set(jobs)], (seq) => seq)}) and completed_at is null
      ${options.assignable ? sql`and not cancelling` : sql``} and exists (select from lease)
    order by seq ${options.shared ? sql`for key share` : sql`for no key update`}
  )`;

/** For the qualification of an update: evaluated once, before the first row, so locks are held before rows change. */
export const isLocked = (column: RawBuilder<unknown>): RawBuilder<unknown> =>
  sql`${column} = any (array(select seq from locked))`;

/**
 * `task t` of one row of `unnest(…)`. The job is compared with a one-element array because that is a condition for the
 * index and none for a merge join: a planner that takes the table for nearly empty would otherwise read all of it in the
 * order of its key, once per statement, and match the given rows against each. So there is only one plan left.
 */
export const keyOf = (job: RawBuilder<unknown>, index: RawBuilder<unknown>): RawBuilder<unknown> =>
  sql`t.job = any (array[${job}]) and t.index = ${index}`;

const live = sql.raw(
  `(j.queued + d.queued + j.assigned + d.assigned + j.running + d.running + j.retrying + d.retrying)`,
);

/**
 * `moved`: applies the CTE `delta` (job, queued, assigned, running, retrying, completed, failed, cancelled, cursor) to the
 * jobs. A cursor says that the rows before it have been made. `making` is true where the statement also counts tasks whose
 * rows are never made (cancel).
 */
export const movedJobs = (options: { making: boolean } = { making: false }): RawBuilder<unknown> => {
  const missing = options.making ? sql`0` : sql`(j.total - j.materialised)`;
  const skip = options.making ? sql`(j.total - j.materialised)` : sql`0`;
  return sql`
  moved as (
    update job j set
      queued = j.queued + d.queued, assigned = j.assigned + d.assigned, running = j.running + d.running,
      retrying = j.retrying + d.retrying, completed = j.completed + d.completed, failed = j.failed + d.failed,
      cancelled = j.cancelled + d.cancelled + ${skip}, skipped = j.skipped + ${skip},
      materialised = greatest(j.materialised, d.cursor) + ${skip}, cursor = greatest(j.cursor, d.cursor),
      started_at = case when d.cursor > 0 then coalesce(j.started_at, now()) else j.started_at end,
      status = job_outcome(
        j.started_at is not null or d.cursor > 0, ${live}, ${missing}, j.cancelling, j.error, j.on_failure,
        j.completed + d.completed, j.failed + d.failed
      ),
      completed_at = case when ${live} = 0 and ${missing} = 0 then now() end
    from (select * from delta order by job) d where j.seq = d.job
    returning j.*
  )`;
};

const milliseconds = (column: string) => `(extract(epoch from ${column}) * 1000)::bigint`;

/** A JobChange as JSON, from a row named `j`. */
export const jobChangeJson = sql.raw(`json_build_object(
  'seq', j.seq, 'status', j.status, 'cursor', j.cursor,
  'startedAtMs', ${milliseconds('j.started_at')}, 'completedAtMs', ${milliseconds('j.completed_at')},
  'counts', json_build_object(
    'total', j.total, 'materialised', j.materialised, 'queued', j.queued, 'assigned', j.assigned, 'running', j.running,
    'retrying', j.retrying, 'completed', j.completed, 'failed', j.failed, 'cancelled', j.cancelled
  )
)`);

/** The columns every such statement returns; `leading` is 0 when the epoch is not the leader's. */
export const verdict = sql`(select count(*) from lease) as leading,
  (select coalesce(json_agg(${jobChangeJson} order by j.seq), '[]') from moved j) as jobs`;

export interface JobChangeJson {
  seq: number;
  status: JobStatus;
  cursor: number;
  counts: JobChange['counts'];
  startedAtMs: number | null;
  completedAtMs: number | null;
}

export interface Verdict {
  leading: number;
  jobs: JobChangeJson[];
}

export const toJobChange = (json: JobChangeJson): JobChange => ({
  ...json,
  startedAtMs: json.startedAtMs ?? undefined,
  completedAtMs: json.completedAtMs ?? undefined,
});

/**
 * Runs a statement of the leader's.
 * @throws MeshError LEADERSHIP_LOST when another epoch rules; nothing was changed then
 */
export async function runAsLeader<R extends { leading: number }>(
  database: Database,
  epoch: number,
  statement: RawBuilder<R>,
): Promise<R> {
  const { rows } = await database.run((db) => statement.execute(db));
  const row = rows[0];
  if (!row) throw new MeshError('INTERNAL', 'a statement of the leader returned nothing');
  if (row.leading === 0)
    throw new MeshError('LEADERSHIP_LOST', `epoch ${epoch} does not lead any more; nothing was changed`);
  return row;
}
