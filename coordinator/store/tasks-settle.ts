import { type RawBuilder, sql } from 'kysely';
import type { CompletedRun, Settled, Settlement } from '../ports.js';
import { base64s, bigints, boundedMs, doubles, ints, texts, whole } from './arrays.js';
import { complete } from './tasks-complete.js';
import type { Database } from './database.js';
import { makeRows, spansOf } from './task-ranges.js';
import {
  isLocked,
  keyOf,
  lease,
  lockedJobs,
  movedJobs,
  runAsLeader,
  toJobChange,
  type Verdict,
  verdict,
} from './leading.js';

export interface SettledRow extends Verdict {
  /** 1-based positions of the settlements that matched. */
  accepted: number[];
}

/** `unnest` of the settlements, in the order of the column list of `u` below. */
const given = (items: readonly Settlement[]): RawBuilder<unknown> => sql`
  unnest(
    ${bigints(items, (s) => s.job)}, ${ints(items, (s) => s.index)}, ${ints(items, (s) => s.generation)},
    ${ints(items, (s) => s.node)}, ${texts(items, (s) => s.to)}, ${texts(items, (s) => s.outcome)},
    ${ints(items, (s) => s.failure)}, ${ints(items, (s) => s.loss)},
    ${doubles(items, (s) => (s.dueInMs === undefined ? undefined : boundedMs(s.dueInMs)))},
    ${ints(items, (s) => s.exitCode)}, ${texts(items, (s) => s.signal)}, ${texts(items, (s) => s.error)},
    ${texts(items, (s) => s.resultJson)}, ${base64s(items, (s) => s.output)},
    ${bigints(items, (s) => whole(s.runUs))},
    ${doubles(items, (s) => boundedMs(s.finishedAgeMs))}, ${bigints(items, (s) => whole(s.peakMemoryBytes))}
  ) with ordinality as u(
    job, index, generation, node, target, outcome, failure, loss, due_ms, exit_code, signal, error, result_json, output,
    run_us, age_ms, peak_memory_bytes, position
  )`;

/**
 * ASSIGNED or RUNNING → COMPLETED, FAILED, RETRYING or QUEUED. An attempt that ended in anything but success leaves a row
 * in task_attempt; a retraction is none, because what is retracted never started.
 */
export function settleStatement(epoch: number, items: readonly Settlement[]): RawBuilder<SettledRow> {
  return sql<SettledRow>`
    with ${lease(epoch)},
    ${lockedJobs(
      items.map((item) => item.job),
      { assignable: false, shared: true },
    )},
    settled as (
      update task t set
        status = u.target,
        failures = t.failures + u.failure, losses = t.losses + u.loss,
        due_at = case when u.target in ('RETRYING', 'QUEUED')
          then now() + coalesce(u.due_ms, 0) * interval '1 millisecond' end,
        started_at = coalesce(
          t.started_at, now() - u.age_ms * interval '1 millisecond' - u.run_us * interval '1 microsecond'
        ),
        finished_at = case when u.target in ('COMPLETED', 'FAILED')
          then now() - u.age_ms * interval '1 millisecond' end,
        failed_nodes = case
          when u.failure = 0 and u.outcome <> 'node-fault' or u.node = any(t.failed_nodes) then t.failed_nodes
          else array_append(t.failed_nodes, u.node) end,
        exit_code = u.exit_code, run_us = u.run_us, peak_memory_bytes = u.peak_memory_bytes,
        last_error = coalesce(u.error, t.last_error), result_json = u.result_json,
        output = case when u.outcome = 'succeeded' then decode(u.output, 'base64') end
      from ${given(items)}
      where ${keyOf(sql`u.job`, sql`u.index`)} and t.generation = u.generation and t.node = u.node
        and t.status in ('ASSIGNED', 'RUNNING') and ${isLocked(sql`u.job`)}
      returning u.position, t.job, t.index, t.generation, t.node, t.status, t.running_at is not null as ran,
        t.failures + t.losses - u.failure - u.loss + 1 as attempt, t.started_at, u.outcome, u.error, u.exit_code,
        u.signal, u.age_ms, case when u.outcome <> 'succeeded' then u.output end as output
    ),
    recorded as (
      insert into task_attempt (
        job, index, generation, attempt, node, outcome, error, exit_code, signal, started_at, finished_at, output
      )
      select job, index, generation, attempt, node, outcome, error, exit_code, signal, started_at,
        now() - age_ms * interval '1 millisecond', decode(output, 'base64')
      from settled where outcome <> 'succeeded' and not (outcome = 'retracted' and status = 'QUEUED')
    ),
    delta as (
      select job, (count(*) filter (where status = 'QUEUED'))::integer as queued,
        -(count(*) filter (where not ran))::integer as assigned, -(count(*) filter (where ran))::integer as running,
        (count(*) filter (where status = 'RETRYING'))::integer as retrying,
        (count(*) filter (where status = 'COMPLETED'))::integer as completed,
        (count(*) filter (where status = 'FAILED'))::integer as failed, 0 as cancelled, 0 as cursor
      from settled group by job
    ),
    ${movedJobs()}
    select ${verdict}, (select coalesce(json_agg(position), '[]') from settled) as accepted`;
}

const isSuccess = (item: Settlement): boolean => item.outcome === 'succeeded' && item.to === 'COMPLETED';

/** Successes go the short way; both kinds in one batch are two statements, each a transaction of its own. */
export async function settle(
  database: Database,
  epoch: number,
  items: readonly Settlement[],
  runs: readonly CompletedRun[] = [],
): Promise<Settled> {
  const successes = items.filter(isSuccess);
  if (successes.length === items.length) return complete(database, epoch, items, runs);
  const others = items.filter((item) => !isSuccess(item));
  const completed =
    successes.length + runs.length > 0 ? await complete(database, epoch, successes, runs) : { accepted: [], jobs: [] };
  await makeRows(database, epoch, spansOf(others));
  const row = await runAsLeader(database, epoch, settleStatement(epoch, others));
  const settled = new Set(row.accepted);
  let [nextSuccess, nextOther] = [0, 0];
  const accepted = items.map((item) =>
    isSuccess(item) ? completed.accepted[nextSuccess++] === true : settled.has(++nextOther),
  );
  const jobs = new Map(completed.jobs.map((job) => [job.seq, job]));
  for (const job of row.jobs) jobs.set(job.seq, toJobChange(job));
  return { accepted: [...accepted, ...completed.accepted.slice(successes.length)], jobs: [...jobs.values()] };
}
