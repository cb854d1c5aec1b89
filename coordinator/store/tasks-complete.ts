import { type RawBuilder, sql } from 'kysely';
import {
  type CompletedRun,
  countOfRuns,
  resultOf,
  type Settled,
  type Settlement,
  settlementAt,
  settlementsOf,
} from '../ports.js';
import { base64, base64s, bigints, booleans, boundedMs, doubles, ints, text, texts, whole } from './arrays.js';
import type { Database } from './database.js';
import { isLocked, lease, lockedJobs, movedJobs, runAsLeader, toJobChange, type Verdict, verdict } from './leading.js';
import { inOrder, partsOf, type Run, toRuns } from './task-runs.js';
import { overlapping, stillIn, takenOut } from './task-ranges.js';

interface CompletedRow extends Verdict {
  /** What matched: 1-based runs and indexes; null when everything did. */
  matched: [run: number, index: number][] | null;
  /** Pieces of runs that another statement took out of their range at the same moment, or what is in one range with them. */
  refused: number;
}

/** What one statement says: settlements in order, and after them what came in runs. */
export interface Said {
  ordered: readonly Settlement[];
  came: readonly CompletedRun[];
  runs: readonly Run[];
  /** How many tasks. */
  count: number;
}

/** @param ordered by job and index */
export const toSaid = (ordered: readonly Settlement[], came: readonly CompletedRun[] = []): Said => {
  const runs = toRuns(ordered);
  let count = ordered.length;
  for (const run of came) {
    for (const part of partsOf(run, count)) runs.push(part);
    count += run.runUs.length;
  }
  return { ordered, came, runs, count };
};

/** One value of each task, in the order in which they are said. */
function eachOf<T>(
  { ordered, came }: Said,
  one: (item: Settlement) => T,
  of: (run: CompletedRun, place: number) => T,
): T[] {
  const values = ordered.map(one);
  for (const run of came) for (let place = 0; place < run.runUs.length; place++) values.push(of(run, place));
  return values;
}

/**
 * `runs`, and `said`: columns of what differs within a run, by its place; each is sent once, however often it is used. An
 * element of an array of texts is found by passing those before it, so one that is the same for all is not among them.
 */
function given(said: Said): RawBuilder<unknown> {
  const { ordered, runs } = said;
  const ages = runs.some(({ ageMs }) => ageMs === undefined)
    ? eachOf(
        said,
        ({ finishedAgeMs }) => finishedAgeMs,
        ({ finishedAgeMs }) => finishedAgeMs,
      )
    : [];
  const results = runs.some(({ result }) => result === undefined)
    ? eachOf(said, ({ resultJson }) => resultJson, resultOf)
    : [];
  const runUs = eachOf(
    said,
    (item) => item.runUs,
    (run, place) => run.runUs[place] || undefined,
  );
  return sql`
    runs as materialized (
      select * from unnest(
        ${bigints(runs, (r) => r.job)}, ${ints(runs, (r) => r.generation)}, ${ints(runs, (r) => r.node)},
        ${ints(runs, (r) => r.first)}, ${ints(runs, (r) => r.size)}, ${ints(runs, (r) => r.before)},
        ${ints(runs, (r) => r.exitCode)}, ${doubles(runs, (r) => (r.ageMs === undefined ? undefined : boundedMs(r.ageMs)))},
        ${texts(results.length > 0 ? [] : runs, (r) => r.result?.text)}, ${booleans(runs, (r) => r.block)}
      ) with ordinality as r(job, generation, node, first, size, before, exit_code, age_ms, result, block, run)
    ),
    said as materialized (
      select ${bigints(runUs, whole)} as run_us, ${doubles(ages, boundedMs)} as ages,
        ${texts(results, (text) => text)} as results, ${base64s(ordered, (s) => s.output)} as outputs,
        ${bigints(ordered, (s) => whole(s.peakMemoryBytes))} as peaks
    )`;
}

const column = (name: 'run_us' | 'ages' | 'results' | 'outputs' | 'peaks') => sql`(select ${sql.ref(name)} from said)`;

/** What is said of the task `t.index` of the run `r`. */
const place = sql`[r.before + t.index - r.first + 1]`;
const age = sql`coalesce(r.age_ms, ${column('ages')}${place})`;
const ran = sql`${column('run_us')}${place}`;
const of = {
  finishedAt: sql`now() - ${age} * interval '1 millisecond'`,
  startedAt: sql`now() - (${age} + ${ran}::double precision / 1000) * interval '1 millisecond'`,
  peakMemoryBytes: sql`${column('peaks')}${place}`,
  resultJson: sql`coalesce(r.result, ${column('results')}${place})`,
  output: sql`decode(${column('outputs')}${place}, 'base64')`,
};

/** `settled`: those that have rows. */
const settledRows = sql`
    settled as (
      update task t set
        status = 'COMPLETED', finished_at = ${of.finishedAt}, started_at = coalesce(t.started_at, ${of.startedAt}),
        run_us = ${ran}, exit_code = r.exit_code, peak_memory_bytes = ${of.peakMemoryBytes},
        result_json = ${of.resultJson}, output = ${of.output}
      from runs r
      where t.job = any (array[r.job]) and t.index >= r.first and t.index < r.first + r.size
        and t.generation = r.generation and t.node = r.node
        and t.status in ('ASSIGNED', 'RUNNING') and ${isLocked(sql`r.job`)}
      returning r.run, t.job, t.index, t.running_at is not null as ran
    )`;

/**
 * The same where each of them is known to have a row: nothing is looked for in ranges. A statement costs by what it could
 * do, however little there is to do, and this one is all that one task waits for.
 */
export function completeRowsStatement(epoch: number, said: Said): RawBuilder<CompletedRow> {
  return sql<CompletedRow>`
    with ${lease(epoch)},
    ${lockedJobs(
      said.runs.map(({ job }) => job),
      { assignable: false, shared: true },
    )},
    ${given(said)},
    ${settledRows},
    delta as (
      select job, 0 as queued, -(count(*) filter (where not ran))::integer as assigned,
        -(count(*) filter (where ran))::integer as running, 0 as retrying, count(*)::integer as completed, 0 as failed,
        0 as cancelled, 0 as cursor
      from settled group by job
    ),
    ${movedJobs()}
    select ${verdict}, 0 as refused,
      case when (select count(*) from settled) < ${said.count}::integer then (
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
export function completeStatement(epoch: number, said: Said): RawBuilder<CompletedRow> {
  const places = sql`[k.before + k.low - k.start + 1 : k.before + k.high - k.start]`;
  return sql<CompletedRow>`
    with ${lease(epoch)},
    ${lockedJobs(
      said.runs.map(({ job }) => job),
      { assignable: false, shared: true, columns: sql`seq, created_at` },
    )},
    ${given(said)},
    ${settledRows},
    pieces as materialized (
      select r.run, r.job, r.node, r.first as start, r.before, r.exit_code, r.age_ms, r.result, r.block,
        g.first as range, g.assigned_at, lower(still.part) as low, upper(still.part) as high
      from runs r
      cross join lateral (${overlapping('task_range', sql`r.job`, sql`r.first`, sql`r.first + r.size`)}) g
      cross join lateral unnest(${stillIn(sql`r.first`, sql`r.first + r.size`)}) as still(part)
      where r.generation = 1 and g.node = r.node and ${isLocked(sql`r.job`)}
    ),
    ${takenOut},
    blocks as (
      insert into task_block (job, first, after, node, assigned_at, exit_code, age_ms, run_us, results, result)
      select k.job, k.low, k.high, k.node, k.assigned_at, k.exit_code,
        case when k.age_ms is null then (${column('ages')}${places})::integer[]
          else array_fill(k.age_ms::integer, array[k.high - k.low]) end,
        nullif(${column('run_us')}${places}, '{}'), nullif(${column('results')}${places}, '{}'), k.result
      from kept k where k.block
    ),
    entered as (
      insert into task (
        job, index, generation, status, node, queued_at, assigned_at, finished_at, started_at, run_us, exit_code,
        peak_memory_bytes, result_json, output
      )
      select t.job, t.index, 1, 'COMPLETED', r.node, l.created_at, r.assigned_at, ${of.finishedAt}, ${of.startedAt},
        ${ran}, r.exit_code, ${of.peakMemoryBytes}, ${of.resultJson}, ${of.output}
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
      case when coalesce((select sum(completed) from delta), 0) < ${said.count}::integer then (
        select coalesce(json_agg(json_build_array(run, index)), '[]') from (
          select run, index from settled
          union all
          select k.run, i.index from kept k cross join lateral generate_series(k.low, k.high - 1) as i(index)
        ) m
      ) end as matched`;
}

/** The least that can complete them. */
function statementFor(epoch: number, said: Said): RawBuilder<CompletedRow> {
  const { ordered, came, count } = said;
  const haveRows = ordered.every(({ hasRow }) => hasRow) && came.every(({ hasRows }) => hasRows);
  if (!haveRows) return completeStatement(epoch, said);
  if (count !== 1) return completeRowsStatement(epoch, said);
  return completeRowStatement(epoch, ordered[0] ?? settlementAt(came[0] as CompletedRun, 0));
}

/** Successes. What two statements wanted to take out of one range at a time is tried again, when the other has ended. */
export async function complete(
  database: Database,
  epoch: number,
  items: readonly Settlement[],
  came: readonly CompletedRun[],
): Promise<Settled> {
  const accepted = new Array<boolean>(items.length + countOfRuns(came)).fill(false);
  const jobs = new Map<number, Settled['jobs'][number]>();
  /** Of each task that is said, by its place; of the others it is their place. */
  let positions = inOrder(items);
  let said = toSaid(pick(items, positions), came);
  for (;;) {
    const row = await runAsLeader(database, epoch, statementFor(epoch, said));
    for (const job of row.jobs) jobs.set(job.seq, toJobChange(job));
    for (const place of row.matched ? placesOf(said.runs, row.matched) : Array(said.count).keys())
      accepted[positions[place] ?? place] = true;
    if (row.refused === 0) return { accepted, jobs: [...jobs.values()] };
    const all = [...items, ...came.flatMap(settlementsOf)];
    positions = inOrder(all).filter((position) => !accepted[position]);
    said = toSaid(pick(all, positions));
  }
}

const pick = (items: readonly Settlement[], positions: readonly number[]): Settlement[] =>
  positions.map((position) => items[position] as Settlement);

const placesOf = (runs: readonly Run[], matched: readonly [run: number, index: number][]): number[] =>
  matched.map(([number, index]) => {
    const { first, before } = runs[number - 1] as Run;
    return before + index - first;
  });
