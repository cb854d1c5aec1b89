import { type Selectable, sql } from 'kysely';
import { MeshError, toMeshError } from '../../common/errors.js';
import { JobSpec } from '../../proto/gen/mesh/v1/mesh.js';
import type { JobCounts } from '../core/job.js';
import type { JobChange, JobRow, JobStore, NewJob } from '../ports.js';
import type { Database } from './database.js';
import { JobInserts } from './job-create.js';
import { dropInputs, storeInputs } from './job-inputs.js';
import { withdrawRows } from './job-rows-ahead.js';
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
  withdrawRows: (epoch) => withdrawRows(database, epoch),
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
    const row = await inserts.add(job).catch((error: unknown) => {
      // Perhaps it was committed, and the inputs are the job's. If not, they are swept in a day.
      kept = toMeshError(error).code === 'DATABASE_DOWN';
      throw error;
    });
    kept = row !== undefined;
    if (row) return { job: row, created: true };
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
