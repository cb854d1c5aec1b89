import { type RawBuilder, sql } from 'kysely';
import type { TaskRef } from '../core/task.js';
import type { JobChange, LiveTask } from '../ports.js';
import { bigints, boundedMs, doubles, ints } from './arrays.js';
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

export type StartedItem = TaskRef & { node: number; ageMs: number };
export type AdoptItem = TaskRef & { node: number };

interface MarkRow extends Verdict {
  changed: TaskRef[];
}

interface AdoptRow extends Verdict {
  changed: LiveTask[];
}

const ageMs = sql.raw(
  'greatest(0, extract(epoch from now() - coalesce(t.started_at, t.assigned_at)) * 1000)::double precision',
);

/** ASSIGNED → RUNNING, for attempts that have run for a while. */
export function markRunningStatement(epoch: number, items: readonly StartedItem[]): RawBuilder<MarkRow> {
  return sql<MarkRow>`
    with ${lease(epoch)},
    ${lockedJobs(
      items.map((item) => item.job),
      { assignable: false },
    )},
    changed as (
      update task t set status = 'RUNNING', running_at = now(), started_at = now() - u.age_ms * interval '1 millisecond'
      from unnest(
        ${bigints(items, (u) => u.job)}, ${ints(items, (u) => u.index)}, ${ints(items, (u) => u.generation)},
        ${ints(items, (u) => u.node)}, ${doubles(items, (u) => boundedMs(u.ageMs))}
      ) as u(job, index, generation, node, age_ms)
      where ${keyOf(sql`u.job`, sql`u.index`)} and t.generation = u.generation and t.node = u.node
        and t.status = 'ASSIGNED' and ${isLocked(sql`u.job`)}
      returning t.job, t.index, t.generation
    ),
    delta as (
      select job, 0 as queued, -count(*)::integer as assigned, count(*)::integer as running, 0 as retrying,
        0 as completed, 0 as failed, 0 as cancelled, 0 as cursor
      from changed group by job
    ),
    ${movedJobs()}
    select ${verdict}, (select coalesce(json_agg(changed), '[]') from changed) as changed`;
}

/**
 * RETRYING or QUEUED → RUNNING, on the node and in the generation the task had before it was given up. What was counted
 * as a loss was none: the count and its row in task_attempt are taken back, so that a flapping network uses up nobody's
 * losses and attempt numbers stay those the agent knows. Who did not hear the answer asks again: what is RUNNING there
 * already is named too, and nothing is counted twice. An attempt whose end is known, such as a failure that was committed
 * and not acknowledged, is not adopted: its result would count again.
 */
export function adoptStatement(epoch: number, items: readonly AdoptItem[]): RawBuilder<AdoptRow> {
  const from = (status: 'QUEUED' | 'RETRYING') => sql`
    update task t set status = 'RUNNING', due_at = null, running_at = now(),
      started_at = coalesce(t.started_at, t.assigned_at),
      losses = greatest(0, t.losses - (
        select count(*) from task_attempt a
        where a.job = t.job and a.index = t.index and a.generation = t.generation and a.outcome = 'node-lost'
      ))
    from unnest(
      ${bigints(items, (u) => u.job)}, ${ints(items, (u) => u.index)}, ${ints(items, (u) => u.generation)},
      ${ints(items, (u) => u.node)}
    ) as u(job, index, generation, node)
    where ${keyOf(sql`u.job`, sql`u.index`)} and t.generation = u.generation and t.node = u.node
      and t.status = ${sql.lit(status)} and ${isLocked(sql`u.job`)}
      and 0 = (
        select count(*) from task_attempt a
        where a.job = t.job and a.index = t.index and a.generation = t.generation and a.outcome <> 'node-lost'
      )
    returning t.job, t.index, t.generation, t.node, t.status, t.failures, t.losses, t.failed_nodes,
      ${ageMs} as age_ms`;
  return sql<AdoptRow>`
    with ${lease(epoch)},
    ${lockedJobs(
      items.map((item) => item.job),
      { assignable: true },
    )},
    requeued as (${from('QUEUED')}),
    retrying as (${from('RETRYING')}),
    changed as (select 0 as waited, * from requeued union all select 1, * from retrying),
    known as (
      select t.job, t.index, t.generation, t.node, t.status, t.failures, t.losses, t.failed_nodes,
        ${ageMs} as age_ms
      from unnest(
        ${bigints(items, (u) => u.job)}, ${ints(items, (u) => u.index)}, ${ints(items, (u) => u.generation)},
        ${ints(items, (u) => u.node)}
      ) as u(job, index, generation, node)
      join task t on ${keyOf(sql`u.job`, sql`u.index`)} and t.generation = u.generation and t.node = u.node
        and t.status = 'RUNNING' and ${isLocked(sql`u.job`)}
    ),
    undone as (
      delete from task_attempt a using changed c
      where a.job = any (array[c.job]) and a.index = c.index and a.generation = c.generation and a.outcome = 'node-lost'
    ),
    delta as (
      select job, (sum(waited) - count(*))::integer as queued, 0 as assigned, count(*)::integer as running,
        -sum(waited)::integer as retrying, 0 as completed, 0 as failed, 0 as cancelled, 0 as cursor
      from changed group by job
    ),
    ${movedJobs()}
    select ${verdict}, (
      select coalesce(json_agg(json_build_object(
        'job', job, 'index', index, 'generation', generation, 'node', node, 'status', status, 'failures', failures,
        'losses', losses, 'failedNodes', coalesce(failed_nodes, '{}'), 'ageMs', age_ms
      )), '[]') from (
        select job, index, generation, node, status, failures, losses, failed_nodes, age_ms from changed
        union all select * from known
      ) adopted
    ) as changed`;
}

export async function markRunning(
  database: Database,
  epoch: number,
  items: readonly StartedItem[],
): Promise<{ changed: TaskRef[]; jobs: JobChange[] }> {
  if (items.length === 0) return { changed: [], jobs: [] };
  await makeRows(database, epoch, spansOf(items));
  const row = await runAsLeader(database, epoch, markRunningStatement(epoch, items));
  return { changed: row.changed, jobs: row.jobs.map(toJobChange) };
}

export async function adopt(
  database: Database,
  epoch: number,
  items: readonly AdoptItem[],
): Promise<{ changed: LiveTask[]; jobs: JobChange[] }> {
  if (items.length === 0) return { changed: [], jobs: [] };
  const row = await runAsLeader(database, epoch, adoptStatement(epoch, items));
  return { changed: row.changed, jobs: row.jobs.map(toJobChange) };
}
