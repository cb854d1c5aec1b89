import { type RawBuilder, type Selectable, sql } from 'kysely';
import { MeshError } from '../../common/errors.js';
import { JobSpec } from '../../proto/gen/mesh/v1/mesh.js';
import type { JobCounts } from '../core/job.js';
import type { JobChange, JobRow, JobStore, NewJob } from '../ports.js';
import { bigints, ints } from './arrays.js';
import type { Database } from './database.js';
import { JobInserts } from './job-create.js';
import { dropInputs, storeInputs } from './job-inputs.js';
import { removeJobs } from './job-remove.js';
import { type JobChangeJson, jobChangeJson, lease, runAsLeader, toJobChange } from './leading.js';
import type { JobTable } from './schema.js';

const COUNTERS = [
  'total',
  'materialised',
  'queued',
  'assigned',
  'running',
  'retrying',
  'completed',
  'failed',
  'cancelled',
] as const satisfies readonly (keyof JobCounts)[];

export const jobStore = (database: Database): JobStore => {
  const inserts = new JobInserts(database);
  return { ...others(database), create: (job, inputs) => create(database, inserts, job, inputs) };
};

const others = (database: Database): Omit<JobStore, 'create'> => ({
  get: async (id) => {
    const row = await database.run((db) => db.selectFrom('job').selectAll().where('id', '=', id).executeTakeFirst());
    return row && toJobRow(row);
  },
  list: (query) => list(database, query),
  live: async () => {
    const rows = await database.run((db) =>
      db.selectFrom('job').selectAll().where('completed_at', 'is', null).orderBy('seq').execute(),
    );
    return rows.map(toJobRow);
  },
  countByStatus: async () => {
    const rows = await database.run((db) =>
      db
        .selectFrom('job')
        .select((e) => ['status', e.fn.countAll<number>().as('jobs')])
        .groupBy('status')
        .execute(),
    );
    return new Map(rows.map((row) => [row.status, row.jobs]));
  },
  taskTotals: async () => {
    const { rows } = await database.run((db) =>
      sql<JobCounts>`
        select ${sql.raw(COUNTERS.map((name) => `coalesce(sum(${name}), 0)::double precision as ${name}`).join(', '))}
        from job`.execute(db),
    );
    return rows[0] as JobCounts;
  },
  materialise: async (epoch, wanted) => {
    if (wanted.length === 0) return [];
    const row = await runAsLeader(database, epoch, materialiseStatement(epoch, wanted));
    return row.made.map(({ job, rows }) => ({ job, rows }));
  },
  requestCancel: (epoch, seq, error) => requestCancel(database, epoch, seq, error),
  remove: (jobs) => removeJobs(database, jobs),
  endedBefore: (ms, limit) =>
    database.run((db) =>
      db
        .selectFrom('job')
        .select(['seq', 'id'])
        .where('completed_at', '<', ms)
        .orderBy('completed_at')
        .limit(limit)
        .execute(),
    ),
});

export function toJobRow(row: Selectable<JobTable>): JobRow {
  const { total, materialised, queued, assigned, running, retrying, completed, failed, cancelled } = row;
  return {
    seq: row.seq,
    id: row.id,
    name: row.name,
    type: row.type,
    status: row.status,
    priority: row.priority,
    submitter: row.submitter,
    namespace: row.namespace,
    // What an older version stored lacks later fields; fromPartial gives them their defaults.
    spec: JobSpec.fromPartial(row.spec as JobSpec),
    retryOf: row.retry_of ?? undefined,
    counts: { total, materialised, queued, assigned, running, retrying, completed, failed, cancelled },
    cursor: row.cursor,
    cancelling: row.cancelling,
    error: row.error ?? undefined,
    createdAtMs: row.created_at,
    startedAtMs: row.started_at ?? undefined,
    completedAtMs: row.completed_at ?? undefined,
  };
}

/**
 * The same key and digest give the job that exists. The digest is read after the inputs, so a caller may compute it while
 * they pass. A job without inputs is kept without asking first: that its key is taken shows then.
 * @throws MeshError IDEMPOTENCY_CONFLICT when the key names another job; BAD_SPEC when inputs and total differ
 */
async function create(
  database: Database,
  inserts: JobInserts,
  job: NewJob,
  inputs: AsyncIterable<string[]>,
): Promise<{ job: JobRow; created: boolean }> {
  const known = async (): Promise<{ job: JobRow; created: false } | undefined> => {
    const row = await bySubmission(database, job);
    return row && { job: sameOrThrow(row, job), created: false };
  };
  if (job.hasInputs) {
    const row = await bySubmission(database, job);
    if (row) {
      for await (const _ of inputs);
      return { job: sameOrThrow(row, job), created: false };
    }
  }
  let kept = false;
  let stored = 0;
  try {
    stored = await storeInputs(database, job.id, inputs);
    if (stored !== (job.hasInputs ? job.total : 0))
      throw new MeshError('BAD_SPEC', `the job names ${job.total} tasks, but ${stored} inputs came with it`);
    try {
      await job.admit?.();
    } catch (error) {
      const earlier = await known();
      if (earlier) return earlier;
      throw error;
    }
    const row = await inserts.add(job);
    kept = row !== undefined;
    if (row) return { job: toJobRow(row), created: true };
  } finally {
    if (!kept && (job.hasInputs || stored > 0)) await dropInputs(database, job.id);
  }
  const winner = await known();
  if (winner) return winner;
  throw new MeshError('LEADERSHIP_LOST', `epoch ${job.epoch} does not lead any more; the job was not taken`);
}

const bySubmission = (database: Database, job: NewJob): Promise<Selectable<JobTable> | undefined> =>
  database.run((db) =>
    db
      .selectFrom('job')
      .selectAll()
      .where('submitter', '=', job.submitter)
      .where('idempotency_key', '=', job.idempotencyKey)
      .executeTakeFirst(),
  );

function sameOrThrow(row: Selectable<JobTable>, job: NewJob): JobRow {
  if (row.spec_digest !== job.specDigest())
    throw new MeshError('IDEMPOTENCY_CONFLICT', `the idempotency key belongs to job ${row.id}, which differs`);
  return toJobRow(row);
}

async function list(database: Database, query: Parameters<JobStore['list']>[0]): Promise<JobRow[]> {
  const rows = await database.run((db) => {
    let select = db.selectFrom('job').selectAll().orderBy('seq', 'desc').limit(query.limit);
    if (query.status) select = select.where('status', '=', query.status);
    if (query.submitter !== undefined) select = select.where('submitter', '=', query.submitter);
    if (query.before !== undefined) select = select.where('seq', '<', query.before);
    return select.execute();
  });
  return rows.map(toJobRow);
}

interface MaterialiseRow {
  leading: number;
  made: { job: number; rows: number }[];
}

/**
 * Makes the next rows of each job from where the locked job says they end, so repeating it, or two leaders' doing it, makes
 * each row once. A job that is cancelled or at its end gets none.
 */
export function materialiseStatement(
  epoch: number,
  wanted: readonly { job: number; rows: number }[],
): RawBuilder<MaterialiseRow> {
  return sql<MaterialiseRow>`
    with ${lease(epoch)},
    locked as materialized (
      select j.seq, j.id, j.has_inputs, j.materialised as first, least(j.total, j.materialised + u.rows) as after
      from unnest(${bigints(wanted, ({ job }) => job)}, ${ints(wanted, ({ rows }) => rows)}) as u(job, rows)
      join job j on j.seq = any (array[u.job])
      where j.completed_at is null and not j.cancelling and exists (select from lease)
      order by j.seq for no key update of j
    ),
    made as (
      insert into task (job, index, input)
      select l.seq, i.index, null from locked l cross join lateral generate_series(l.first, l.after - 1) as i(index)
      where not l.has_inputs
      union all
      select l.seq, c.from_index + i.position::integer - 1, i.input
      from locked l
      join job_input c on c.job_id = l.id and c.from_index < l.after and c.to_index > l.first
      cross join lateral unnest(c.inputs) with ordinality as i(input, position)
      where l.has_inputs and c.from_index + i.position - 1 >= l.first and c.from_index + i.position - 1 < l.after
      returning job
    ),
    used as (
      delete from job_input c using locked l where l.has_inputs and c.job_id = l.id and c.to_index <= l.after
    ),
    moved as (
      update job j set materialised = j.materialised + n.rows, queued = j.queued + n.rows
      from (select job, count(*)::integer as rows from made group by job) n
      where j.seq = any (array[n.job])
      returning j.seq, j.materialised
    )
    select (select count(*) from lease) as leading, (
      select coalesce(json_agg(json_build_object('job', seq, 'rows', materialised)), '[]') from (
        select seq, materialised from moved
        union all
        select l.seq, l.first from locked l where l.first >= l.after
      ) as m
    ) as made`;
}

async function requestCancel(
  database: Database,
  epoch: number,
  seq: number,
  error: string | undefined,
): Promise<JobChange | undefined> {
  const row = await runAsLeader(
    database,
    epoch,
    sql<{ leading: number; job: JobChangeJson | null }>`
      with ${lease(epoch)},
      j as (
        update job set cancelling = true, error = case when cancelling then error else ${error ?? null}::text end
        where seq = ${seq}::bigint and completed_at is null and exists (select from lease)
        returning *
      )
      select (select count(*) from lease) as leading, (select ${jobChangeJson} from j) as job`,
  );
  return row.job ? toJobChange(row.job) : undefined;
}
