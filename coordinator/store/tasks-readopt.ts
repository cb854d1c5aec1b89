import { type RawBuilder, sql } from 'kysely';
import type { JobChange, ReadoptedTask, ReadoptItem } from '../ports.js';
import { bigints, boundedMs, doubles, ints } from './arrays.js';
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

interface ReadoptRow extends Verdict {
  changed: (Omit<ReadoptedTask, 'replacement'> & { replacedGeneration: number; replacedNode: number })[];
}

const given = (items: readonly ReadoptItem[]): RawBuilder<unknown> => sql`
  unnest(
    ${bigints(items, (u) => u.job)}, ${ints(items, (u) => u.index)}, ${ints(items, (u) => u.generation)},
    ${ints(items, (u) => u.node)}, ${ints(items, (u) => u.replacement.generation)},
    ${ints(items, (u) => u.replacement.node)},
    ${doubles(items, (u) => (u.ageMs === undefined ? undefined : boundedMs(u.ageMs)))}
  ) as u(job, index, former, node, replaced_generation, replaced_node, age_ms)`;

/** Attempts of this task that were lost with the node that returns: what it claims to have held, it was given. */
const lossOf = (task: RawBuilder<unknown>, u: RawBuilder<unknown>): RawBuilder<unknown> => sql`(
  select count(*) from task_attempt a
  where a.job = ${task}.job and a.index = ${task}.index and a.generation = ${u}.former and a.node = ${u}.returning_node
    and a.outcome = 'node-lost'
)`;

/**
 * ASSIGNED or RUNNING → RUNNING on the node whose attempt came back, in the next generation: so the replacement's messages
 * are stale from this commit on, whatever they say (invariants I2, I3). The loss is taken back as in adoption
 * (tasks-running.ts); the replacement counts as neither failure nor loss. Who did not hear the answer asks again: what is
 * RUNNING there already is named too, and nothing is counted twice.
 */
export function readoptStatement(epoch: number, items: readonly ReadoptItem[]): RawBuilder<ReadoptRow> {
  return sql<ReadoptRow>`
    with ${lease(epoch)},
    ${lockedJobs(
      items.map((item) => item.job),
      { assignable: true },
    )},
    picked as materialized (
      select t.job, t.index, t.generation, t.node, t.status, t.started_at, t.failures + t.losses + 1 as attempt,
        u.former, u.node as returning_node, u.age_ms
      from ${given(items)}
      join task t on ${keyOf(sql`u.job`, sql`u.index`)} and t.generation = u.replaced_generation
        and t.node = u.replaced_node and t.status in ('ASSIGNED', 'RUNNING')
      where ${isLocked(sql`u.job`)} and t.node <> u.node and u.former < t.generation
      for no key update of t
    ),
    changed as (
      update task t set
        status = 'RUNNING', generation = t.generation + 1, node = p.returning_node, running_at = now(), exit_code = null,
        started_at = coalesce(
          now() - p.age_ms * interval '1 millisecond',
          (
            select min(a.started_at) from task_attempt a
            where a.job = t.job and a.index = t.index and a.generation = p.former
          ),
          t.assigned_at
        ),
        losses = greatest(0, t.losses - ${lossOf(sql`t`, sql`p`)})
      from picked p
      where ${keyOf(sql`p.job`, sql`p.index`)} and 0 < ${lossOf(sql`p`, sql`p`)}
      returning t.job, t.index, t.generation, t.node, t.failures, t.losses, t.failed_nodes, t.started_at, p.former,
        p.generation as replaced_generation, p.node as replaced_node, p.status as was, p.attempt,
        p.started_at as replaced_started_at
    ),
    undone as (
      delete from task_attempt a using changed c
      where a.job = any (array[c.job]) and a.index = c.index and a.generation = c.former and a.node = c.node
        and a.outcome = 'node-lost'
    ),
    recorded as (
      insert into task_attempt (job, index, generation, attempt, node, outcome, error, started_at, finished_at)
      select job, index, replaced_generation, attempt, replaced_node, 'cancelled',
        'an earlier attempt came back and was further ahead', replaced_started_at, now()
      from changed where was = 'RUNNING'
    ),
    known as (
      select t.job, t.index, t.generation, t.node, t.failures, t.losses, t.failed_nodes, t.started_at, u.former,
        u.replaced_generation, u.replaced_node
      from ${given(items)}
      join task t on ${keyOf(sql`u.job`, sql`u.index`)} and t.generation = u.replaced_generation + 1 and t.node = u.node
        and t.status = 'RUNNING'
      where ${isLocked(sql`u.job`)}
    ),
    delta as (
      select job, 0 as queued, -(count(*) filter (where was = 'ASSIGNED'))::integer as assigned,
        (count(*) filter (where was = 'ASSIGNED'))::integer as running, 0 as retrying, 0 as completed, 0 as failed,
        0 as cancelled, 0 as cursor
      from changed group by job
    ),
    ${movedJobs()}
    select ${verdict}, (
      select coalesce(json_agg(json_build_object(
        'job', job, 'index', index, 'generation', generation, 'node', node, 'status', 'RUNNING', 'failures', failures,
        'losses', losses, 'failedNodes', coalesce(failed_nodes, '{}'),
        'ageMs', greatest(0, extract(epoch from now() - started_at) * 1000), 'former', former,
        'replacedGeneration', replaced_generation, 'replacedNode', replaced_node
      )), '[]') from (
        select job, index, generation, node, failures, losses, failed_nodes, started_at, former, replaced_generation,
          replaced_node
        from changed
        union all select * from known
      ) readopted
    ) as changed`;
}

export async function readopt(
  database: Database,
  epoch: number,
  items: readonly ReadoptItem[],
): Promise<{ changed: ReadoptedTask[]; jobs: JobChange[] }> {
  if (items.length === 0) return { changed: [], jobs: [] };
  const row = await runAsLeader(database, epoch, readoptStatement(epoch, items));
  return {
    changed: row.changed.map(({ replacedGeneration, replacedNode, ...task }) => ({
      ...task,
      replacement: { generation: replacedGeneration, node: replacedNode },
    })),
    jobs: row.jobs.map(toJobChange),
  };
}
