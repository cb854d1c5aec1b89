import { type Insertable, type InsertQueryBuilder, type RawBuilder, type Selectable, sql } from 'kysely';
import { MeshError } from '../../common/errors.js';
import { JobSpec, OnFailure } from '../../proto/gen/mesh/v1/mesh.js';
import type { JobCounts } from '../core/job.js';
import { DEFAULT_NAMESPACE, type JobChange, type JobRow, type JobStore, type NewJob } from '../ports.js';
import type { Database } from './database.js';
import { dropInputs, storeInputs } from './job-inputs.js';
import { type JobChangeJson, jobChangeJson, lease, runAsLeader, toJobChange } from './leading.js';
import type { JobTable } from './schema.js';

const REMOVE_ROWS_MAX = 5000;

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

const ON_FAILURE = {
  [OnFailure.UNSPECIFIED]: 'finish',
  [OnFailure.FINISH]: 'finish',
  [OnFailure.FAIL_FAST]: 'fail-fast',
  [OnFailure.PARTIAL]: 'partial',
} as const;

export const jobStore = (database: Database): JobStore => ({
  create: (job, inputs) => create(database, job, inputs),
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
  materialise: async (epoch, seq, limit) => {
    const row = await runAsLeader(database, epoch, materialiseStatement(epoch, seq, limit));
    return row.materialised ?? 0;
  },
  requestCancel: (epoch, seq, error) => requestCancel(database, epoch, seq, error),
  remove: (seq) => remove(database, seq),
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
 * they pass.
 * @throws MeshError IDEMPOTENCY_CONFLICT when the key names another job; BAD_SPEC when inputs and total differ
 */
async function create(
  database: Database,
  job: NewJob,
  inputs: AsyncIterable<string[]>,
): Promise<{ job: JobRow; created: boolean }> {
  const earlier = await bySubmission(database, job);
  if (earlier) {
    for await (const _ of inputs);
    return { job: sameOrThrow(earlier, job), created: false };
  }
  let kept = false;
  try {
    const stored = await storeInputs(database, job.id, inputs);
    if (stored !== (job.hasInputs ? job.total : 0))
      throw new MeshError('BAD_SPEC', `the job names ${job.total} tasks, but ${stored} inputs came with it`);
    await job.admit?.();
    const row = await insertJob(database, job);
    kept = row !== undefined;
    if (row) return { job: toJobRow(row), created: true };
  } finally {
    if (!kept) await dropInputs(database, job.id);
  }
  // Another call with the same key was quicker.
  const winner = await bySubmission(database, job);
  if (!winner) throw new MeshError('CONFLICT', 'a job with this idempotency key was removed just now');
  return { job: sameOrThrow(winner, job), created: false };
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

const onConflictNothing = <DB extends { job: JobTable }>(insert: InsertQueryBuilder<DB, 'job', object>) =>
  insert
    .onConflict((conflict) => conflict.columns(['submitter', 'idempotency_key'] as never).doNothing())
    .returningAll();

/** Undefined when the key is another job's. @throws MeshError LEADERSHIP_LOST */
async function insertJob(database: Database, job: NewJob): Promise<Selectable<JobTable> | undefined> {
  const { spec, epoch } = job;
  const row: Insertable<JobTable> = {
    id: job.id,
    submitter: job.submitter,
    idempotency_key: job.idempotencyKey,
    spec_digest: job.specDigest(),
    name: spec.name,
    type: spec.work?.$case === 'function' ? 'function' : 'process',
    priority: spec.priority,
    on_failure: ON_FAILURE[spec.onFailure],
    spec,
    retry_of: job.retryOf ?? null,
    has_inputs: job.hasInputs,
    namespace: job.namespace ?? DEFAULT_NAMESPACE,
    staged_bytes: job.stagedBytes?.() ?? 0,
    total: job.total,
  };
  if (epoch === undefined)
    return database.run((db) => onConflictNothing(db.insertInto('job').values(row)).executeTakeFirst());
  const columns = Object.keys(row) as (keyof typeof row)[];
  const inserted = await database.run((db) =>
    onConflictNothing(
      db
        .with(
          'lease',
          () => sql<{ one: number }>`(select 1 as one from leader where epoch = ${epoch}::bigint for key share)`,
        )
        .insertInto('job')
        .columns(columns)
        .expression((select) => select.selectFrom('lease').select(columns.map((name) => sql`${row[name]}`.as(name)))),
    ).executeTakeFirst(),
  );
  if (inserted || (await bySubmission(database, job))) return inserted;
  throw new MeshError('LEADERSHIP_LOST', `epoch ${epoch} does not lead any more; the job was not taken`);
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
  materialised: number | null;
}

/**
 * Makes the next rows from where the locked job says they end, so repeating it, or two leaders' doing it, makes each row
 * once. A job that is cancelled or at its end gets none.
 */
export function materialiseStatement(epoch: number, seq: number, limit: number): RawBuilder<MaterialiseRow> {
  return sql<MaterialiseRow>`
    with ${lease(epoch)},
    locked as materialized (
      select seq, id, has_inputs, materialised as first, least(total, materialised + ${limit}::integer) as after
      from job
      where seq = ${seq}::bigint and completed_at is null and not cancelling and exists (select from lease)
      for no key update
    ),
    made as (
      insert into task (job, index, input)
      select l.seq, i.index, null from locked l, generate_series(l.first, l.after - 1) as i(index)
      where not l.has_inputs
      union all
      select l.seq, c.from_index + i.position::integer - 1, i.input
      from locked l
      join job_input c on c.job_id = l.id and c.from_index < l.after and c.to_index > l.first
      cross join lateral unnest(c.inputs) with ordinality as i(input, position)
      where l.has_inputs and c.from_index + i.position - 1 >= l.first and c.from_index + i.position - 1 < l.after
      returning 1
    ),
    used as (
      delete from job_input c using locked l where c.job_id = l.id and c.to_index <= l.after
    ),
    moved as (
      update job j set materialised = j.materialised + n.rows, queued = j.queued + n.rows
      from locked l, (select count(*)::integer as rows from made) n
      where j.seq = l.seq
      returning j.materialised
    )
    select (select count(*) from lease) as leading,
      coalesce((select materialised from moved), (select materialised from job where seq = ${seq}::bigint)) as materialised`;
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

/** Rows first, a bounded number per statement, the job last: what a crash leaves is found and removed again. */
async function remove(database: Database, seq: number): Promise<void> {
  const job = await database.run((db) =>
    db
      .selectFrom('job')
      .select(['id', 'materialised'])
      .where('seq', '=', seq)
      .where('completed_at', 'is not', null)
      .executeTakeFirst(),
  );
  if (!job) return;
  for (const table of ['task', 'task_original', 'task_attempt'] as const) {
    for (let first = 0; first < job.materialised; first += REMOVE_ROWS_MAX) {
      await database.run((db) =>
        db
          .deleteFrom(table)
          .where('job', '=', seq)
          .where('index', '>=', first)
          .where('index', '<', first + REMOVE_ROWS_MAX)
          .execute(),
      );
    }
  }
  await dropInputs(database, job.id);
  await database.run((db) => db.deleteFrom('job').where('seq', '=', seq).execute());
}
