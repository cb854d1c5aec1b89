/**
 * The interfaces the coordinator's services drive the outside through. The store's are implemented by
 * coordinator/store (PostgreSQL); a second implementation, in memory, belongs to the simulator.
 *
 * Every write that moves a task takes the leader's epoch and is one guarded statement in one transaction. What it
 * returns is what happened; what it does not return did not match its guard and is stale (DESIGN §5).
 */
import type { Role } from '../common/identity/identity.js';
import type { Capabilities } from '../proto/gen/mesh/v1/common.js';
import type { JobSpec } from '../proto/gen/mesh/v1/mesh.js';
import type { JobCounts, JobStatus } from './core/job.js';
import type { AttemptOutcome, TaskRef, TaskStatus } from './core/task.js';

export interface JobRow {
  seq: number;
  id: string;
  name: string;
  type: 'process' | 'function';
  status: JobStatus;
  priority: number;
  submitter: string;
  spec: JobSpec;
  retryOf: string | undefined;
  counts: JobCounts;
  /** The first index that was never assigned. */
  cursor: number;
  /** Set when somebody asked to cancel, or fail-fast did; the planner skips the job from then on. */
  cancelling: boolean;
  error: string | undefined;
  createdAtMs: number;
  startedAtMs: number | undefined;
  completedAtMs: number | undefined;
}

export interface NewJob {
  id: string;
  submitter: string;
  idempotencyKey: string;
  /**
   * SHA-256 of specification and items: tells a repeated submission from a different one with the same key. Asked after
   * the inputs were read to their end, because they are hashed on the way and never held.
   */
  specDigest: () => string;
  spec: JobSpec;
  total: number;
  retryOf: string | undefined;
  hasInputs: boolean;
  /**
   * The leader's epoch: a job that a former leader took would be unknown to the present one. Without it nobody's lead is
   * asked for.
   */
  epoch?: number | undefined;
}

/** What a statement that moves tasks says about their jobs, so that memory follows the store. */
export interface JobChange {
  seq: number;
  status: JobStatus;
  counts: JobCounts;
  cursor: number;
  startedAtMs: number | undefined;
  completedAtMs: number | undefined;
}

export interface JobStore {
  /**
   * Commits the job; `inputs` are JSON TaskInputs in index order, stored in chunks. Same key and digest: the old job.
   * @throws MeshError LEADERSHIP_LOST when another epoch rules, IDEMPOTENCY_CONFLICT
   */
  create(job: NewJob, inputs: AsyncIterable<string[]>): Promise<{ job: JobRow; created: boolean }>;
  get(id: string): Promise<JobRow | undefined>;
  list(query: { status?: JobStatus; submitter?: string; limit: number; before?: number }): Promise<JobRow[]>;
  /** Jobs that are not terminal, in order of arrival. */
  live(): Promise<JobRow[]>;
  /** Number of retained jobs per status, for the metrics. */
  countByStatus(): Promise<Map<JobStatus, number>>;
  /** Sums of the task counters over all retained jobs, for the metrics. */
  taskTotals(): Promise<JobCounts>;
  /** Inserts the next `limit` task rows; idempotent. Returns the new number of rows. */
  materialise(epoch: number, seq: number, limit: number): Promise<number>;
  /** Marks it; undefined when it was terminal already. `error` is set for fail-fast. */
  requestCancel(epoch: number, seq: number, error: string | undefined): Promise<JobChange | undefined>;
  /** Deletes a terminal job and everything of it, in bounded statements. */
  remove(seq: number): Promise<void>;
  /** Terminal jobs that ended before, oldest first. */
  endedBefore(ms: number, limit: number): Promise<{ seq: number; id: string }[]>;
}

/** A contiguous range of fresh tasks for one node, or returned tasks by index. */
export type AssignItem =
  | { job: number; node: number; from: number; to: number }
  | { job: number; node: number; indexes: number[] };

export interface AssignedTask extends TaskRef {
  node: number;
  failures: number;
  losses: number;
  /** JSON TaskInput, or undefined. */
  input: string | undefined;
}

/** One attempt's end, with the state the core decided on. */
export interface Settlement extends TaskRef {
  node: number;
  to: 'COMPLETED' | 'FAILED' | 'RETRYING' | 'QUEUED';
  outcome: AttemptOutcome;
  /** Added to the task's counters: 0 or 1. */
  failure: 0 | 1;
  loss: 0 | 1;
  /** For RETRYING and QUEUED: from now. */
  dueInMs: number | undefined;
  exitCode: number | undefined;
  signal: string | undefined;
  error: string | undefined;
  resultJson: string | undefined;
  /** An encoded OutputTail, or undefined. */
  output: Uint8Array | undefined;
  /** Microseconds the attempt ran; milliseconds since it ended. */
  runUs: number | undefined;
  finishedAgeMs: number;
  peakMemoryBytes: number | undefined;
}

export interface Settled {
  /** Which of the given settlements matched, by position. */
  accepted: boolean[];
  jobs: JobChange[];
}

export interface LiveTask extends TaskRef {
  node: number;
  status: 'ASSIGNED' | 'RUNNING';
  failures: number;
  losses: number;
  /** Milliseconds since it started, or since it was assigned where no more is known; absent where nobody asks. */
  ageMs?: number;
}

/** An attempt that was given away, comes back, and is further ahead than the one that replaced it. */
export interface ReadoptItem extends TaskRef {
  /** Where it ran, and still runs or has ended. */
  node: number;
  /** The present attempt of the task. */
  replacement: { generation: number; node: number };
  /** Milliseconds since it started; undefined when only its row knows. */
  ageMs: number | undefined;
}

export interface ReadoptedTask extends LiveTask {
  /** The generation its agent knows it by. */
  former: number;
  replacement: { generation: number; node: number };
}

export interface TaskRow extends TaskRef {
  status: TaskStatus;
  failures: number;
  losses: number;
  node: string | undefined;
  exitCode: number | undefined;
  queuedAtMs: number;
  assignedAtMs: number | undefined;
  startedAtMs: number | undefined;
  finishedAtMs: number | undefined;
  lastError: string | undefined;
  resultJson: string | undefined;
  output: Uint8Array | undefined;
  runUs: number | undefined;
  peakMemoryBytes: number | undefined;
}

export interface TaskStore {
  /** QUEUED or due RETRYING → ASSIGNED; raises generation, moves the cursor, starts the job. */
  assign(epoch: number, items: AssignItem[]): Promise<{ tasks: AssignedTask[]; jobs: JobChange[] }>;
  /** ASSIGNED → RUNNING. `ageMs` since the attempt started. */
  markRunning(
    epoch: number,
    items: (TaskRef & { node: number; ageMs: number })[],
  ): Promise<{ changed: TaskRef[]; jobs: JobChange[] }>;
  /** ASSIGNED or RUNNING → what the core decided; ends jobs whose last task this was. */
  settle(epoch: number, items: Settlement[]): Promise<Settled>;
  /** RETRYING or QUEUED → RUNNING on the node and generation it had before it was given up; again, if it was done before. */
  adopt(epoch: number, items: (TaskRef & { node: number })[]): Promise<{ changed: LiveTask[]; jobs: JobChange[] }>;
  /**
   * ASSIGNED or RUNNING as `replacement` → RUNNING on the node that returns, under a generation of its own. Only what was
   * recorded as lost with that node and in that generation can come back; the loss is taken back. The replacement, if it
   * ran, is recorded as cancelled. Repeating one that was done names it again.
   */
  readopt(epoch: number, items: ReadoptItem[]): Promise<{ changed: ReadoptedTask[]; jobs: JobChange[] }>;
  /** Any live state → CANCELLED, at most `limit` rows from `fromIndex`; also covers rows that were never made. */
  cancel(
    epoch: number,
    job: number,
    fromIndex: number,
    limit: number,
  ): Promise<{ nextIndex: number | undefined; live: LiveTask[]; cancelled: number; job: JobChange }>;
  /** Returned tasks whose time has come, oldest first. */
  due(
    limit: number,
  ): Promise<{ job: number; index: number; failedNodes: number[]; failures: number; losses: number }[]>;
  /** Milliseconds until the earliest returned task is due; undefined when none waits. */
  nextDueInMs(): Promise<number | undefined>;
  /** ASSIGNED and RUNNING tasks of jobs that are not terminal; how a new leader learns what is out there. */
  live(): Promise<LiveTask[]>;
  list(query: { job: number; status?: TaskStatus; fromIndex: number; limit: number }): Promise<TaskRow[]>;
  /** Attempts of one task that did not succeed, oldest first. */
  attempts(
    job: number,
    index: number,
  ): Promise<
    {
      generation: number;
      attempt: number;
      node: string;
      outcome: AttemptOutcome;
      error: string | undefined;
      output: Uint8Array | undefined;
      startedAtMs: number | undefined;
      finishedAtMs: number;
    }[]
  >;
  /** Terminal tasks from an index on, in index order, for results; stops before the first that is not terminal. */
  results(
    job: number,
    fromIndex: number,
    limit: number,
  ): Promise<{ index: number; status: TaskStatus; resultJson: string | undefined; output: Uint8Array | undefined }[]>;
  /** The stored input of each given task, by position. */
  inputs(refs: readonly TaskRef[]): Promise<(string | undefined)[]>;
  /** How many distinct nodes, other than the given one, were lost while they ran each given task, by position. */
  nodesLost(refs: readonly (TaskRef & { node: number })[]): Promise<number[]>;
  /** Inputs of the tasks that did not complete, in index order, for a retry. */
  unfinishedInputs(
    job: number,
    fromIndex: number,
    limit: number,
  ): Promise<{ index: number; input: string | undefined }[]>;
}

/** The attempt that runs, as it is known, and the node a second one of the task shall run on. */
export interface CopyAsked extends TaskRef {
  node: number;
  to: number;
}

/** The attempt a copied task had before its copy. */
export interface OriginalAttempt extends TaskRef {
  node: number;
  /** The copy has ended: this is the task's only attempt. */
  alone: boolean;
  failures: number;
  losses: number;
}

export interface CopySettled {
  /** Whether the settled attempt was one of the task's; nothing was changed otherwise. */
  accepted: boolean;
  /** The task's attempts that are live after it. Whatever else is thought to run of the task is superseded. */
  live: (TaskRef & { node: number })[];
  /** The task's counters after it. */
  failures: number;
  losses: number;
  jobs: JobChange[];
}

/**
 * Tasks with two live attempts, each of which may end the task (adr/0012-speculation.md). The task's row is the later one,
 * the *copy*; the earlier one, the *original*, is kept beside it. The original is valid exactly while the task is ASSIGNED
 * or RUNNING in the generation that its copy got, so every statement of TaskStore that ends or moves the task ends the
 * original too, and needs to know nothing of it.
 */
export interface CopyStore {
  /**
   * A task RUNNING in exactly this generation on exactly this node → ASSIGNED on `to` in the next generation; the attempt
   * that runs becomes its original. Refused (no task) when the guard does not match, when `to` is the same node or one the
   * task failed on, when the task has an original already, and when its job is being cancelled or has ended. Repeating one
   * that was done returns it again, as long as both attempts live. Moves the counters from running to assigned.
   */
  make(epoch: number, asked: CopyAsked): Promise<{ task: AssignedTask | undefined; jobs: JobChange[] }>;
  /**
   * One attempt's end, for a task that may have two. Matches the original or the task's row; without an original it is what
   * TaskStore.settle is. To COMPLETED or FAILED it ends the task, with this attempt's node (and generation, if it is the
   * original's), and the other attempt with it, which is recorded as cancelled if it ran. To RETRYING or QUEUED only this
   * attempt ends while the other lives: failures, losses and failed nodes are counted and the attempt is recorded, but the
   * task stays live, with the copy as it is, or RUNNING with the original, which is then `alone`: the row gets the
   * original's node and times, keeps the copy's generation, and no attempt matches it but the original. The last one to end
   * moves the task as TaskStore.settle would.
   */
  settle(epoch: number, item: Settlement): Promise<CopySettled>;
  /** Forgets the originals of a job that is being cancelled; each is recorded as cancelled. Repeating is harmless. */
  cancel(epoch: number, job: number): Promise<void>;
  /** The valid originals of jobs that have not ended; how a new leader learns of them, together with TaskStore.live. */
  live(): Promise<OriginalAttempt[]>;
  /** Running times of completed tasks among the last `rows` of the job by index, ascending, in milliseconds. */
  runTimesMs(job: number, rows: number): Promise<number[]>;
}

export interface NodeRow {
  seq: number;
  id: string;
  name: string;
  capabilities: Capabilities;
  version: string;
  bootId: string;
  reliability: number;
  finished: number;
  draining: boolean;
  revoked: boolean;
  certificateSerial: string;
  certificateFingerprint: string;
  certificateExpiresAtMs: number;
  lastHeartbeatAtMs: number | undefined;
}

export interface NodeStore {
  all(): Promise<NodeRow[]>;
  /** By name: a node that returns keeps its id and number. */
  upsert(
    node: Omit<NodeRow, 'seq' | 'draining' | 'revoked' | 'reliability' | 'finished' | 'lastHeartbeatAtMs'>,
  ): Promise<NodeRow>;
  setDraining(name: string, draining: boolean): Promise<NodeRow | undefined>;
  setRevoked(name: string, revoked: boolean): Promise<void>;
  /** Heartbeat times and learned reliability, in one statement every few seconds. */
  saveVitals(rows: { seq: number; reliability: number; finished: number; lastHeartbeatAtMs: number }[]): Promise<void>;
}

export interface CertificateRow {
  serial: string;
  role: Role;
  name: string;
  fingerprint: string;
  publicKeyDigest: string;
  notBeforeMs: number;
  notAfterMs: number;
  revokedAtMs: number | undefined;
  tokenId: string | undefined;
  pem: string;
}

export interface CertificateStore {
  /** @throws MeshError CONFLICT when an unrevoked, unexpired certificate of this role and name belongs to another key and `sameHolder` is false */
  record(row: CertificateRow, options: { sameHolder: boolean }): Promise<void>;
  list(): Promise<CertificateRow[]>;
  /** Unrevoked and unexpired ones of this role and name. */
  holders(role: Role, name: string): Promise<CertificateRow[]>;
  /** By name or serial; returns what was revoked now. */
  revoke(nameOrSerial: string): Promise<CertificateRow[]>;
  /** Serials revoked and not yet expired: the denylist. */
  revokedSerials(): Promise<string[]>;
}

export interface TokenRow {
  id: string;
  secretDigest: string;
  role: Role;
  name: string | undefined;
  replace: boolean;
  usesLeft: number;
  /** What it was spent for: the digest of a public key, and of a repeated purchase the serial it replaces too. */
  spentBy?: readonly string[];
  expiresAtMs: number;
  createdBy: string;
}

export interface TokenStore {
  create(row: TokenRow): Promise<void>;
  list(): Promise<TokenRow[]>;
  revoke(id: string): Promise<boolean>;
  /** The token, whatever its state; undefined when unknown. */
  get(id: string): Promise<TokenRow | undefined>;
  /**
   * Takes one use for this purchase if it is unexpired and has one left; exactly one of many racing callers gets the
   * last. For a purchase that has one it is true again and takes none.
   */
  spend(id: string, purchase: string, nowMs: number): Promise<boolean>;
  /** The certificate this token already bought for this public key. */
  boughtWith(id: string, publicKeyDigest: string): Promise<CertificateRow | undefined>;
}

export interface LeaderRow {
  epoch: number;
  holder: string;
  renewals: number;
}

export interface LeaderStore {
  read(): Promise<LeaderRow | undefined>;
  /** Takes the lease if the row is still as it was seen; returns the new epoch. */
  take(seen: LeaderRow | undefined, holder: string): Promise<number | undefined>;
  /** False when another epoch rules. */
  renew(epoch: number): Promise<boolean>;
  /** Gives the lease back: nobody holds it then (holder ''), and whoever looks next may take it. */
  release(epoch: number): Promise<void>;
}

export interface CoordinatorRow {
  /** As the holder in the leader's lease. */
  id: string;
  name: string;
  /** As `host:port`. */
  addresses: string[];
  version: string;
}

export interface CoordinatorStore {
  /** Writes one's own row, as seen now. */
  announce(row: CoordinatorRow): Promise<void>;
  /** Those seen within the time, by name; ages by the database's clock alone. */
  list(maxAgeMs: number): Promise<(CoordinatorRow & { ageMs: number; leader: boolean })[]>;
  /** Takes one's own row away. */
  withdraw(id: string): Promise<void>;
}

export interface BlobStore {
  missing(digests: string[]): Promise<string[]>;
  /** Stored now; known ones count as used now. */
  record(blobs: readonly { digest: string; sizeBytes: number }[]): Promise<void>;
  unusedSince(ms: number, limit: number): Promise<string[]>;
  touch(digests: string[]): Promise<void>;
  forget(digests: string[]): Promise<void>;
}

/** Bytes of stored files in parts of BLOB_PART_BYTES, the last one shorter; an empty file has one empty part. */
export interface BlobContentStore {
  /** Which of these are not there as a whole. */
  absent(digests: string[]): Promise<string[]>;
  /** Part 0 last: it says that the others are there. Repeating is harmless. */
  put(digest: string, part: number, bytes: Uint8Array): Promise<void>;
  get(digest: string, part: number): Promise<Buffer | undefined>;
}

export const BLOB_PART_BYTES = 1 << 20;

export interface AuditStore {
  append(entry: { actor: string; action: string; target: string; detail: Record<string, unknown> }): Promise<void>;
}

export interface SettingStore {
  get(key: string): Promise<string | undefined>;
  /** Sets it if it is absent; returns the value that holds. */
  claim(key: string, value: string): Promise<string>;
}

export interface Store {
  readonly jobs: JobStore;
  readonly tasks: TaskStore;
  readonly copies: CopyStore;
  readonly nodes: NodeStore;
  readonly certificates: CertificateStore;
  readonly tokens: TokenStore;
  readonly leader: LeaderStore;
  readonly coordinators: CoordinatorStore;
  readonly blobs: BlobStore;
  readonly audit: AuditStore;
  readonly settings: SettingStore;
  /** Answers `select 1`; throws MeshError DATABASE_DOWN. */
  ping(): Promise<void>;
  close(): Promise<void>;
}
