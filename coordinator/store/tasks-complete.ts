import { type RawBuilder, sql } from 'kysely';
import type { Settled, Settlement } from '../ports.js';
import { base64, base64s, bigints, booleans, boundedMs, doubles, ints, text, texts, whole } from './arrays.js';
import type { Database } from './database.js';
import { isLocked, lease, lockedJobs, movedJobs, runAsLeader, toJobChange, type Verdict, verdict } from './leading.js';
import { inOrder, type Run, toRuns } from './task-runs.js';
import { overlapping, stillIn, takenOut } from './task-ranges.js';

interface CompletedRow extends Verdict {
  /** What matched: 1-based runs and indexes; null when everything did. */
  matched: [run: number, index: number][] | null;
  /** Pieces of runs that another statement took out of their range at the same moment, or what is in one range with them. */
  refused: number;
}

/** The results, unless all are the same: an element of an array of texts is found by passing those before it. */
function resultsOf(ordered: readonly Settlement[]): { same: string | undefined; each: RawBuilder<string[]> } {
  const same = ordered[0]?.resultJson;
  const differs = ordered.some(({ resultJson }) => resultJson !== same);
  return { same: differs ? undefined : same, each: texts(differs ? ordered : [], (s) => s.resultJson) };
}

const given = (runs: readonly Run[]): RawBuilder<unknown> => sql`
  unnest(
    ${bigints(runs, (r) => r.job)}, ${ints(runs, (r) => r.generation)}, ${ints(runs, (r) => r.node)},
    ${ints(runs, (r) => r.first)}, ${ints(runs, (r) => r.size)}, ${ints(runs, (r) => r.before)},
    ${ints(runs, (r) => r.exitCode)}, ${booleans(runs, (r) => r.block)}
  ) with ordinality as r(job, generation, node, first, size, before, exit_code, block, run)`;

/** What is said of the task `t.index` of the run `r`, from arrays by its place. */
function saidOf(ordered: readonly Settlement[]) {
  const results = resultsOf(ordered);
  const place = sql`[r.before + t.index - r.first + 1]`;
  const runUs = bigints(ordered, (s) => whole(s.runUs));
  const ages = doubles(ordered, (s) => boundedMs(s.finishedAgeMs));
  const age = sql`(${ages})${place}`;
  const ran = sql`(${runUs})${place}`;
  return {
    row: {
      finishedAt: sql`now() - ${age} * interval '1 millisecond'`,
      startedAt: sql`now() - (${age} + ${ran}::double precision / 1000) * interval '1 millisecond'`,
      runUs: ran,
      exitCode: sql`(${ints(ordered, (s) => s.exitCode)})${place}`,
      peakMemoryBytes: sql`(${bigints(ordered, (s) => whole(s.peakMemoryBytes))})${place}`,
      resultJson: sql`coalesce((${results.each})${place}, ${results.same ?? null}::text)`,
      output: sql`decode((${base64s(ordered, (s) => s.output)})${place}, 'base64')`,
    },
    /** Of the successive tasks of a piece. */
    block: { ages: sql`(${ages})`, runUs: sql`(${runUs})`, results: sql`(${results.each})`, result: results.same },
  };
}

/** `settled`: those of them that have rows. */
const settledRows = ({ row }: ReturnType<typeof saidOf>, runs: readonly Run[]): RawBuilder<unknown> => sql`
    settled as (
      update task t set
        status = 'COMPLETED', finished_at = ${row.finishedAt}, started_at = coalesce(t.started_at, ${row.startedAt}),
        run_us = ${row.runUs}, exit_code = ${row.exitCode}, peak_memory_bytes = ${row.peakMemoryBytes},
        result_json = ${row.resultJson}, output = ${row.output}
      from ${given(runs)}
      where t.job = any (array[r.job]) and t.index >= r.first and t.index < r.first + r.size
        and t.generation = r.generation and t.node = r.node
        and t.status in ('ASSIGNED', 'RUNNING') and ${isLocked(sql`r.job`)}
      returning r.run, t.job, t.index, t.running_at is not null as ran
    )`;

/**
 * The same where each of them is known to have a row: nothing is looked for in ranges. A statement costs by what it could
 * do, however little there is to do, and this one is all that one task waits for.
 */
export function completeRowsStatement(
  epoch: number,
  ordered: readonly Settlement[],
  runs: readonly Run[] = toRuns(ordered),
): RawBuilder<CompletedRow> {
  return sql<CompletedRow>`
    with ${lease(epoch)},
    ${lockedJobs(
      runs.map(({ job }) => job),
      { assignable: false, shared: true },
    )},
    ${settledRows(saidOf(ordered), runs)},
    delta as (
      select job, 0 as queued, -(count(*) filter (where not ran))::integer as assigned,
        -(count(*) filter (where ran))::integer as running, 0 as retrying, count(*)::integer as completed, 0 as failed,
        0 as cancelled, 0 as cursor
      from settled group by job
    ),
    ${movedJobs()}
    select ${verdict}, 0 as refused,
      case when (select count(*) from settled) < ${ordered.length}::integer then (
        select coalesce(json_agg(json_build_array(run, index)), '[]') from settled
      ) end as matched`;
}

/** The same for a single one, which then needs neither arrays nor an order of locks. */
export function completeRowStatement(epoch: number, item: Settlement): RawBuilder<CompletedRow> {
  const ageMs = sql`${boundedMs(item.finishedAgeMs)}::double precision`;
  const runUs = sql`${whole(item.runUs) ?? null}::bigint`;
  return sql<CompletedRow>`
    with ${lease(epoch)},
    settled as (
      update task t set
        status = 'COMPLETED', finished_at = now() - ${ageMs} * interval '1 millisecond',
        started_at = coalesce(
          t.started_at, now() - (${ageMs} + ${runUs}::double precision / 1000) * interval '1 millisecond'
        ),
        run_us = ${runUs}, exit_code = ${item.exitCode ?? null}::integer,
        peak_memory_bytes = ${whole(item.peakMemoryBytes) ?? null}::bigint,
        result_json = ${text(item.resultJson)},
        output = decode(${text(base64(item.output))}, 'base64')
      where t.job = ${item.job}::bigint and t.index = ${item.index}::integer
        and t.generation = ${item.generation}::integer and t.node = ${item.node}::integer
        and t.status in ('ASSIGNED', 'RUNNING') and exists (select from lease)
      returning t.job, t.running_at is not null as ran
    ),
    delta as (
      select job, 0 as queued, case when ran then 0 else -1 end as assigned, case when ran then -1 else 0 end as running,
        0 as retrying, 1 as completed, 0 as failed, 0 as cancelled, 0 as cursor
      from settled
    ),
    ${movedJobs()}
    select ${verdict}, 0 as refused, case when not exists (select from settled) then '[]'::json end as matched`;
}

/**
 * ASSIGNED or RUNNING → COMPLETED: what most attempts come to, in half the columns of a settlement (tasks-settle.ts).
 * Reads the rows of a run (successive tasks of one job, generation and node) in one pass along the primary key, and what is
 * said of each from arrays by its place in the run: a third of the time of a probe for every task. Tasks that are still in
 * their range are taken out of it into a block, or, few or with more to say, get their rows. Nothing in it can be joined
 * another way.
 */
export function completeStatement(
  epoch: number,
  ordered: readonly Settlement[],
  runs: readonly Run[] = toRuns(ordered),
): RawBuilder<CompletedRow> {
  const said = saidOf(ordered);
  const { row, block } = said;
  const places = sql`[k.before + k.low - k.start + 1 : k.before + k.high - k.start]`;
  return sql<CompletedRow>`
    with ${lease(epoch)},
    ${lockedJobs(
      runs.map(({ job }) => job),
      { assignable: false, shared: true, columns: sql`seq, created_at` },
    )},
    ${settledRows(said, runs)},
    pieces as materialized (
      select r.run, r.job, r.node, r.first as start, r.before, r.exit_code, r.block, g.first as range, g.assigned_at,
        lower(still.part) as low, upper(still.part) as high
      from ${given(runs)}
      cross join lateral (${overlapping('task_range', sql`r.job`, sql`r.first`, sql`r.first + r.size`)}) g
      cross join lateral unnest(${stillIn(sql`r.first`, sql`r.first + r.size`)}) as still(part)
      where r.generation = 1 and g.node = r.node and ${isLocked(sql`r.job`)}
    ),
    ${takenOut},
    blocks as (
      insert into task_block (job, first, after, node, assigned_at, exit_code, age_ms, run_us, results, result)
      select k.job, k.low, k.high, k.node, k.assigned_at, k.exit_code, ${block.ages}${places},
        nullif(${block.runUs}${places}, '{}'),
        nullif(${block.results}${places}, '{}'), ${block.result ?? null}::text
      from kept k where k.block
    ),
    entered as (
      insert into task (
        job, index, generation, status, node, queued_at, assigned_at, finished_at, started_at, run_us, exit_code,
        peak_memory_bytes, result_json, output
      )
      select t.job, t.index, 1, 'COMPLETED', r.node, l.created_at, r.assigned_at, ${row.finishedAt}, ${row.startedAt},
        ${row.runUs}, ${row.exitCode}, ${row.peakMemoryBytes}, ${row.resultJson}, ${row.output}
      from (select *, start as first from kept where not block) r
      join locked l on l.seq = r.job
      cross join lateral (select r.job, i.index from generate_series(r.low, r.high - 1) as i(index)) t
    ),
    delta as (
      select job, 0 as queued, -sum(rows - ran)::integer as assigned, -sum(ran)::integer as running, 0 as retrying,
        sum(rows)::integer as completed, 0 as failed, 0 as cancelled, 0 as cursor
      from (
        select job, count(*) as rows, count(*) filter (where ran) as ran from settled group by job
        union all
        select job, sum(high - low), 0 from kept group by job
      ) of_job group by job
    ),
    ${movedJobs()}
    select ${verdict}, ((select count(*) from pieces) - (select count(*) from kept))::integer as refused,
      case when coalesce((select sum(completed) from delta), 0) < ${ordered.length}::integer then (
        select coalesce(json_agg(json_build_array(run, index)), '[]') from (
          select run, index from settled
          union all
          select k.run, i.index from kept k cross join lateral generate_series(k.low, k.high - 1) as i(index)
        ) m
      ) end as matched`;
}

/** The least that can complete them. */
function statementFor(epoch: number, ordered: readonly Settlement[], runs: readonly Run[]): RawBuilder<CompletedRow> {
  if (!ordered.every(({ hasRow }) => hasRow)) return completeStatement(epoch, ordered, runs);
  const [only] = ordered;
  return only && ordered.length === 1 ? completeRowStatement(epoch, only) : completeRowsStatement(epoch, ordered, runs);
}

/** Successes. What two statements wanted to take out of one range at a time is tried again, when the other has ended. */
export async function complete(database: Database, epoch: number, items: readonly Settlement[]): Promise<Settled> {
  const positions = inOrder(items);
  const ordered = positions.map((position) => items[position] as Settlement);
  const accepted = new Array<boolean>(items.length).fill(false);
  const jobs = new Map<number, Settled['jobs'][number]>();
  const isLeft = (place: number): boolean => !accepted[positions[place] as number];
  for (let refused = 1; refused > 0; ) {
    const left = toRuns(ordered, isLeft);
    const row = await runAsLeader(database, epoch, statementFor(epoch, ordered, left));
    for (const job of row.jobs) jobs.set(job.seq, toJobChange(job));
    if (row.matched) {
      for (const [number, index] of row.matched) {
        const { first, before } = left[number - 1] as Run;
        accepted[positions[before + index - first] as number] = true;
      }
    } else accepted.fill(true);
    ({ refused } = row);
  }
  return { accepted, jobs: [...jobs.values()] };
}
