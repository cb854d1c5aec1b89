import { type RawBuilder, sql } from 'kysely';
import type { Settlement } from '../ports.js';
import { base64s, bigints, boundedMs, doubles, ints, texts, whole } from './arrays.js';
import { isLocked, keyOf, lease, lockedJobs, movedJobs, type Verdict, verdict } from './leading.js';

export interface SettledRow extends Verdict {
  /** 1-based positions of the settlements that matched. */
  accepted: number[];
}

/**
 * ASSIGNED or RUNNING → COMPLETED: what most attempts come to, in half the columns of a settlement (tasks-settle.ts).
 */
export function completeStatement(epoch: number, items: readonly Settlement[]): RawBuilder<SettledRow> {
  return sql<SettledRow>`
    with ${lease(epoch)},
    ${lockedJobs(
      items.map((item) => item.job),
      { assignable: false, shared: true },
    )},
    settled as (
      update task t set
        status = 'COMPLETED', finished_at = now() - u.age_ms * interval '1 millisecond',
        started_at = coalesce(t.started_at, now() - (u.age_ms + u.run_us::double precision / 1000) * interval '1 millisecond'),
        exit_code = u.exit_code, run_us = u.run_us, peak_memory_bytes = u.peak_memory_bytes,
        result_json = u.result_json, output = decode(u.output, 'base64')
      from unnest(
        ${bigints(items, (s) => s.job)}, ${ints(items, (s) => s.index)}, ${ints(items, (s) => s.generation)},
        ${ints(items, (s) => s.node)}, ${ints(items, (s) => s.exitCode)}, ${texts(items, (s) => s.resultJson)},
        ${base64s(items, (s) => s.output)}, ${bigints(items, (s) => whole(s.runUs))},
        ${doubles(items, (s) => boundedMs(s.finishedAgeMs))}, ${bigints(items, (s) => whole(s.peakMemoryBytes))}
      ) with ordinality as u(
        job, index, generation, node, exit_code, result_json, output, run_us, age_ms, peak_memory_bytes, position
      )
      where ${keyOf(sql`u.job`, sql`u.index`)} and t.generation = u.generation and t.node = u.node
        and t.status in ('ASSIGNED', 'RUNNING') and ${isLocked(sql`u.job`)}
      returning u.position, t.job, t.running_at is not null as ran
    ),
    delta as (
      select job, 0 as queued, -(count(*) filter (where not ran))::integer as assigned,
        -(count(*) filter (where ran))::integer as running, 0 as retrying, count(*)::integer as completed,
        0 as failed, 0 as cancelled, 0 as cursor
      from settled group by job
    ),
    ${movedJobs()}
    select ${verdict}, (select coalesce(json_agg(position), '[]') from settled) as accepted`;
}
