import { type RawBuilder, sql } from 'kysely';
import type { TaskRef } from '../core/task.js';
import { bigints, ints } from './arrays.js';
import type { Database } from './database.js';
import { inputsOf } from './job-inputs.js';
import { isLocked, lease, lockedJobs, runAsLeader } from './leading.js';

/**
 * Many fresh tasks that are given to a node at once are one row of `task_range`; a task of it is ASSIGNED in generation 1
 * until it is taken out. Who takes it out says in the same statement what it is from then on: a row of `task`, or a place
 * in a row of `task_block`, where successive tasks are that completed together and plainly. So most tasks never have a row
 * (adr/0026-ranges-and-blocks.md). Ranges and blocks stay until their job is removed.
 *
 * `out` of the range is the fence: whatever takes tasks out updates it on the condition that they are still there, which
 * PostgreSQL checks again on the newest version of the range when two do so at a time.
 */

/** Successive tasks of a job. */
export interface Span {
  job: number;
  from: number;
  /** Not this one. */
  to: number;
}

/** The ranges or blocks that overlap a span: one probe of their key for the first, the others follow it. */
export const overlapping = (
  table: 'task_range' | 'task_block',
  job: RawBuilder<unknown>,
  from: RawBuilder<unknown>,
  to: RawBuilder<unknown>,
): RawBuilder<unknown> => sql`
  select g.* from ${sql.table(table)} g
  where g.job = any (array[${job}]) and g.first < ${to} and g.after > ${from} and g.first >= coalesce((
    select f.first from ${sql.table(table)} f where f.job = ${job} and f.first <= ${from} order by f.first desc limit 1
  ), ${from})`;

/**
 * Of the blocks `g` that overlap a span, its tasks: the block's columns and index, task_age_ms, task_run_us, result_json. Of
 * each block the first `limit`; who asks wants no more than that in all.
 */
export const unpacked = (job: number, from: number, to: number, limit: number): RawBuilder<unknown> => {
  const before = sql`greatest(${from}::integer - g.first, 0)`;
  const end = sql`least(${to}::integer, g.after) - g.first`;
  const part = sql`[${before} + 1 : least(${end}, ${before} + ${limit}::integer)]`;
  return sql`
  select g.*, g.first + ${before} + e.position::integer - 1 as index, e.age_ms as task_age_ms, e.run_us as task_run_us,
    coalesce(e.result, g.result) as result_json
  from (${overlapping('task_block', sql`${job}::bigint`, sql`${from}::integer`, sql`${to}::integer`)}) g
  cross join lateral unnest((g.age_ms)${part}, (g.run_us)${part}, (g.results)${part})
    with ordinality as e(age_ms, run_us, result, position)`;
};

/** What of a span is still in the range `g`, which overlaps it. */
export const stillIn = (from: RawBuilder<unknown>, to: RawBuilder<unknown>): RawBuilder<unknown> =>
  sql`int4multirange(int4range(greatest(g.first, ${from}), least(g.after, ${to}))) - g.out`;

/**
 * `taken` and `kept`: of the CTE `pieces` (job, range, low, high, …), each of them within one range and still in it, those
 * that are taken out by this statement: of each range all or none. Ranges are locked in the order of their key.
 */
export const takenOut = sql`
  taken as (
    update task_range g set out = g.out + p.part
    from (
      select job, range, range_agg(int4range(low, high)) as part from pieces group by job, range order by job, range
    ) p
    where g.job = any (array[p.job]) and g.first = p.range and not g.out && p.part
    returning g.job, g.first
  ),
  kept as materialized (
    select p.* from pieces p join taken t on t.job = p.job and t.first = p.range
  )`;

interface MadeRows {
  leading: number;
  refused: number;
}

export const makeRowsStatement = (epoch: number, spans: readonly Span[]): RawBuilder<MadeRows> => sql<MadeRows>`
  with ${lease(epoch)},
  ${lockedJobs(
    spans.map(({ job }) => job),
    { assignable: false, shared: true, columns: sql`seq, id, has_inputs, created_at` },
  )},
  pieces as materialized (
    select g.job, g.first as range, g.node, g.assigned_at, lower(still.part) as low, upper(still.part) as high
    from unnest(
      ${bigints(spans, (s) => s.job)}, ${ints(spans, (s) => s.from)}, ${ints(spans, (s) => s.to)}
    ) as u(job, first, after)
    cross join lateral (${overlapping('task_range', sql`u.job`, sql`u.first`, sql`u.after`)}) g
    cross join lateral unnest(${stillIn(sql`u.first`, sql`u.after`)}) as still(part)
    where ${isLocked(sql`u.job`)}
  ),
  ${takenOut},
  described as materialized (
    select k.*, l.created_at, case when l.has_inputs then array(
      select i.input from (${inputsOf(sql`l.id`, sql`k.low`, sql`k.high`)}) i order by i.index
    ) end as inputs
    from kept k join locked l on l.seq = k.job
  ),
  made as (
    insert into task (job, index, generation, status, node, assigned_at, queued_at, input)
    select d.job, i.index, 1, 'ASSIGNED', d.node, d.assigned_at, d.created_at, d.inputs[i.index - d.low + 1]
    from described d cross join lateral generate_series(d.low, d.high - 1) as i(index)
  )
  select (select count(*) from lease) as leading,
    ((select count(*) from pieces) - (select count(*) from kept))::integer as refused`;

/**
 * Gives tasks of ranges the rows that the statement to follow is about. Nobody could tell the difference. What another
 * statement takes out at the same moment is looked at again.
 */
export async function makeRows(database: Database, epoch: number, spans: readonly Span[]): Promise<void> {
  let refused = spans.length;
  while (refused > 0) ({ refused } = await runAsLeader(database, epoch, makeRowsStatement(epoch, spans)));
}

/** Of these tasks, those that can be without a row: in their first attempts. In order, none twice. */
export function spansOf(refs: readonly TaskRef[]): Span[] {
  const firsts = refs.filter(({ generation }) => generation === 1);
  const spans: Span[] = [];
  for (const { job, index } of firsts.sort((a, b) => a.job - b.job || a.index - b.index)) {
    const last = spans.at(-1);
    if (last?.job !== job || last.to < index) spans.push({ job, from: index, to: index + 1 });
    else last.to = Math.max(last.to, index + 1);
  }
  return spans;
}
