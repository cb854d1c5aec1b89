import { type RawBuilder, sql } from 'kysely';
import { RANGE_MIN } from '../core/task.js';
import type { Assigned, AssignedRange, AssignItem, JobChange } from '../ports.js';
import { bigints, ints } from './arrays.js';
import type { Database } from './database.js';
import { inputParts, inputsOf, SEPARATOR } from './job-inputs.js';
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

type FreshItem = Extract<AssignItem, { from: number }>;

/** The changed tasks column by column: a tenth of the bytes of a row per task, and parsed natively. */
interface AssignRow extends Verdict {
  /** How many tasks were assigned of each job that had fresh ones: of its ranges, which follow one another, the first so many. */
  made: { job: number; rows: number; described: boolean }[];
  /** Of those of `made` that are described, job by job in order of their numbers, each followed by SEPARATOR but the last. */
  inputs: string | null;
  returned: {
    job: number[];
    index: number[];
    generation: number[];
    node: number[];
    failures: number[];
    losses: number[];
    failedNodes: (number[] | null)[];
    input: (string | null)[];
  };
}

/**
 * What waits untouched costs nothing but its job's row and its input. Its first assignment makes a fresh task's row, or one
 * range for many that go to a node together (task-ranges.ts). A range is taken only where it goes on from what was assigned
 * before, so nothing has a gap and none is given away twice; where tasks have inputs, only with all of them. What is
 * wanted is made, all of it, or the statement fails.
 */
const fresh = (ranges: readonly FreshItem[]) => sql`
  sought as materialized (
    select r.job, r.node, r.first, r.after, l.id, l.has_inputs, l.created_at
    from (
      select *, coalesce(sum(after - first) over (
        partition by job order by position rows between unbounded preceding and 1 preceding
      ), 0) as before
      from unnest(
        ${bigints(ranges, (r) => r.job)}, ${ints(ranges, (r) => r.node)},
        ${ints(ranges, (r) => r.from)}, ${ints(ranges, (r) => r.to)}
      ) with ordinality as u(job, node, first, after, position)
    ) r join locked l on l.seq = r.job
    where r.first = l.materialised + r.before and r.after <= l.total
  ),
  described as materialized (
    select s.job, string_agg(array_to_string(c.inputs, ${SEPARATOR}::text), ${SEPARATOR}::text order by c.first) as inputs
    from (
      select job, id, min(first) as first, max(after) as after from sought where has_inputs group by job, id
    ) s cross join lateral (${inputParts(sql`s.id`, sql`s.first`, sql`s.after`)}) c
    group by s.job, s.first, s.after
    having sum(cardinality(c.inputs)) = s.after - s.first
  ),
  wanted as materialized (
    select * from sought where not has_inputs or job = any (array(select job from described))
  ),
  plain as (
    insert into task (job, index, generation, status, node, assigned_at, queued_at, input)
    select w.job, i.index, 1, 'ASSIGNED', w.node, now(), w.created_at, i.input
    from wanted w cross join lateral (
      select index, null as input from generate_series(w.first, w.after - 1) as i(index) where not w.has_inputs
      union all
      select index, input from (${inputsOf(sql`w.id`, sql`w.first`, sql`w.after`)}) i where w.has_inputs
    ) i
    where w.after - w.first < ${sql.lit(RANGE_MIN)}
  ),
  ranged as (
    insert into task_range (job, first, after, node)
    select job, first, after, node from wanted where after - first >= ${sql.lit(RANGE_MIN)}
  ),
  made as (
    select job, sum(after - first)::integer as rows, max(after) as cursor, bool_and(has_inputs) as described
    from wanted group by job
  )`;

/** Returned tasks, by index. Nothing came back most of the time, and a statement that does not look for it starts sooner. */
function changed(returned: readonly { job: number; node: number; index: number }[]): RawBuilder<unknown> {
  if (returned.length === 0)
    return sql`changed as (
      select 0 as requeued, job, index, generation, node, failures, losses, failed_nodes, input from task where false
    )`;
  const fromReturned = (status: 'QUEUED' | 'RETRYING') => sql`
    update task t set status = 'ASSIGNED', generation = t.generation + 1, assigned_at = now(), due_at = null,
      running_at = null, started_at = null, node = u.node
    from unnest(
      ${bigints(returned, (u) => u.job)}, ${ints(returned, (u) => u.index)}, ${ints(returned, (u) => u.node)}
    ) as u(job, index, node)
    where ${keyOf(sql`u.job`, sql`u.index`)} and t.status = ${sql.lit(status)} and coalesce(t.due_at <= now(), false)
      and ${isLocked(sql`u.job`)}
    returning t.job, t.index, t.generation, t.node, t.failures, t.losses, t.failed_nodes, t.input`;
  return sql`
    requeued as (${fromReturned('QUEUED')}),
    retried as (${fromReturned('RETRYING')}),
    changed as (select 1 as requeued, * from requeued union all select 0, * from retried)`;
}

/**
 * Fresh and due RETRYING or QUEUED → ASSIGNED. Fresh tasks are taken in ranges; returned ones by index, in two updates,
 * because only that tells which of the two states a task came from without reading it twice. Conditions are written so
 * that the primary key is the only index that fits them (leading.ts, `keyOf`): `coalesce` keeps the index on due_at out.
 */
export function assignStatement(epoch: number, items: readonly AssignItem[]): RawBuilder<AssignRow> {
  const returned = items.flatMap((item) =>
    'indexes' in item ? item.indexes.map((index) => ({ job: item.job, node: item.node, index })) : [],
  );
  const columns = sql`seq, id, has_inputs, materialised, total, created_at`;
  return sql<AssignRow>`
    with ${lease(epoch)},
    ${lockedJobs(
      items.map((item) => item.job),
      { assignable: true, shared: true, columns },
    )},
    ${fresh(items.filter((item) => 'from' in item))},
    ${changed(returned)},
    delta as (
      select job, -sum(requeued)::integer as queued, sum(assigned)::integer as assigned, 0 as running,
        -sum(retried)::integer as retrying, 0 as completed, 0 as failed, 0 as cancelled, max(cursor) as cursor
      from (
        select job, 0 as requeued, 0 as retried, rows as assigned, cursor from made
        union all
        select job, sum(requeued), count(*) - sum(requeued), count(*), 0 from changed group by job
      ) of_job group by job
    ),
    ${movedJobs()}
    select ${verdict},
      (
        select coalesce(json_agg(json_build_object('job', job, 'rows', rows, 'described', described) order by job), '[]')
        from made
      ) as made,
      (select string_agg(inputs, ${SEPARATOR}::text order by job) from described) as inputs,
      (
        select json_build_object(
          'job', coalesce(json_agg(job), '[]'), 'index', coalesce(json_agg(index), '[]'),
          'generation', coalesce(json_agg(generation), '[]'), 'node', coalesce(json_agg(node), '[]'),
          'failures', coalesce(json_agg(failures), '[]'), 'losses', coalesce(json_agg(losses), '[]'),
          'failedNodes', coalesce(json_agg(failed_nodes), '[]'), 'input', coalesce(json_agg(input), '[]')
        ) from changed
      ) as returned`;
}

export async function assign(
  database: Database,
  epoch: number,
  items: readonly AssignItem[],
): Promise<Assigned & { jobs: JobChange[] }> {
  if (items.length === 0) return { ranges: [], tasks: [], jobs: [] };
  const row = await runAsLeader(database, epoch, assignStatement(epoch, items));
  return { ranges: madeRanges(items, row), tasks: returnedTasks(row.returned), jobs: row.jobs.map(toJobChange) };
}

/** Which fresh tasks these are is known from what was asked for. */
function madeRanges(items: readonly AssignItem[], { made, inputs }: AssignRow): AssignedRange[] {
  const lines = inputs?.split(SEPARATOR);
  let line = 0;
  const left = new Map(
    made.map(({ job, rows, described }) => {
      const place = described ? line : undefined;
      if (described) line += rows;
      return [job, { rows, place, taken: 0 }];
    }),
  );
  const ranges: AssignedRange[] = [];
  for (const item of items) {
    const ofJob = 'from' in item ? left.get(item.job) : undefined;
    if (!ofJob || !('from' in item)) continue;
    const { job, node, from } = item;
    const to = Math.min(item.to, from + ofJob.rows - ofJob.taken);
    if (to <= from) continue;
    const first = ofJob.place === undefined ? undefined : ofJob.place + ofJob.taken;
    ranges.push({
      job,
      node,
      from,
      to,
      inputs: first === undefined ? undefined : lines?.slice(first, first + to - from),
    });
    ofJob.taken += to - from;
  }
  return ranges;
}

const returnedTasks = ({ job, index, generation, node, ...of }: AssignRow['returned']) =>
  job.map((seq, i) => ({
    job: seq,
    index: index[i] as number,
    generation: generation[i] as number,
    node: node[i] as number,
    failures: of.failures[i] as number,
    losses: of.losses[i] as number,
    failedNodes: of.failedNodes[i] ?? [],
    input: of.input[i] ?? undefined,
  }));
