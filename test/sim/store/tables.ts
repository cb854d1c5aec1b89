/**
 * The tables of a mesh in memory: what coordinator/store keeps in PostgreSQL, with the same guards. A statement is a
 * function that runs to its end at once, so each is a transaction; how it gets here, and whether its answer gets back,
 * is the caller's business (memory-store.ts).
 */
import { MeshError } from '../../../common/errors.js';
import type { JobCounts } from '../../../coordinator/core/job.js';
import { NO_QUOTAS } from '../../../coordinator/core/quotas.js';
import type { AttemptOutcome, TaskStatus } from '../../../coordinator/core/task.js';
import {
  type CertificateRow,
  type CoordinatorRow,
  DEFAULT_NAMESPACE,
  type JobChange,
  type JobRow,
  type JoinRequestRow,
  type LeaderRow,
  type NamespaceRow,
  type NewJob,
  type NodeRow,
  type SealedSecret,
  type TokenRow,
  type TrustRow,
} from '../../../coordinator/ports.js';
import { OnFailure } from '../../../proto/gen/mesh/v1/mesh.js';
import type { HistoryEvent } from '../../history/events.js';

export interface TaskRecord {
  index: number;
  status: TaskStatus;
  generation: number;
  failures: number;
  losses: number;
  node: number | undefined;
  exitCode: number | undefined;
  queuedAtMs: number;
  dueAtMs: number | undefined;
  assignedAtMs: number | undefined;
  runningAtMs: number | undefined;
  startedAtMs: number | undefined;
  finishedAtMs: number | undefined;
  runUs: number | undefined;
  peakMemoryBytes: number | undefined;
  failedNodes: number[];
  input: string | undefined;
  lastError: string | undefined;
  resultJson: string | undefined;
  output: Uint8Array | undefined;
}

export interface AttemptRecord {
  job: number;
  index: number;
  generation: number;
  attempt: number;
  node: number;
  outcome: AttemptOutcome;
  error: string | undefined;
  output: Uint8Array | undefined;
  startedAtMs: number | undefined;
  finishedAtMs: number;
}

/** The attempt a copied task had before its copy. */
export interface OriginalRecord {
  job: number;
  index: number;
  generation: number;
  node: number;
  copyGeneration: number;
  attempt: number;
  alone: boolean;
  runningAtMs: number | undefined;
  startedAtMs: number | undefined;
}

export interface JobRecord extends Omit<JobRow, 'counts'> {
  counts: JobCounts;
  idempotencyKey: string;
  specDigest: string;
  hasInputs: boolean;
  stagedBytes: number;
  /** Inputs of all its tasks, or none. */
  inputs: string[];
  /** Cancelled before their rows were made. */
  skipped: number;
  tasks: TaskRecord[];
}

export interface TablesOptions {
  now: () => number;
  /** Hears of everything that is committed, as events of a history. */
  observe?: (event: HistoryEvent) => void;
  /** Mutations: the guards that every write of the leader's has. Both on, unless a test proves what they are for. */
  guards?: { generation: boolean; epoch: boolean };
}

/** How much a statement adds to each of a job's counters. */
export type Delta = Partial<Record<Exclude<keyof JobCounts, 'total' | 'materialised'>, number>> & { cursor?: number };

export class Tables {
  readonly jobs = new Map<number, JobRecord>();
  readonly attempts: AttemptRecord[] = [];
  /** By job and index. */
  readonly originals = new Map<string, OriginalRecord>();
  readonly nodes = new Map<number, NodeRow>();
  readonly certificates = new Map<string, CertificateRow>();
  readonly namespaces = new Map<string, NamespaceRow>([
    [DEFAULT_NAMESPACE, { name: DEFAULT_NAMESPACE, quotas: NO_QUOTAS, members: [] }],
  ]);
  readonly secrets = new Map<string, SealedSecret & { setBy: string; setAtMs: number }>();
  readonly tokens = new Map<string, TokenRow>();
  readonly joinRequests = new Map<string, JoinRequestRow>();
  readonly settings = new Map<string, string>();
  readonly blobs = new Map<string, { sizeBytes: number; usedAtMs: number }>();
  readonly coordinators = new Map<string, CoordinatorRow & { seenAtMs: number }>();
  leader: LeaderRow | undefined;
  trust: TrustRow | undefined;
  readonly guards: { generation: boolean; epoch: boolean };
  readonly #options: TablesOptions;

  constructor(options: TablesOptions) {
    this.#options = options;
    this.guards = options.guards ?? { generation: true, epoch: true };
  }

  now(): number {
    return this.#options.now();
  }

  observe(event: HistoryEvent): void {
    this.#options.observe?.(event);
  }

  /** @throws MeshError LEADERSHIP_LOST when another epoch rules */
  requireLead(epoch: number): void {
    if (this.guards.epoch && this.leader?.epoch !== epoch)
      throw new MeshError('LEADERSHIP_LOST', `epoch ${epoch} does not lead any more; nothing was changed`);
  }

  /** Jobs that are not at their end; with `assignable` not those being cancelled either. */
  open(seq: number, options: { assignable: boolean }): JobRecord | undefined {
    const job = this.jobs.get(seq);
    if (!job || job.completedAtMs !== undefined || (options.assignable && job.cancelling)) return undefined;
    return job;
  }

  nodeName(seq: number | undefined): string {
    return (seq === undefined ? undefined : this.nodes.get(seq)?.name) ?? `node ${seq}`;
  }

  /** Moves a job's counters and decides its status, as `movedJobs` and `job_outcome` do in SQL. */
  move(job: JobRecord, delta: Delta): JobChange {
    const { counts } = job;
    for (const name of ['queued', 'assigned', 'running', 'retrying', 'completed', 'failed', 'cancelled'] as const)
      counts[name] += delta[name] ?? 0;
    const cursor = delta.cursor ?? 0;
    job.cursor = Math.max(job.cursor, cursor);
    counts.materialised = Math.max(counts.materialised, cursor);
    if (cursor > 0) job.startedAtMs ??= this.now();
    const live = counts.queued + counts.assigned + counts.running + counts.retrying;
    job.status = outcomeOf(job, live, counts.total - counts.materialised);
    if (job.status !== 'QUEUED' && job.status !== 'RUNNING') job.completedAtMs = this.now();
    this.#checkCounters(job);
    return toChange(job);
  }

  #checkCounters({ id, counts, cursor }: JobRecord): void {
    const { materialised, total, ...states } = counts;
    const values = Object.values(states);
    const sum = values.reduce((a, b) => a + b, 0);
    if (sum !== materialised || materialised > total || cursor > materialised || values.some((value) => value < 0))
      throw new MeshError('INTERNAL', `the counters of job ${id} are wrong: ${JSON.stringify({ ...counts, cursor })}`);
  }
}

function outcomeOf(job: JobRecord, live: number, missing: number): JobRow['status'] {
  const { completed, failed } = job.counts;
  if (live > 0 || missing > 0) return job.startedAtMs === undefined ? 'QUEUED' : 'RUNNING';
  if (job.cancelling) return job.error === undefined ? 'CANCELLED' : 'FAILED';
  if (failed === 0) return 'COMPLETED';
  return job.spec.onFailure === OnFailure.PARTIAL && completed > 0 ? 'PARTIALLY_COMPLETED' : 'FAILED';
}

export const toChange = ({ seq, status, counts, cursor, startedAtMs, completedAtMs }: JobRecord): JobChange => ({
  ...{ seq, status, cursor, startedAtMs, completedAtMs },
  counts: { ...counts },
});

/** A copy, as a row that was read is one: callers change what they are given. */
export function toRow(job: JobRecord): JobRow {
  const {
    idempotencyKey: _key,
    specDigest: _digest,
    hasInputs: _has,
    stagedBytes: _bytes,
    inputs: _inputs,
    skipped: _skipped,
    ...row
  } = job;
  const { tasks: _tasks, ...rest } = row;
  return { ...rest, counts: { ...job.counts }, spec: structuredClone(job.spec) };
}

export const newRecord = (seq: number, job: NewJob, inputs: string[], nowMs: number): JobRecord => ({
  ...{ seq, id: job.id, submitter: job.submitter, retryOf: job.retryOf, hasInputs: job.hasInputs, inputs },
  namespace: job.namespace ?? DEFAULT_NAMESPACE,
  stagedBytes: job.stagedBytes?.() ?? 0,
  name: job.spec.name,
  type: job.spec.work?.$case === 'function' ? 'function' : 'process',
  status: 'QUEUED',
  priority: job.spec.priority,
  spec: structuredClone(job.spec),
  counts: {
    ...{ total: job.total, materialised: 0, queued: 0, assigned: 0, running: 0, retrying: 0 },
    ...{ completed: 0, failed: 0, cancelled: 0 },
  },
  ...{ cursor: 0, skipped: 0, cancelling: false, error: undefined, tasks: [] },
  ...{ createdAtMs: nowMs, startedAtMs: undefined, completedAtMs: undefined },
  idempotencyKey: job.idempotencyKey,
  specDigest: job.specDigest(),
});

export const newTask = (index: number, input: string | undefined, nowMs: number): TaskRecord => ({
  ...{ index, input, queuedAtMs: nowMs, status: 'QUEUED', generation: 0, failures: 0, losses: 0, failedNodes: [] },
  ...{ node: undefined, exitCode: undefined, dueAtMs: undefined, assignedAtMs: undefined, runningAtMs: undefined },
  ...{ startedAtMs: undefined, finishedAtMs: undefined, runUs: undefined, peakMemoryBytes: undefined },
  ...{ lastError: undefined, resultJson: undefined, output: undefined },
});
