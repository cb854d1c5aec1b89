/**
 * Keeping submissions. Those that come at the same time are kept by one statement and so by one commit (group commit).
 *
 * One submission that the database refuses must not cost the others theirs: what fails together is tried again one by one.
 */
import { type RawBuilder, sql } from 'kysely';
import { Batcher } from '../../common/batcher.js';
import { MeshError, toMeshError } from '../../common/errors.js';
import { groupBy } from '../../common/group-by.js';
import { OnFailure } from '../../proto/gen/mesh/v1/mesh.js';
import { DEFAULT_NAMESPACE, type JobRow, type NewJob } from '../ports.js';
import { bigints, ints, text, texts } from './arrays.js';
import type { Database } from './database.js';
import { lease } from './leading.js';

const TOGETHER_MAX = 100;
/** Of specifications in one statement, which is held several times over while it is sent; a single one may be larger. */
const TOGETHER_CHARACTERS_MAX = 2 ** 20;

const ON_FAILURE = {
  [OnFailure.UNSPECIFIED]: 'finish',
  [OnFailure.FINISH]: 'finish',
  [OnFailure.FAIL_FAST]: 'fail-fast',
  [OnFailure.PARTIAL]: 'partial',
} as const;

interface Insert {
  job: NewJob;
  /** As JSON. */
  spec: string;
  resolve: (row: JobRow | undefined) => void;
  reject: (error: unknown) => void;
}

/** What only the database knows of a new job. */
type CreatedRow = { id: string; seq: number; created_at: number } | { id: null };

/**
 * `epoch` undefined: nobody's lead is asked for. With `node`, all tasks of the one job there is are assigned to it: it is
 * what `assignStatement` would make of a fresh job, made at once.
 */
export function createStatement(
  epoch: number | undefined,
  inserts: readonly Insert[],
  node?: number,
): RawBuilder<CreatedRow> {
  const only = inserts.length === 1 ? inserts[0] : undefined;
  const isGiven = node !== undefined;
  return sql<CreatedRow>`
    with ${epoch === undefined ? sql`lease as materialized (select 1)` : lease(epoch)},
    made as (
      insert into job (
        id, submitter, idempotency_key, spec_digest, name, type, priority, on_failure, spec, retry_of, has_inputs,
        namespace, staged_bytes, total ${isGiven ? sql`, materialised, cursor, assigned, started_at, status` : sql``}
      )
      select u.id, u.submitter, u.idempotency_key, u.spec_digest, u.name, u.type, u.priority, u.on_failure,
        u.spec::jsonb, u.retry_of, u.has_inputs = 1, u.namespace, u.staged_bytes, u.total
        ${isGiven ? sql`, u.total, u.total, u.total, now(), 'RUNNING'` : sql``}
      from lease, ${only ? oneRow(only) : rows(inserts)}
      on conflict (submitter, idempotency_key) do nothing
      returning seq, id, total, created_at
    )${isGiven ? sql`, ${given(node)}` : sql``}
    select m.id, m.seq, m.created_at from (select) as always left join made m on true`;
}

function rows(inserts: readonly Insert[]): RawBuilder<unknown> {
  const jobs = inserts.map(({ job }) => job);
  return sql`unnest(
        ${texts(jobs, (job) => job.id)}, ${texts(jobs, (job) => job.submitter)},
        ${texts(jobs, (job) => job.idempotencyKey)}, ${texts(jobs, (job) => job.specDigest())},
        ${texts(jobs, ({ spec }) => spec.name)}, ${texts(jobs, typeOf)},
        ${ints(jobs, ({ spec }) => spec.priority)}, ${texts(jobs, ({ spec }) => ON_FAILURE[spec.onFailure])},
        ${texts(inserts, ({ spec }) => spec)}, ${texts(jobs, (job) => job.retryOf)},
        ${ints(jobs, (job) => (job.hasInputs ? 1 : 0))}, ${texts(jobs, namespaceOf)},
        ${bigints(jobs, (job) => job.stagedBytes?.() ?? 0)}, ${ints(jobs, (job) => job.total)}
      ) with ordinality as u(
        id, submitter, idempotency_key, spec_digest, name, type, priority, on_failure, spec, retry_of, has_inputs,
        namespace, staged_bytes, total, position
      )
      order by u.position`;
}

/** A job that is kept by itself: fourteen arrays of one element cost the statement more than the job does. */
const oneRow = ({ job, spec }: Insert): RawBuilder<unknown> => sql`(
        select ${text(job.id)} as id, ${text(job.submitter)} as submitter, ${text(job.idempotencyKey)} as idempotency_key,
          ${text(job.specDigest())} as spec_digest, ${text(job.spec.name)} as name, ${text(typeOf(job))} as type,
          ${job.spec.priority}::integer as priority, ${text(ON_FAILURE[job.spec.onFailure])} as on_failure,
          ${text(spec)} as spec, ${text(job.retryOf)} as retry_of, ${job.hasInputs ? 1 : 0}::integer as has_inputs,
          ${text(namespaceOf(job))} as namespace, ${job.stagedBytes?.() ?? 0}::bigint as staged_bytes,
          ${job.total}::integer as total
      ) as u`;

const namespaceOf = ({ namespace }: NewJob): string => namespace ?? DEFAULT_NAMESPACE;

const given = (node: number): RawBuilder<unknown> => sql`
    given as (
      insert into task (job, index, generation, status, node, assigned_at, queued_at)
      select m.seq, i.index, 1, 'ASSIGNED', ${node}::integer, m.created_at, m.created_at
      from made m cross join lateral generate_series(0, m.total - 1) as i(index)
    )`;

const typeOf = ({ spec }: NewJob): JobRow['type'] => (spec.work?.$case === 'function' ? 'function' : 'process');

/**
 * What is now in the table, without reading it back. Fields in the order of `toJobRow`: the planner looks at thousands of
 * these at a time, and is several times quicker where all have one shape.
 * @param isGiven all its tasks were assigned by the same commit
 */
function asStored(job: NewJob, seq: number, createdAtMs: number, isGiven: boolean): JobRow {
  const { spec, total } = job;
  const given = isGiven ? total : 0;
  return {
    seq,
    id: job.id,
    name: spec.name,
    type: typeOf(job),
    status: isGiven ? 'RUNNING' : 'QUEUED',
    priority: spec.priority,
    submitter: job.submitter,
    namespace: namespaceOf(job),
    spec,
    retryOf: job.retryOf,
    counts: {
      total,
      materialised: given,
      queued: 0,
      assigned: given,
      running: 0,
      retrying: 0,
      completed: 0,
      failed: 0,
      cancelled: 0,
    },
    cursor: given,
    cancelling: false,
    error: undefined,
    createdAtMs,
    startedAtMs: isGiven ? createdAtMs : undefined,
    completedAtMs: undefined,
  };
}

export class JobInserts {
  readonly #batcher: Batcher<Insert>;

  constructor(private readonly database: Database) {
    this.#batcher = new Batcher({
      itemsMax: TOGETHER_MAX,
      flush: (inserts) => this.#flush(inserts),
      onError: (error, inserts) => inserts.forEach(({ reject }) => reject(error)),
    });
  }

  /** The job; undefined when its key is another job's, or when the epoch does not lead (ask which). */
  add(job: NewJob): Promise<JobRow | undefined> {
    const spec = JSON.stringify(job.spec);
    return new Promise((resolve, reject) => this.#batcher.add({ job, spec, resolve, reject }));
  }

  async #flush(inserts: readonly Insert[]): Promise<void> {
    for (const [epoch, ofEpoch] of groupBy(inserts, ({ job }) => job.epoch))
      for (const group of ofBoundedSize(ofEpoch)) await this.#keep(epoch, group);
  }

  async #keep(epoch: number | undefined, group: readonly Insert[]): Promise<void> {
    try {
      await this.#insert(epoch, group);
    } catch (error) {
      // What was not answered may have been committed: its submitter finds out by the key, and we by the id.
      if (group.length === 1 || toMeshError(error).code === 'DATABASE_DOWN')
        group.forEach(({ reject }) => reject(error));
      else for (const insert of group) await this.#insert(epoch, [insert]).catch(insert.reject);
    }
  }

  async #insert(epoch: number | undefined, inserts: readonly Insert[]): Promise<void> {
    const node = inserts.length === 1 ? inserts[0]?.job.place?.() : undefined;
    const { rows } = await this.database.run((db) => createStatement(epoch, inserts, node).execute(db));
    if (rows.length === 0) throw new MeshError('INTERNAL', 'a submission was answered with nothing');
    const byId = new Map(rows.flatMap((row) => (row.id === null ? [] : [[row.id, row] as const])));
    for (const { job, resolve } of inserts) {
      const row = byId.get(job.id);
      resolve(row && asStored(job, row.seq, row.created_at, node !== undefined));
    }
  }
}

/** In their order, cut where the specifications would become too long together. */
function* ofBoundedSize(inserts: readonly Insert[]): Generator<Insert[]> {
  let group: Insert[] = [];
  let characters = 0;
  for (const insert of inserts) {
    if (group.length > 0 && characters + insert.spec.length > TOGETHER_CHARACTERS_MAX) {
      yield group;
      group = [];
      characters = 0;
    }
    group.push(insert);
    characters += insert.spec.length;
  }
  if (group.length > 0) yield group;
}
