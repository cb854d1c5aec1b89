import { type RawBuilder, sql } from 'kysely';
import type { TaskStatus } from '../core/task.js';
import type { TaskQuery, TaskRow } from '../ports.js';
import { ints } from './arrays.js';
import type { Database } from './database.js';
import { overlapping, stillIn, unpacked } from './task-ranges.js';

/**
 * A page of a job's tasks, of one snapshot: rows, and beside them what completed in blocks and what is still in its range.
 * Every task below the job's cursor is in exactly one of the three, so a page of all of them ends where it is full.
 */
interface ListedRow {
  index: number;
  generation: number;
  status: TaskStatus;
  failures: number;
  losses: number;
  node: string | null;
  exit_code: number | null;
  queued_at: number;
  assigned_at: number | null;
  started_at: number | null;
  finished_at: number | null;
  last_error: string | null;
  result_json: string | null;
  output: Uint8Array | null;
  run_us: number | null;
  peak_memory_bytes: number | null;
}

/** Above every index. */
const INDEX_MAX = 2 ** 31 - 1;

/** The indexes of the page's part of a job, those that follow one another as one: live tasks nearly all do. */
function spansOf(indexes: readonly number[], { fromIndex, toIndex = INDEX_MAX }: TaskQuery): RawBuilder<unknown> {
  const spans: { first: number; after: number }[] = [];
  for (const index of indexes) {
    if (index < fromIndex || index >= toIndex) continue;
    const last = spans.at(-1);
    if (last?.after === index) last.after++;
    else spans.push({ first: index, after: index + 1 });
  }
  return sql`unnest(${ints(spans, (s) => s.first)}, ${ints(spans, (s) => s.after)}) as s(first, after)`;
}

/** Rows of the key from `fromIndex` on. What failed left an attempt behind, what came back is due: three among a million are found by that. */
function rowsOf(query: TaskQuery): RawBuilder<unknown> {
  const { job, fromIndex, toIndex, status, among, limit } = query;
  const ofJob = sql`t.job = ${job}::bigint and t.index >= ${fromIndex}::integer`;
  const until = toIndex === undefined ? sql`` : sql`and t.index < ${toIndex}::integer`;
  const inState = status === undefined ? sql`` : sql`and t.status = ${status}::text`;
  const some = (() => {
    if (among === 'failed')
      return sql`and t.index in (
        select distinct a.index from task_attempt a where a.job = ${job}::bigint and a.index >= ${fromIndex}::integer
      )`;
    if (among === 'returned')
      return sql`and t.index in (
        select distinct d.index from task d
        where d.job = ${job}::bigint and d.due_at is not null and d.index >= ${fromIndex}::integer
      )`;
    return sql``;
  })();
  const inOrder = sql`order by t.index limit ${limit}::integer`;
  const tasks = Array.isArray(among)
    ? sql`${spansOf(among, query)} cross join lateral (
        select * from task t
        where t.job = ${job}::bigint and t.index >= s.first and t.index < s.after ${inState} ${inOrder}
      ) t`
    : sql`task t where ${ofJob} ${until} ${inState} ${some}`;
  return sql`
    select t.index, t.generation, t.status, t.failures, t.losses, t.node, t.exit_code, t.queued_at, t.assigned_at,
      t.started_at, t.finished_at, t.last_error, t.result_json, t.output, t.run_us, t.peak_memory_bytes
    from ${tasks} ${inOrder}`;
}

const withoutRow = sql`null::text, null::text, null::bytea, null::bigint, null::bigint`;

const blocksOf = (job: number, from: number, to: number, limit: number): RawBuilder<unknown> => sql`
  select b.index, 1, 'COMPLETED', 0, 0, b.node, b.exit_code, j.created_at, b.assigned_at,
    b.settled_at - (b.task_age_ms + b.task_run_us::double precision / 1000) * interval '1 millisecond',
    b.settled_at - b.task_age_ms * interval '1 millisecond', null::text, b.result_json, null::bytea, b.task_run_us,
    null::bigint
  from (select created_at from job where seq = ${job}::bigint) j cross join (${unpacked(job, from, to, limit)}) b
  order by b.index limit ${limit}::integer`;

/** Of each piece of a range that is still there the first `limit`. */
const rangesOf = (query: TaskQuery, to: number): RawBuilder<unknown> => {
  const { job, fromIndex, among, limit } = query;
  const spans = Array.isArray(among)
    ? spansOf(among, query)
    : sql`(select ${fromIndex}::integer, ${to}::integer) as s(first, after)`;
  const [first, after] = [sql`s.first`, sql`s.after`];
  return sql`
    select i.index, 1, 'ASSIGNED', 0, 0, g.node, null::integer, j.created_at, g.assigned_at, null::timestamptz,
      null::timestamptz, ${withoutRow}
    from (select created_at from job where seq = ${job}::bigint) j cross join ${spans}
    cross join lateral (${overlapping('task_range', sql`${job}::bigint`, first, after)}) g
    cross join lateral unnest(${stillIn(first, after)}) as still(part)
    cross join lateral generate_series(lower(part), least(upper(part), lower(part) + ${limit}::integer) - 1) as i(index)
    order by i.index limit ${limit}::integer`;
};

export function listStatement(query: TaskQuery): RawBuilder<ListedRow> {
  const { job, status, among, limit, fromIndex } = query;
  const to = Math.min(
    query.toIndex ?? INDEX_MAX,
    status === undefined && among === undefined ? fromIndex + limit : INDEX_MAX,
  );
  const parts = [rowsOf(query)];
  if (typeof among !== 'string') {
    if ((status ?? 'COMPLETED') === 'COMPLETED' && among === undefined) parts.push(blocksOf(job, fromIndex, to, limit));
    if ((status ?? 'ASSIGNED') === 'ASSIGNED') parts.push(rangesOf(query, to));
  }
  const all = sql.join(
    parts.map((part) => sql`(${part})`),
    sql` union all `,
  );
  return sql<ListedRow>`
    select t.index, t.generation, t.status, t.failures, t.losses, n.name as node, t.exit_code, t.queued_at, t.assigned_at,
      t.started_at, t.finished_at, t.last_error, t.result_json, t.output, t.run_us, t.peak_memory_bytes
    from (${all}) t left join node n on n.seq = t.node
    order by t.index limit ${limit}::integer`;
}

export async function list(database: Database, query: TaskQuery): Promise<TaskRow[]> {
  const { rows } = await database.run((db) => listStatement(query).execute(db));
  return rows.map((row) => ({
    job: query.job,
    index: row.index,
    generation: row.generation,
    status: row.status,
    failures: row.failures,
    losses: row.losses,
    node: row.node ?? undefined,
    exitCode: row.exit_code ?? undefined,
    queuedAtMs: row.queued_at,
    assignedAtMs: row.assigned_at ?? undefined,
    startedAtMs: row.started_at ?? undefined,
    finishedAtMs: row.finished_at ?? undefined,
    lastError: row.last_error ?? undefined,
    resultJson: row.result_json ?? undefined,
    output: row.output ?? undefined,
    runUs: row.run_us ?? undefined,
    peakMemoryBytes: row.peak_memory_bytes ?? undefined,
  }));
}
