import type { ColumnType, Generated } from 'kysely';
import type { Role } from '../../common/identity/identity.js';
import type { JobStatus } from '../core/job.js';
import type { AttemptOutcome, TaskStatus } from '../core/task.js';
import type { TrustPhase } from '../ports.js';

/**
 * The tables as migrations/ makes them, for Kysely. Times are milliseconds since 1970 on this side and `timestamptz` on
 * the other; `bigint` is a number (nothing here comes near 2^53).
 */
type Time = number;
type DefaultTime = Generated<Time>;
type Json<T> = ColumnType<unknown, T, T>;

export interface JobTable {
  seq: Generated<number>;
  id: string;
  submitter: string;
  idempotency_key: string;
  spec_digest: string;
  name: string;
  type: 'process' | 'function';
  priority: number;
  on_failure: 'finish' | 'fail-fast' | 'partial';
  spec: Json<object>;
  retry_of: string | null;
  has_inputs: boolean;
  status: Generated<JobStatus>;
  cancelling: Generated<boolean>;
  error: string | null;
  namespace: Generated<string>;
  staged_bytes: Generated<number>;
  total: number;
  materialised: Generated<number>;
  skipped: Generated<number>;
  cursor: Generated<number>;
  queued: Generated<number>;
  assigned: Generated<number>;
  running: Generated<number>;
  retrying: Generated<number>;
  completed: Generated<number>;
  failed: Generated<number>;
  cancelled: Generated<number>;
  created_at: DefaultTime;
  started_at: Time | null;
  completed_at: Time | null;
}

export interface JobInputTable {
  job_id: string;
  from_index: number;
  to_index: number;
  inputs: string[];
  created_at: DefaultTime;
}

export interface TaskTable {
  job: number;
  index: number;
  generation: Generated<number>;
  queued_at: DefaultTime;
  failures: Generated<number>;
  losses: Generated<number>;
  status: Generated<TaskStatus>;
  node: number | null;
  exit_code: number | null;
  due_at: Time | null;
  assigned_at: Time | null;
  running_at: Time | null;
  started_at: Time | null;
  finished_at: Time | null;
  run_us: number | null;
  peak_memory_bytes: number | null;
  failed_nodes: number[] | null;
  input: string | null;
  last_error: string | null;
  result_json: string | null;
  output: Uint8Array | null;
}

export interface TaskAttemptTable {
  job: number;
  index: number;
  generation: number;
  attempt: number;
  node: number;
  outcome: AttemptOutcome;
  error: string | null;
  exit_code: number | null;
  signal: string | null;
  started_at: Time | null;
  finished_at: Time;
  output: Uint8Array | null;
}

export interface TaskOriginalTable {
  job: number;
  index: number;
  generation: number;
  node: number;
  copy_generation: number;
  attempt: number;
  alone: Generated<boolean>;
  running_at: Time;
  started_at: Time;
}

export interface NamespaceTable {
  name: string;
  running_max: number | null;
  queued_max: number | null;
  cpu_millis_max: number | null;
  bytes_max: number | null;
  created_at: DefaultTime;
}

export interface NamespaceMemberTable {
  submitter: string;
  namespace: string;
}

export interface NodeTable {
  seq: Generated<number>;
  id: string;
  name: string;
  capabilities: Json<object>;
  version: string;
  boot_id: string;
  reliability: Generated<number>;
  finished: Generated<number>;
  draining: Generated<boolean>;
  revoked: Generated<boolean>;
  removed: Generated<boolean>;
  certificate_serial: string;
  certificate_fingerprint: string;
  certificate_expires_at: Time;
  last_heartbeat_at: Time | null;
  created_at: DefaultTime;
}

export interface CertificateTable {
  serial: string;
  role: Role;
  name: string;
  fingerprint: string;
  public_key_digest: string;
  not_before: Time;
  not_after: Time;
  revoked_at: Time | null;
  token_id: string | null;
  pem: string;
  lifetime_ms: number | null;
  root: string | null;
  trusts: string[] | null;
  created_at: DefaultTime;
}

export interface JoinTokenTable {
  id: string;
  secret_digest: string;
  role: Role;
  name: string | null;
  replace: boolean;
  uses_left: number;
  spent_by: ColumnType<string[], string[] | undefined, string[]>;
  expires_at: Time;
  created_by: string;
  created_at: DefaultTime;
}

export interface JoinRequestTable {
  public_key_digest: string;
  token_id: string;
  name: string;
  csr: Uint8Array;
  address: string;
  requested_at: Time;
  expires_at: Time;
  refused_by: string | null;
}

export interface BlobTable {
  digest: string;
  size_bytes: number;
  created_at: DefaultTime;
  last_used_at: DefaultTime;
}

export interface BlobContentTable {
  digest: string;
  part: number;
  bytes: Buffer;
  created_at: DefaultTime;
}

export interface AuditTable {
  seq: number;
  at: Time;
  actor: string;
  action: string;
  target: string;
  /** JSON as it was hashed. */
  detail: string;
  address: string;
  certificate: string;
  previous: Buffer;
  hash: Buffer;
}

export interface SecretTable {
  owner: string;
  name: string;
  revision: string;
  key_id: string;
  sealed: Uint8Array;
  size_bytes: number;
  is_text: boolean;
  set_by: string;
  set_at: DefaultTime;
}

export interface LeaderTable {
  id: Generated<number>;
  epoch: number;
  holder: string;
  renewals: Generated<number>;
}

export interface CoordinatorTable {
  id: string;
  name: string;
  addresses: string[];
  version: string;
  seen_at: DefaultTime;
  trust_generation: Generated<number>;
}

export interface TrustTable {
  id: Generated<number>;
  generation: Generated<number>;
  phase: Generated<TrustPhase>;
  root: string;
  next_root: string | null;
  next_root_endorsement: string | null;
  started_at: Time | null;
}

export interface SettingTable {
  key: string;
  value: string;
}

export interface TaskRangeTable {
  job: number;
  first: number;
  after: number;
  node: number;
  assigned_at: DefaultTime;
  out: Generated<string>;
}

export interface TaskBlockTable {
  job: number;
  first: number;
  after: number;
  node: number;
  assigned_at: Time;
  settled_at: DefaultTime;
  exit_code: number | null;
  age_ms: string;
  run_us: string | null;
  results: string | null;
  result: string | null;
}

export interface Schema {
  audit: AuditTable;
  blob: BlobTable;
  blob_content: BlobContentTable;
  certificate: CertificateTable;
  coordinator: CoordinatorTable;
  job: JobTable;
  job_input: JobInputTable;
  join_request: JoinRequestTable;
  join_token: JoinTokenTable;
  leader: LeaderTable;
  namespace: NamespaceTable;
  namespace_member: NamespaceMemberTable;
  node: NodeTable;
  secret: SecretTable;
  setting: SettingTable;
  task: TaskTable;
  task_attempt: TaskAttemptTable;
  task_block: TaskBlockTable;
  task_original: TaskOriginalTable;
  task_range: TaskRangeTable;
  trust: TrustTable;
}
