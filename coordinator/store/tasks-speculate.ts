import { type RawBuilder, sql } from 'kysely';
import type { TaskPast } from '../core/task.js';
import type { CopyAsked, CopySettled, CopyStore, OriginalAttempt, Settlement } from '../ports.js';
import { base64, boundedMs, text, whole } from './arrays.js';
import type { Database } from './database.js';
import { lease, lockedJobs, movedJobs, runAsLeader, toJobChange, type Verdict, verdict } from './leading.js';
import type { Turns } from './turns.js';

/**
 * Tasks with two live attempts (adr/0012-speculation.md). The row in `task` is the copy, which has the higher generation;
 * the row in `task_original` is the attempt that was there before. So generations only ever rise, and every other statement
 * may treat the task like any other: it ends or moves the copy, and the original, which is valid only while the task is live
 * in the copy's generation, ends with it. These statements are what keeps the one alive when the other ends.
 *
 * One task per statement: copies are few. Both lock the task's row first and its original after it.
 */

interface MadeRow extends Verdict {
  task: (TaskPast & { generation: number; input: string | null }) | null;
}

interface SettledCopyRow extends Verdict {
  accepted: boolean;
  past: TaskPast | null;
  live: { generation: number; node: number }[];
}

/** The columns of a TaskPast, within json_build_object. */
const past = sql.raw("'failures', failures, 'losses', losses, 'failedNodes', coalesce(failed_nodes, '{}')");

/** The row of one task, by its key. */
const isTask = (job: number, index: number): RawBuilder<unknown> =>
  sql`t.job = ${job}::bigint and t.index = ${index}::integer`;

/**
 * RUNNING → ASSIGNED to another node in the next generation, with the attempt that runs kept as the original; one that a
 * former copy left alone is it already, under a generation of its own. Repeating it says the same again, also when the first
 * try was committed and its answer lost.
 */
export function makeCopyStatement(epoch: number, { job, index, generation, node, to }: CopyAsked): RawBuilder<MadeRow> {
  return sql<MadeRow>`
    with ${lease(epoch)},
    ${lockedJobs([job], { assignable: true })},
    held as materialized (
      select t.job, t.index, t.generation, t.node, coalesce(o.attempt, t.failures + t.losses + 1) as attempt,
        t.running_at, t.started_at
      from task t
      left join task_original o on o.job = t.job and o.index = t.index and o.copy_generation = t.generation
      where ${isTask(job, index)} and t.status = 'RUNNING' and t.node = ${node}::integer and t.node <> ${to}::integer
        and coalesce(o.generation, t.generation) = ${generation}::integer and coalesce(o.alone, true)
        and exists (select from locked)
      for no key update of t
    ),
    kept as (
      insert into task_original (job, index, generation, node, copy_generation, attempt, running_at, started_at)
      select job, index, ${generation}::integer, node, generation + 1, attempt, running_at, started_at from held
      on conflict (job, index) do update set
        generation = excluded.generation, node = excluded.node, copy_generation = excluded.copy_generation,
        attempt = excluded.attempt, alone = false, running_at = excluded.running_at, started_at = excluded.started_at
    ),
    changed as (
      update task t set
        status = 'ASSIGNED', generation = t.generation + 1, node = ${to}::integer, assigned_at = now(),
        running_at = null, started_at = null
      where ${isTask(job, index)} and exists (select from held)
      returning t.job, t.generation, t.failures, t.losses, t.failed_nodes, t.input
    ),
    known as (
      select t.generation, t.failures, t.losses, t.failed_nodes, t.input from task t
      join task_original o on o.job = t.job and o.index = t.index and o.copy_generation = t.generation and not o.alone
      where ${isTask(job, index)} and t.status in ('ASSIGNED', 'RUNNING') and t.node = ${to}::integer
        and o.generation = ${generation}::integer and o.node = ${node}::integer
    ),
    delta as (
      select job, 0 as queued, 1 as assigned, -1 as running, 0 as retrying, 0 as completed, 0 as failed, 0 as cancelled,
        0 as cursor
      from changed
    ),
    ${movedJobs()}
    select ${verdict}, (
      select json_build_object(${past}, 'generation', generation, 'input', input)
      from (
        select generation, failures, losses, failed_nodes, input from changed
        union all
        select generation, failures, losses, failed_nodes, input from known
      ) m
    ) as task`;
}

/** Ends one attempt of a task, whichever it is; `last` says that the task has no live attempt after it. */
export function settleCopyStatement(epoch: number, item: Settlement): RawBuilder<SettledCopyRow> {
  const { job, index, generation, node } = item;
  const target = sql`${item.to}::text`;
  const outcome = sql`${item.outcome}::text`;
  const age = sql`${boundedMs(item.finishedAgeMs)}::double precision * interval '1 millisecond'`;
  const dueMs = item.dueInMs === undefined ? 0 : boundedMs(item.dueInMs);
  const error = text(item.error);
  const output = sql`decode(${text(base64(item.output))}, 'base64')`;
  const began = sql`now() - ${age} - ${whole(item.runUs) ?? null}::bigint * interval '1 microsecond'`;
  const isEnd = sql`${target} in ('COMPLETED', 'FAILED')`;
  /** The original takes the row over: because it ends the task, or because the copy left it to itself. */
  const byOriginal = sql`(d.part = 'original') = d.last`;
  return sql<SettledCopyRow>`
    with ${lease(epoch)},
    ${lockedJobs([job], { assignable: false })},
    held as materialized (
      select job, index, generation, node, status, failures, losses, failed_nodes, started_at from task t
      where ${isTask(job, index)} and t.status in ('ASSIGNED', 'RUNNING') and exists (select from locked)
      for no key update
    ),
    original as materialized (
      select generation, node, attempt, alone, running_at, started_at from task_original o
      where o.job = ${job}::bigint and o.index = ${index}::integer and o.copy_generation = (select generation from held)
      for update
    ),
    found as materialized (
      select h.*, o.generation as original_generation, o.node as original_node, o.alone,
        coalesce(o.attempt, h.failures + h.losses + 1) as attempt,
        h.failures + h.losses + 1 + (o.generation is not null)::integer as copy_attempt,
        o.running_at as original_running_at, o.started_at as original_started_at,
        case when o.generation = ${generation}::integer and o.node = ${node}::integer then 'original'
          when h.generation = ${generation}::integer and h.node = ${node}::integer and not coalesce(o.alone, false)
          then 'copy' end as part,
        ${isEnd} or o.generation is null or o.alone as last
      from held h left join original o on true
    ),
    decided as materialized (select * from found where part is not null),
    settled as (
      update task t set
        status = case when d.last then ${target} when d.part = 'copy' then 'RUNNING' else t.status end,
        generation = case when d.part = 'original' and ${isEnd} then d.original_generation else t.generation end,
        node = case when ${byOriginal} then d.original_node else t.node end,
        running_at = case when ${byOriginal} then d.original_running_at else t.running_at end,
        started_at = case when ${byOriginal} then d.original_started_at when d.last then coalesce(t.started_at, ${began})
          else t.started_at end,
        failures = t.failures + ${item.failure}::smallint, losses = t.losses + ${item.loss}::smallint,
        due_at = case when d.last and not ${isEnd} then now() + ${dueMs}::double precision * interval '1 millisecond' end,
        finished_at = case when ${isEnd} then now() - ${age} end,
        failed_nodes = case
          when ${item.failure}::integer = 0 and ${outcome} <> 'node-fault' or ${node}::integer = any(t.failed_nodes)
          then t.failed_nodes else array_append(t.failed_nodes, ${node}::integer) end,
        last_error = coalesce(${error}, t.last_error),
        exit_code = case when d.last then ${item.exitCode ?? null}::integer else t.exit_code end,
        run_us = case when d.last then ${whole(item.runUs) ?? null}::bigint else t.run_us end,
        peak_memory_bytes = case when d.last then ${whole(item.peakMemoryBytes) ?? null}::bigint
          else t.peak_memory_bytes end,
        result_json = case when ${isEnd} then ${item.resultJson ?? null}::text end,
        output = case when ${outcome} = 'succeeded' then ${output} end
      from decided d
      where ${isTask(job, index)}
      returning t.job, t.status, t.failures, t.losses, t.failed_nodes, t.started_at
    ),
    recorded as (
      insert into task_attempt (
        job, index, generation, attempt, node, outcome, error, exit_code, signal, started_at, finished_at, output
      )
      select d.job, d.index, ${generation}::integer,
        case when d.part = 'original' then d.attempt else d.copy_attempt end, ${node}::integer, ${outcome},
        ${error}, ${item.exitCode ?? null}::integer, ${item.signal ?? null}::text,
        case when d.part = 'original' then d.original_started_at else coalesce(d.started_at, ${began}) end,
        now() - ${age}, ${output}
      from decided d
      where ${outcome} <> 'succeeded' and not (${outcome} = 'retracted' and ${target} = 'QUEUED')
      union all
      select d.job, d.index, d.original_generation, d.attempt, d.original_node, 'cancelled', null, null, null,
        d.original_started_at, now(), null
      from decided d where ${isEnd} and d.part = 'copy' and d.original_generation is not null
      union all
      select d.job, d.index, d.generation, d.copy_attempt, d.node, 'cancelled', null, null, null, d.started_at, now(), null
      from decided d where ${isEnd} and d.part = 'original' and not d.alone and d.status = 'RUNNING'
    ),
    dropped as (
      delete from task_original o
      where o.job = ${job}::bigint and o.index = ${index}::integer
        and exists (select from decided where part = 'original' or last)
    ),
    left_alone as (
      update task_original o set alone = true
      where o.job = ${job}::bigint and o.index = ${index}::integer
        and exists (select from decided where part = 'copy' and not last)
    ),
    delta as (
      select s.job, (s.status = 'QUEUED')::integer as queued,
        (s.status = 'ASSIGNED')::integer - (d.status = 'ASSIGNED')::integer as assigned,
        (s.status = 'RUNNING')::integer - (d.status = 'RUNNING')::integer as running,
        (s.status = 'RETRYING')::integer as retrying, (s.status = 'COMPLETED')::integer as completed,
        (s.status = 'FAILED')::integer as failed, 0 as cancelled, 0 as cursor
      from settled s cross join decided d
    ),
    ${movedJobs()},
    living as (
      select generation, node from found where not coalesce(alone, false) and (part is null or part = 'original' and not last)
      union all
      select original_generation, original_node from found
      where original_generation is not null and (part is null or part = 'copy' and not last)
    )
    select ${verdict}, exists (select from decided) as accepted,
      (
        select json_build_object(${past}) from (
          select failures, losses, failed_nodes, 1 as rank from settled
          union all
          select failures, losses, failed_nodes, 2 from held
        ) x
        order by rank limit 1
      ) as past,
      (select coalesce(json_agg(living), '[]') from living) as live`;
}

async function make(database: Database, epoch: number, asked: CopyAsked): ReturnType<CopyStore['make']> {
  const { task, jobs } = await runAsLeader(database, epoch, makeCopyStatement(epoch, asked));
  const { job, index, to } = asked;
  const made = task && { ...task, input: task.input ?? undefined };
  return {
    task: made ? { job, index, node: to, ...made } : undefined,
    jobs: jobs.map(toJobChange),
  };
}

async function settle(database: Database, epoch: number, item: Settlement): Promise<CopySettled> {
  const row = await runAsLeader(database, epoch, settleCopyStatement(epoch, item));
  return {
    accepted: row.accepted,
    live: row.live.map((pair) => ({ job: item.job, index: item.index, ...pair })),
    ...(row.past ?? { failures: 0, losses: 0, failedNodes: [] }),
    jobs: row.jobs.map(toJobChange),
  };
}

/** The copies are cancelled with the rows of their tasks; here go the originals, which end then anyway. */
async function cancel(database: Database, epoch: number, job: number): Promise<void> {
  await runAsLeader(
    database,
    epoch,
    sql<{ leading: number }>`
      with ${lease(epoch)},
      dropped as (
        delete from task_original o using job j
        where o.job = ${job}::bigint and j.seq = o.job and j.cancelling and exists (select from lease)
        returning o.*
      ),
      recorded as (
        insert into task_attempt (job, index, generation, attempt, node, outcome, started_at, finished_at)
        select job, index, generation, attempt, node, 'cancelled', started_at, now() from dropped
      )
      select (select count(*) from lease) as leading`,
  );
}

async function live(database: Database): Promise<OriginalAttempt[]> {
  const { rows } = await database.run((db) =>
    sql<OriginalAttempt>`
      select o.job, o.index, o.generation, o.node, o.alone, t.failures, t.losses,
        coalesce(t.failed_nodes, '{}') as "failedNodes"
      from task_original o
      join job j on j.seq = o.job and j.completed_at is null
      join task t on t.job = o.job and t.index = o.index
      where t.generation = o.copy_generation and t.status in ('ASSIGNED', 'RUNNING')
      order by o.job, o.index`.execute(db),
  );
  return [...rows];
}

/** The latest tasks of the job by index: a bounded number of rows and, beside them, as many in blocks. */
export const runTimesStatement = (job: number, rows: number): RawBuilder<{ ms: number }> => sql<{ ms: number }>`
  select t.run_us::double precision / 1000 as ms
  from (
    (select status, run_us from task where job = ${job}::bigint order by index desc limit ${rows}::integer)
    union all
    (
      select 'COMPLETED', e.run_us from task_block b cross join lateral unnest(b.run_us) as e(run_us)
      where b.job = ${job}::bigint order by b.first desc limit ${rows}::integer
    )
  ) t
  where t.status = 'COMPLETED' and t.run_us is not null
  order by 1`;

export function copyStore(database: Database, turns: Turns): CopyStore {
  return {
    make: (epoch, asked) => turns.alone(() => make(database, epoch, asked)),
    settle: (epoch, item) => turns.alone(() => settle(database, epoch, item)),
    cancel: (epoch, job) => turns.alone(() => cancel(database, epoch, job)),
    live: () => live(database),
    runTimesMs: async (job, rows) => {
      const found = await database.run((db) => runTimesStatement(job, rows).execute(db));
      return found.rows.map(({ ms }) => ms);
    },
  };
}
