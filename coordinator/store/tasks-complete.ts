import { type RawBuilder, sql } from 'kysely';
import type { Settlement } from '../ports.js';
import { base64s, bigints, boundedMs, doubles, ints, texts, whole } from './arrays.js';
import { overlapping } from './task-ranges.js';
import { isLocked, lease, lockedJobs, movedJobs, type Verdict, verdict } from './leading.js';

/** Tasks of one job with successive indexes, of one generation and on one node. */
export interface Run {
  job: number;
  generation: number;
  node: number;
  first: number;
  size: number;
  /** How many of the ordered settlements come before its first. */
  before: number;
}

export interface CompletedRow extends Verdict {
  /** What matched: 1-based runs and indexes; null when everything did. */
  matched: [run: number, index: number][] | null;
}

const isBefore = (a: Settlement, b: Settlement): number => a.job - b.job || a.index - b.index;

/** The positions of the settlements in order of job and index. Agents finish tasks nearly in order. */
export function inOrder(items: readonly Settlement[]): number[] {
  const positions = items.map((_, position) => position);
  return positions.sort((a, b) => isBefore(items[a] as Settlement, items[b] as Settlement));
}

export function toRuns(ordered: readonly Settlement[]): Run[] {
  const runs: Run[] = [];
  let run: Run | undefined;
  ordered.forEach(({ job, index, generation, node }, before) => {
    const goesOn = run && run.job === job && run.first + run.size === index;
    if (goesOn && run && run.generation === generation && run.node === node) run.size++;
    else runs.push((run = { job, generation, node, first: index, size: 1, before }));
  });
  return runs;
}

/** The results, unless all are the same: an element of an array of texts is found by passing those before it. */
function resultsOf(ordered: readonly Settlement[]): { same: string | undefined; each: RawBuilder<string[]> } {
  const same = ordered[0]?.resultJson;
  const differs = ordered.some(({ resultJson }) => resultJson !== same);
  return { same: differs ? undefined : same, each: texts(differs ? ordered : [], (s) => s.resultJson) };
}

/**
 * ASSIGNED or RUNNING → COMPLETED: what most attempts come to, in half the columns of a settlement (tasks-settle.ts).
 * Reads the rows of a run in one pass along the primary key, and what is said of each task from arrays by its place in the
 * run: a third of the time of a probe for every task. Nothing in it can be joined another way. A task of a range gets its
 * row here, and no other version of it is written; two that say so of one task find the row of the first.
 */
export function completeStatement(
  epoch: number,
  ordered: readonly Settlement[],
  runs: readonly Run[] = toRuns(ordered),
): RawBuilder<CompletedRow> {
  const said = saidOf(ordered);
  return sql<CompletedRow>`
    with ${lease(epoch)},
    ${lockedJobs(
      runs.map(({ job }) => job),
      { assignable: false, shared: true, columns: sql`seq, created_at` },
    )},
    settled as (
      update task t set
        status = 'COMPLETED', finished_at = ${said.finishedAt}, started_at = coalesce(t.started_at, ${said.startedAt}),
        run_us = ${said.runUs}, exit_code = ${said.exitCode}, peak_memory_bytes = ${said.peakMemoryBytes},
        result_json = ${said.resultJson}, output = ${said.output}
      from ${given(runs)}
      where t.job = any (array[r.job]) and t.index >= r.first and t.index < r.first + r.size
        and t.generation = r.generation and t.node = r.node
        and t.status in ('ASSIGNED', 'RUNNING') and ${isLocked(sql`r.job`)}
      returning r.run, t.job, t.index, t.running_at is not null as ran
    ),
    entered as (
      insert into task (
        job, index, generation, status, node, queued_at, assigned_at, finished_at, started_at, run_us, exit_code,
        peak_memory_bytes, result_json, output
      )
      select t.job, t.index, 1, 'COMPLETED', r.node, l.created_at, g.assigned_at, ${said.finishedAt}, ${said.startedAt},
        ${said.runUs}, ${said.exitCode}, ${said.peakMemoryBytes}, ${said.resultJson}, ${said.output}
      from ${given(runs)}
      join locked l on l.seq = r.job
      cross join lateral (${overlapping(sql`r.job`, sql`r.first`, sql`r.first + r.size`)}) g
      cross join lateral (
        select r.job, i.index
        from generate_series(greatest(g.first, r.first), least(g.after, r.first + r.size) - 1) as i(index)
      ) t
      where r.generation = 1 and g.node = r.node
      on conflict (job, index) do nothing
      returning job, index
    ),
    delta as (
      select job, 0 as queued, -sum(rows - ran)::integer as assigned, -sum(ran)::integer as running, 0 as retrying,
        sum(rows)::integer as completed, 0 as failed, 0 as cancelled, 0 as cursor
      from (
        select job, count(*) as rows, count(*) filter (where ran) as ran from settled group by job
        union all
        select job, count(*), 0 from entered group by job
      ) of_job group by job
    ),
    ${movedJobs()}
    select ${verdict}, case when coalesce((select sum(completed) from delta), 0) < ${ordered.length}::integer then (
      select coalesce(json_agg(json_build_array(run, index)), '[]') from (
        select run, index from settled
        union all
        select min(r.run), e.index from entered e join ${given(runs)}
          on r.job = e.job and r.generation = 1 and e.index >= r.first and e.index < r.first + r.size
        group by e.job, e.index
      ) m
    ) end as matched`;
}

const given = (runs: readonly Run[]): RawBuilder<unknown> => sql`
  unnest(
    ${bigints(runs, (r) => r.job)}, ${ints(runs, (r) => r.generation)}, ${ints(runs, (r) => r.node)},
    ${ints(runs, (r) => r.first)}, ${ints(runs, (r) => r.size)}, ${ints(runs, (r) => r.before)}
  ) with ordinality as r(job, generation, node, first, size, before, run)`;

/** What is said of the task `t.index` of the run `r`. */
function saidOf(ordered: readonly Settlement[]) {
  const results = resultsOf(ordered);
  const place = sql`[r.before + t.index - r.first + 1]`;
  const runUs = sql`(${bigints(ordered, (s) => whole(s.runUs))})${place}`;
  const ageMs = sql`(${doubles(ordered, (s) => boundedMs(s.finishedAgeMs))})${place}`;
  return {
    runUs,
    finishedAt: sql`now() - ${ageMs} * interval '1 millisecond'`,
    startedAt: sql`now() - (${ageMs} + ${runUs}::double precision / 1000) * interval '1 millisecond'`,
    exitCode: sql`(${ints(ordered, (s) => s.exitCode)})${place}`,
    peakMemoryBytes: sql`(${bigints(ordered, (s) => whole(s.peakMemoryBytes))})${place}`,
    resultJson: sql`coalesce((${results.each})${place}, ${results.same ?? null}::text)`,
    output: sql`decode((${base64s(ordered, (s) => s.output)})${place}, 'base64')`,
  };
}
