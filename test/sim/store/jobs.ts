/** The statements about jobs, as coordinator/store/jobs.ts has them in SQL. */
import { MeshError } from '../../../common/errors.js';
import type { JobCounts } from '../../../coordinator/core/job.js';
import { isTerminal } from '../../../coordinator/core/job.js';
import type { JobChange, JobRow, JobStore, NewJob } from '../../../coordinator/ports.js';
import { assign } from './tasks.js';
import { type JobRecord, newRecord, type Tables, toChange, toRow } from './tables.js';

const recordOf = (tables: Tables, matches: (job: JobRecord) => boolean): JobRecord | undefined => {
  for (const job of tables.jobs.values()) if (matches(job)) return job;
  return undefined;
};

export const get = (tables: Tables, id: string): JobRow | undefined => {
  const job = recordOf(tables, (candidate) => candidate.id === id);
  return job && toRow(job);
};

const madeBy = (tables: Tables, given: NewJob): JobRecord | undefined =>
  recordOf(tables, (job) => job.submitter === given.submitter && job.idempotencyKey === given.idempotencyKey);

/** Whether there is a job of this submission's key. */
export const isKnown = (tables: Tables, given: NewJob): boolean => madeBy(tables, given) !== undefined;

/** The job that this submission made earlier. @throws MeshError IDEMPOTENCY_CONFLICT when it differs */
function earlier(tables: Tables, given: NewJob): JobRow | undefined {
  const known = madeBy(tables, given);
  if (known && known.specDigest !== given.specDigest())
    throw new MeshError('IDEMPOTENCY_CONFLICT', `the idempotency key belongs to job ${known.id}, which differs`);
  return known && toRow(known);
}

/** @param node takes all its tasks with the same commit */
export function create(
  tables: Tables,
  given: NewJob,
  inputs: string[],
  node: number | undefined,
): Awaited<ReturnType<JobStore['create']>> {
  const known = earlier(tables, given);
  if (known) return { job: known, created: false };
  if (inputs.length !== (given.hasInputs ? given.total : 0))
    throw new MeshError('BAD_SPEC', `the job names ${given.total} tasks, but ${inputs.length} inputs came with it`);
  if (given.epoch !== undefined) tables.requireLead(given.epoch);
  const seq = Math.max(0, ...tables.jobs.keys()) + 1;
  const job = newRecord(seq, given, inputs, tables.now());
  tables.jobs.set(seq, job);
  if (node !== undefined && given.epoch !== undefined)
    assign(tables, given.epoch, [{ job: seq, node, from: 0, to: given.total }]);
  return { job: toRow(job), created: true };
}

export function list(tables: Tables, query: Parameters<JobStore['list']>[0]): JobRow[] {
  return [...tables.jobs.values()]
    .filter((job) => query.status === undefined || job.status === query.status)
    .filter((job) => query.submitter === undefined || job.submitter === query.submitter)
    .filter((job) => query.before === undefined || job.seq < query.before)
    .sort((a, b) => b.seq - a.seq)
    .slice(0, query.limit)
    .map(toRow);
}

export const live = (tables: Tables): JobRow[] =>
  [...tables.jobs.values()].filter((job) => job.completedAtMs === undefined).map(toRow);

export function countByStatus(tables: Tables): Awaited<ReturnType<JobStore['countByStatus']>> {
  const counts: Awaited<ReturnType<JobStore['countByStatus']>> = new Map();
  for (const { status } of tables.jobs.values()) counts.set(status, (counts.get(status) ?? 0) + 1);
  return counts;
}

export function taskTotals(tables: Tables): JobCounts {
  const totals: JobCounts = {
    ...{ total: 0, materialised: 0, queued: 0, assigned: 0, running: 0, retrying: 0 },
    ...{ completed: 0, failed: 0, cancelled: 0 },
  };
  for (const { counts } of tables.jobs.values())
    for (const name of Object.keys(totals) as (keyof JobCounts)[]) totals[name] += counts[name];
  return totals;
}

export function requestCancel(
  tables: Tables,
  epoch: number,
  seq: number,
  error: string | undefined,
): JobChange | undefined {
  tables.requireLead(epoch);
  const job = tables.open(seq, { assignable: false });
  if (!job) return undefined;
  if (!job.cancelling) job.error = error;
  job.cancelling = true;
  return toChange(job);
}

export const remove = (tables: Tables, seqs: readonly number[]): void => seqs.forEach((seq) => removeOne(tables, seq));

function removeOne(tables: Tables, seq: number): void {
  const job = tables.jobs.get(seq);
  if (!job || !isTerminal(job.status)) return;
  tables.jobs.delete(seq);
  tables.attempts.splice(0, tables.attempts.length, ...tables.attempts.filter((attempt) => attempt.job !== seq));
  for (const [key, original] of tables.originals) if (original.job === seq) tables.originals.delete(key);
}

export const endedBefore = (tables: Tables, ms: number, limit: number): { seq: number; id: string }[] =>
  [...tables.jobs.values()]
    .filter((job) => job.completedAtMs !== undefined && job.completedAtMs < ms)
    .sort((a, b) => (a.completedAtMs ?? 0) - (b.completedAtMs ?? 0))
    .slice(0, limit)
    .map(({ seq, id }) => ({ seq, id }));
