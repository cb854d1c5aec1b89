import { type RawBuilder, sql } from 'kysely';
import type { AssignedTask, AssignItem, JobChange } from '../ports.js';
import { bigints, ints } from './arrays.js';
import type { Database } from './database.js';
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

/** The changed tasks column by column: a tenth of the bytes of a row per task, and parsed natively. */
interface AssignRow extends Verdict {
  tasks: {
    job: number[];
    index: number[];
    generation: number[];
    node: number[];
    failures: number[];
    losses: number[];
    input: (string | null)[];
  };
}

const assigned = sql.raw(`
  status = 'ASSIGNED', generation = t.generation + 1, assigned_at = now(), due_at = null, running_at = null,
  started_at = null`);

/**
 * QUEUED or due RETRYING → ASSIGNED. Fresh tasks are taken in ranges; returned ones by index, in two updates, because
 * only that tells which of the two states a task came from without reading it twice. Conditions are written so that the
 * primary key is the only index that fits them (leading.ts, `keyOf`): `coalesce` keeps the index on due_at out.
 */
export function assignStatement(epoch: number, items: readonly AssignItem[]): RawBuilder<AssignRow> {
  const ranges = items.flatMap((item) => ('from' in item ? [item] : []));
  const returned = items.flatMap((item) =>
    'indexes' in item ? item.indexes.map((index) => ({ job: item.job, node: item.node, index })) : [],
  );
  const fromReturned = (status: 'QUEUED' | 'RETRYING') => sql`
    update task t set ${assigned}, node = u.node
    from unnest(
      ${bigints(returned, (u) => u.job)}, ${ints(returned, (u) => u.index)}, ${ints(returned, (u) => u.node)}
    ) as u(job, index, node)
    where ${keyOf(sql`u.job`, sql`u.index`)} and t.status = ${sql.lit(status)} and coalesce(t.due_at <= now(), false)
      and ${isLocked(sql`u.job`)}
    returning t.job, t.index, t.generation, t.node, t.failures, t.losses, t.input`;
  return sql<AssignRow>`
    with ${lease(epoch)},
    ${lockedJobs(
      items.map((item) => item.job),
      { assignable: true, shared: true },
    )},
    fresh as (
      update task t set ${assigned}, node = r.node
      from unnest(
        ${bigints(ranges, (r) => r.job)}, ${ints(ranges, (r) => r.node)},
        ${ints(ranges, (r) => r.from)}, ${ints(ranges, (r) => r.to)}
      ) as r(job, node, first, after)
      where t.job = any (array[r.job]) and t.index >= r.first and t.index < r.after and t.status = 'QUEUED' and t.due_at is null
        and ${isLocked(sql`r.job`)}
      returning t.job, t.index, t.generation, t.node, t.failures, t.losses, t.input
    ),
    requeued as (${fromReturned('QUEUED')}),
    retried as (${fromReturned('RETRYING')}),
    changed as (
      select 'fresh' as source, * from fresh
      union all select 'requeued', * from requeued
      union all select 'retried', * from retried
    ),
    delta as (
      select job, -(count(*) filter (where source <> 'retried'))::integer as queued, count(*)::integer as assigned,
        0 as running, -(count(*) filter (where source = 'retried'))::integer as retrying,
        0 as completed, 0 as failed, 0 as cancelled,
        coalesce(max(index) filter (where source = 'fresh') + 1, 0) as cursor
      from changed group by job
    ),
    ${movedJobs()}
    select ${verdict}, (
      select json_build_object(
        'job', coalesce(json_agg(job), '[]'), 'index', coalesce(json_agg(index), '[]'),
        'generation', coalesce(json_agg(generation), '[]'), 'node', coalesce(json_agg(node), '[]'),
        'failures', coalesce(json_agg(failures), '[]'), 'losses', coalesce(json_agg(losses), '[]'),
        'input', coalesce(json_agg(input), '[]')
      ) from changed
    ) as tasks`;
}

export async function assign(
  database: Database,
  epoch: number,
  items: readonly AssignItem[],
): Promise<{ tasks: AssignedTask[]; jobs: JobChange[] }> {
  if (items.length === 0) return { tasks: [], jobs: [] };
  const row = await runAsLeader(database, epoch, assignStatement(epoch, items));
  const { tasks } = row;
  return {
    tasks: tasks.job.map((job, i) => ({
      job,
      index: tasks.index[i] as number,
      generation: tasks.generation[i] as number,
      node: tasks.node[i] as number,
      failures: tasks.failures[i] as number,
      losses: tasks.losses[i] as number,
      input: tasks.input[i] ?? undefined,
    })),
    jobs: row.jobs.map(toJobChange),
  };
}
