import { type RawBuilder, sql } from 'kysely';
import type { TaskRef } from '../core/task.js';
import type { TaskRow } from '../ports.js';
import { bigints, ints } from './arrays.js';
import type { Database } from './database.js';
import { keyOf, lease, lockedJobs, runAsLeader } from './leading.js';

/**
 * Many fresh tasks that are given to a node at once are kept as one range (`task_range`), and each gets its row when
 * something is said of it: by its completion, in which case no other version of the row is ever written, or by `makeRows`
 * before anything else. So: a task below the cursor that has no row is ASSIGNED in generation 1 to the node of its range.
 * Ranges stay until their job is removed; a row, once there, is all that counts (adr/0026-ranges-of-assigned-tasks.md).
 */
export const RANGE_MIN = 16;

/** Successive tasks of a job. */
export interface Span {
  job: number;
  from: number;
  /** Not this one. */
  to: number;
}

/** The ranges that overlap one: one probe of their key for the first, the others follow it. */
export const overlapping = (
  job: RawBuilder<unknown>,
  from: RawBuilder<unknown>,
  to: RawBuilder<unknown>,
): RawBuilder<unknown> => sql`
  select g.* from task_range g
  where g.job = any (array[${job}]) and g.first < ${to} and g.after > ${from} and g.first >= coalesce((
    select f.first from task_range f
    where f.job = ${job} and f.first <= ${from} order by f.first desc limit 1
  ), ${from})`;

export const makeRowsStatement = (epoch: number, spans: readonly Span[]): RawBuilder<{ leading: number }> => sql<{
  leading: number;
}>`
  with ${lease(epoch)},
  ${lockedJobs(
    spans.map(({ job }) => job),
    { assignable: false, shared: true, columns: sql`seq, created_at` },
  )},
  made as (
    insert into task (job, index, generation, status, node, assigned_at, queued_at)
    select u.job, i.index, 1, 'ASSIGNED', g.node, g.assigned_at, l.created_at
    from unnest(
      ${bigints(spans, (s) => s.job)}, ${ints(spans, (s) => s.from)}, ${ints(spans, (s) => s.to)}
    ) as u(job, first, after)
    join locked l on l.seq = u.job
    cross join lateral (${overlapping(sql`u.job`, sql`u.first`, sql`u.after`)}) g
    cross join lateral generate_series(greatest(g.first, u.first), least(g.after, u.after) - 1) as i(index)
    on conflict (job, index) do nothing
  )
  select count(*) as leading from lease`;

/** Gives tasks of ranges the rows that the statement to follow is about. Changes nothing that anybody could see. */
export async function makeRows(database: Database, epoch: number, spans: readonly Span[]): Promise<void> {
  if (spans.length > 0) await runAsLeader(database, epoch, makeRowsStatement(epoch, spans));
}

/** Only a first attempt can be without a row. */
export const spansOf = (refs: readonly TaskRef[]): Span[] =>
  refs.flatMap(({ job, index, generation }) => (generation === 1 ? [{ job, from: index, to: index + 1 }] : []));

interface RowlessRow {
  index: number;
  generation: number;
  node_name: string | null;
  assigned_at: number;
  queued_at: number;
}

/** Tasks of a job that a range stands for: of these indexes, or of a span. */
export function rowlessStatement(span: Span, among: readonly number[] | undefined): RawBuilder<RowlessRow> {
  const { job, from, to } = span;
  const indexes = among
    ? sql`unnest(${ints(among, (index) => index)}) as i(index)
      cross join lateral (${overlapping(sql`j.seq`, sql`i.index`, sql`i.index + 1`)}) g`
    : sql`(${overlapping(sql`${job}::bigint`, sql`${from}::integer`, sql`${to}::integer`)}) g
      cross join lateral generate_series(
        greatest(g.first, ${from}::integer), least(g.after, ${to}::integer) - 1
      ) as i(index)`;
  return sql<RowlessRow>`
    select i.index, 1 as generation, n.name as node_name, g.assigned_at, j.created_at as queued_at
    from (select seq, created_at from job where seq = ${job}::bigint) j
    cross join lateral ${indexes}
    left join node n on n.seq = g.node
    where not exists (select from task t where ${keyOf(sql`j.seq`, sql`i.index`)})
      and i.index >= ${from}::integer and i.index < ${to}::integer
    order by i.index`;
}

export async function rowless(
  database: Database,
  span: Span,
  among: readonly number[] | undefined,
): Promise<TaskRow[]> {
  const { rows } = await database.run((db) => rowlessStatement(span, among).execute(db));
  return rows.map((row) => ({
    ...{ job: span.job, index: row.index, generation: 1, status: 'ASSIGNED', failures: 0, losses: 0 },
    ...{ node: row.node_name ?? undefined, assignedAtMs: row.assigned_at, queuedAtMs: row.queued_at },
    ...{ exitCode: undefined, startedAtMs: undefined, finishedAtMs: undefined, runUs: undefined },
    ...{ lastError: undefined, resultJson: undefined, output: undefined, peakMemoryBytes: undefined },
  }));
}
