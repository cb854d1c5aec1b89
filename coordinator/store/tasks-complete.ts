import { type RawBuilder, sql } from 'kysely';
import type { Settlement } from '../ports.js';
import { base64s, bigints, boundedMs, doubles, ints, texts, whole } from './arrays.js';
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
  /** 1-based runs of which something matched; where that was not all of it, what did. */
  accepted: [run: number, indexes: number[] | null][];
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
 * Reads the tasks of a run in one pass along the primary key, and what is said of each from arrays by its place in the run:
 * a third of the time of a probe for every task. Nothing in it can be joined another way.
 */
export function completeStatement(
  epoch: number,
  ordered: readonly Settlement[],
  runs: readonly Run[] = toRuns(ordered),
): RawBuilder<CompletedRow> {
  const results = resultsOf(ordered);
  const place = sql`[r.before + t.index - r.first + 1]`;
  const runUs = sql`(${bigints(ordered, (s) => whole(s.runUs))})${place}`;
  const ageMs = sql`(${doubles(ordered, (s) => boundedMs(s.finishedAgeMs))})${place}`;
  return sql<CompletedRow>`
    with ${lease(epoch)},
    ${lockedJobs(
      runs.map(({ job }) => job),
      { assignable: false, shared: true },
    )},
    settled as (
      update task t set
        status = 'COMPLETED', finished_at = now() - ${ageMs} * interval '1 millisecond',
        started_at = coalesce(
          t.started_at, now() - (${ageMs} + ${runUs}::double precision / 1000) * interval '1 millisecond'
        ),
        run_us = ${runUs}, exit_code = (${ints(ordered, (s) => s.exitCode)})${place},
        peak_memory_bytes = (${bigints(ordered, (s) => whole(s.peakMemoryBytes))})${place},
        result_json = coalesce((${results.each})${place}, ${results.same ?? null}::text),
        output = decode((${base64s(ordered, (s) => s.output)})${place}, 'base64')
      from unnest(
        ${bigints(runs, (r) => r.job)}, ${ints(runs, (r) => r.generation)}, ${ints(runs, (r) => r.node)},
        ${ints(runs, (r) => r.first)}, ${ints(runs, (r) => r.size)}, ${ints(runs, (r) => r.before)}
      ) with ordinality as r(job, generation, node, first, size, before, run)
      where t.job = any (array[r.job]) and t.index >= r.first and t.index < r.first + r.size
        and t.generation = r.generation and t.node = r.node
        and t.status in ('ASSIGNED', 'RUNNING') and ${isLocked(sql`r.job`)}
      returning r.run, r.size, t.job, t.index, t.running_at is not null as ran
    ),
    of_run as (
      select run, job, count(*)::integer as rows, (count(*) filter (where ran))::integer as ran,
        case when count(*) < min(size) then json_agg(index) end as indexes
      from settled group by run, job
    ),
    delta as (
      select job, 0 as queued, -sum(rows - ran)::integer as assigned, -sum(ran)::integer as running, 0 as retrying,
        sum(rows)::integer as completed, 0 as failed, 0 as cancelled, 0 as cursor
      from of_run group by job
    ),
    ${movedJobs()}
    select ${verdict}, (select coalesce(json_agg(json_build_array(run, indexes)), '[]') from of_run) as accepted`;
}
