import { type RawBuilder, sql } from 'kysely';
import type { TaskRef, TaskStatus } from '../core/task.js';
import type { LiveTask, TaskStore } from '../ports.js';
import { bigints, ints } from './arrays.js';
import type { Database } from './database.js';
import { inputsOf } from './job-inputs.js';
import { keyOf } from './leading.js';
import { list } from './task-list.js';
import { stillIn, unpacked } from './task-ranges.js';

/** Reading tasks: always along the primary key or the index of what is due, and a bounded page at a time. */
type Reads = Pick<
  TaskStore,
  | 'returned'
  | 'due'
  | 'nextDueInMs'
  | 'live'
  | 'list'
  | 'made'
  | 'attempts'
  | 'results'
  | 'inputs'
  | 'storedBytes'
  | 'nodesLost'
  | 'unfinishedInputs'
>;

const TERMINAL: ReadonlySet<TaskStatus> = new Set(['COMPLETED', 'FAILED', 'CANCELLED']);

export function taskReads(database: Database): Reads {
  return {
    returned: (afterJob, limit) => returned(database, afterJob, limit),
    due: (jobs, limitEach) => due(database, jobs, limitEach),
    nextDueInMs: (jobs) => nextDueInMs(database, jobs),
    live: () => live(database),
    list: (query) => list(database, query),
    made: (job) => made(database, job),
    attempts: (job, index) => attempts(database, job, index),
    results: (job, fromIndex, limit) => results(database, job, fromIndex, limit),
    inputs: (refs) => inputs(database, refs),
    storedBytes: (job) => storedBytes(database, job),
    nodesLost: (refs) => nodesLost(database, refs),
    unfinishedInputs: (job, fromIndex, limit) => unfinishedInputs(database, job, fromIndex, limit),
  };
}

interface DueRow {
  job: number;
  index: number;
  failed_nodes: number[] | null;
  failures: number;
  losses: number;
}

/** From one job to the next along the index of what is due, one probe each, however much came back to a job. */
export const returnedStatement = (afterJob: number, limit: number): RawBuilder<{ job: number }> => {
  const next = (after: RawBuilder<unknown>) => sql`
    select t.job from task t
    where t.due_at is not null and (t.job, t.due_at) > (${after}, 'infinity'::timestamptz)
    order by t.job, t.due_at limit 1`;
  return sql<{ job: number }>`
    with recursive back as (
      (${next(sql`${afterJob}::bigint`)})
      union all
      select n.job from back b cross join lateral (${next(sql`b.job`)}) n
    )
    select job from back limit ${limit}::integer`;
};

/** `offset 0` keeps the planner from looking at the jobs in any other order, or reading more of each than it is asked for. */
export const dueStatement = (jobs: readonly number[], limitEach: number): RawBuilder<DueRow> => sql<DueRow>`
  select t.job, t.index, t.failed_nodes, t.failures, t.losses
  from unnest(${bigints(jobs, (job) => job)}) with ordinality as w(job, position)
  cross join lateral (
    select from job j where j.seq = w.job and not j.cancelling and j.completed_at is null offset 0
  ) j
  cross join lateral (
    select * from task t where t.job = w.job and t.due_at <= now() order by t.job, t.due_at limit ${limitEach}::integer
  ) t
  order by w.position, t.due_at`;

/** One probe of the index of what is due for each of these jobs. */
export const nextDueStatement = (jobs: readonly number[]): RawBuilder<{ in_ms: number | null }> => sql<{
  in_ms: number | null;
}>`
  select min(greatest(0, extract(epoch from t.due_at - now()) * 1000))::double precision as in_ms
  from unnest(${bigints(jobs, (job) => job)}) as w(job)
  cross join lateral (
    select from job j where j.seq = w.job and not j.cancelling and j.completed_at is null offset 0
  ) j
  cross join lateral (
    select t.due_at from task t where t.job = w.job and t.due_at > now() order by t.job, t.due_at limit 1
  ) t`;

async function returned(database: Database, afterJob: number, limit: number): Promise<number[]> {
  const { rows } = await database.run((db) => returnedStatement(afterJob, limit).execute(db));
  return rows.map(({ job }) => job);
}

async function due(database: Database, jobs: readonly number[], limitEach: number): ReturnType<TaskStore['due']> {
  if (jobs.length === 0) return [];
  const { rows } = await database.run((db) => dueStatement(jobs, limitEach).execute(db));
  return rows.map(({ failed_nodes, ...row }) => ({ ...row, failedNodes: failed_nodes ?? [] }));
}

async function nextDueInMs(database: Database, jobs: readonly number[]): Promise<number | undefined> {
  if (jobs.length === 0) return undefined;
  const { rows } = await database.run((db) => nextDueStatement(jobs).execute(db));
  return rows[0]?.in_ms ?? undefined;
}

/** Each job's rows, and its ranges, are read backwards from its cursor and no further than its counters say there is something to find. */
async function live(database: Database): Promise<LiveTask[]> {
  const { rows } = await database.run((db) =>
    sql<LiveTask>`
      select t.job, t.index, t.generation, t.node, t.status, t.failures, t.losses,
        coalesce(t.failed_nodes, '{}') as "failedNodes",
        greatest(0, extract(epoch from now() - coalesce(t.started_at, t.assigned_at)) * 1000)::double precision as "ageMs"
      from job j cross join lateral (
        select * from task t
        where t.job = j.seq and t.index < j.cursor and t.status in ('ASSIGNED', 'RUNNING')
        order by t.index desc limit j.assigned + j.running
      ) t
      where j.completed_at is null and j.assigned + j.running > 0
      union all
      select j.seq, t.index, 1, t.node, 'ASSIGNED', 0, 0, '{}',
        greatest(0, extract(epoch from now() - t.assigned_at) * 1000)::double precision
      from job j cross join lateral (
        select g.node, g.assigned_at, i.index
        from task_range g
        cross join lateral unnest(${stillIn(sql`g.first`, sql`g.after`)}) as still(part)
        cross join lateral generate_series(lower(still.part), upper(still.part) - 1) as i(index)
        where g.job = j.seq
        order by g.first desc limit j.assigned
      ) t
      where j.completed_at is null and j.assigned > 0
      order by job, index`.execute(db),
  );
  return [...rows];
}

const madeQuery = (database: Database, job: number) =>
  database.run((db) =>
    db.selectFrom('job').select(['total', 'materialised', 'skipped']).where('seq', '=', job).executeTakeFirst(),
  );

async function made(database: Database, job: number): Promise<number> {
  const row = await madeQuery(database, job);
  return row ? row.materialised - row.skipped : 0;
}

async function attempts(database: Database, job: number, index: number): ReturnType<TaskStore['attempts']> {
  const rows = await database.run((db) =>
    db
      .selectFrom('task_attempt as a')
      .leftJoin('node as n', 'n.seq', 'a.node')
      .select(['a.generation', 'a.attempt', 'n.name', 'a.outcome', 'a.error', 'a.output', 'a.started_at'])
      .select('a.finished_at')
      .where('a.job', '=', job)
      .where('a.index', '=', index)
      .orderBy('a.generation')
      .orderBy('a.attempt')
      .execute(),
  );
  return rows.map((row) => ({
    generation: row.generation,
    attempt: row.attempt,
    node: row.name ?? '',
    outcome: row.outcome,
    error: row.error ?? undefined,
    output: row.output ?? undefined,
    startedAtMs: row.started_at ?? undefined,
    finishedAtMs: row.finished_at,
  }));
}

async function results(
  database: Database,
  job: number,
  fromIndex: number,
  limit: number,
): ReturnType<TaskStore['results']> {
  const rows = await resultRows(database, job, fromIndex, limit);
  // A gap is a task that was assigned with others and has not ended.
  const stop = rows.findIndex((row, place) => row.index !== fromIndex + place || !TERMINAL.has(row.status));
  const ended = rows.slice(0, stop === -1 ? rows.length : stop).map((row) => ({
    index: row.index,
    status: row.status,
    resultJson: row.result_json ?? undefined,
    output: row.output ?? undefined,
  }));
  return rows.length > 0 ? ended : cancelledUnmade(database, job, fromIndex, limit);
}

interface ResultRow {
  index: number;
  status: TaskStatus;
  result_json: string | null;
  output: Uint8Array | null;
}

/** Rows and blocks, of one snapshot. */
async function resultRows(database: Database, job: number, fromIndex: number, limit: number): Promise<ResultRow[]> {
  const to = fromIndex + limit;
  const { rows } = await database.run((db) =>
    sql<ResultRow>`
      select index, status, result_json, output from task
      where job = ${job}::bigint and index >= ${fromIndex}::integer and index < ${to}::integer
      union all
      select index, 'COMPLETED', result_json, null from (${unpacked(job, fromIndex, to, limit)}) b
      order by index`.execute(db),
  );
  return rows;
}

/** Past the rows: tasks that were cancelled before they got one. */
async function cancelledUnmade(
  database: Database,
  job: number,
  fromIndex: number,
  limit: number,
): ReturnType<TaskStore['results']> {
  const row = await madeQuery(database, job);
  if (!row || row.skipped === 0 || fromIndex < row.materialised - row.skipped) return [];
  const count = Math.max(0, Math.min(limit, row.total - fromIndex));
  return Array.from({ length: count }, (_, place) => ({
    index: fromIndex + place,
    status: 'CANCELLED' as const,
    resultJson: undefined,
    output: undefined,
  }));
}

const asked = (refs: readonly TaskRef[]) =>
  sql`unnest(${bigints(refs, (ref) => ref.job)}, ${ints(refs, (ref) => ref.index)})
    with ordinality as u(job, index, position)`;

async function inputs(database: Database, refs: readonly TaskRef[]): Promise<(string | undefined)[]> {
  if (refs.length === 0) return [];
  const { rows } = await database.run((db) =>
    sql<{ input: string | null }>`
      select coalesce(t.input, (
        select c.inputs[u.index - c.from_index + 1] from job j join job_input c on c.job_id = j.id
        where j.seq = u.job and j.has_inputs and c.from_index <= u.index order by c.from_index desc limit 1
      )) as input
      from ${asked(refs)} left join task t on ${keyOf(sql`u.job`, sql`u.index`)}
      order by u.position`.execute(db),
  );
  return rows.map((row) => row.input ?? undefined);
}

/** The sizes of compressed values are read from their headers; the values stay where they are. */
async function storedBytes(database: Database, job: number): Promise<number> {
  const { rows } = await database.run((db) =>
    sql<{ bytes: string }>`
      select (
        (
          select coalesce(sum(coalesce(pg_column_size(result_json), 0) + coalesce(pg_column_size(output), 0)), 0)
          from task where job = ${job}::bigint
        ) + (
          select coalesce(sum(coalesce(pg_column_size(output), 0)), 0) from task_attempt where job = ${job}::bigint
        ) + (
          select coalesce(sum(coalesce(pg_column_size(results), pg_column_size(result) * (after - first), 0)), 0)
          from task_block where job = ${job}::bigint
        )
      )::bigint as bytes`.execute(db),
  );
  return Number(rows[0]?.bytes ?? 0);
}

async function nodesLost(database: Database, refs: readonly (TaskRef & { node: number })[]): Promise<number[]> {
  if (refs.length === 0) return [];
  const { rows } = await database.run((db) =>
    sql<{ nodes: number }>`
      select (
        select count(distinct a.node)::integer from task_attempt a
        where a.job = u.job and a.index = u.index and a.outcome = 'node-lost' and a.started_at is not null
          and a.node <> u.node
      ) as nodes
      from unnest(
        ${bigints(refs, (ref) => ref.job)}, ${ints(refs, (ref) => ref.index)}, ${ints(refs, (ref) => ref.node)}
      ) with ordinality as u(job, index, node, position)
      order by u.position`.execute(db),
  );
  return rows.map((row) => row.nodes);
}

/** Rows first, then what a cancelled job never made rows for: from its kept inputs, or by number when it has none. */
async function unfinishedInputs(
  database: Database,
  job: number,
  fromIndex: number,
  limit: number,
): ReturnType<TaskStore['unfinishedInputs']> {
  const { rows } = await database.run((db) =>
    sql<{ index: number; input: string | null }>`
      with of_job as materialized (
        select seq, id, has_inputs, total, materialised - skipped as row_count from job where seq = ${job}::bigint
      )
      (
        select index, input from task
        where job = ${job}::bigint and index >= ${fromIndex}::integer and status <> 'COMPLETED'
        order by index limit ${limit}::integer
      )
      union all
      (
        select i.index, null from of_job, generate_series(
          greatest(row_count, ${fromIndex}::integer),
          least(total, greatest(row_count, ${fromIndex}::integer) + ${limit}::integer) - 1
        ) as i(index)
        where not has_inputs
      )
      union all
      (
        select i.index, i.input
        from (select id, greatest(row_count, ${fromIndex}::integer) as first from of_job) j
        cross join lateral (${inputsOf(sql`j.id`, sql`j.first`, sql`(j.first + ${limit}::integer)`)}) i
      )
      order by index limit ${limit}::integer`.execute(db),
  );
  return rows.map((row) => ({ index: row.index, input: row.input ?? undefined }));
}
