/**
 * The interfaces the coordinator's services drive the outside through. The store's are implemented by
 * coordinator/store (PostgreSQL); a second implementation, in memory, belongs to the simulator.
 *
 * Every write that moves a task takes the leader's epoch and is one guarded statement in one transaction. What it
 * returns is what happened; what it does not return did not match its guard and is stale (docs/architecture.md).
 */
import type { AuditStore } from './ports/audit.js';
import type { BlobStore } from './ports/blobs.js';
import type { CoordinatorStore, LeaderStore } from './ports/coordinators.js';
import type { CopyStore } from './ports/copies.js';
import type { CertificateStore, JoinRequestStore, TokenStore } from './ports/identity.js';
import type { JobStore } from './ports/jobs.js';
import type { NamespaceStore } from './ports/namespaces.js';
import type { NodeStore } from './ports/nodes.js';
import type { SecretStore } from './ports/secrets.js';
import type { TaskStore } from './ports/tasks.js';
import type { TrustStore } from './ports/trust.js';

export * from './ports/audit.js';
export * from './ports/blobs.js';
export * from './ports/coordinators.js';
export * from './ports/copies.js';
export * from './ports/identity.js';
export * from './ports/jobs.js';
export * from './ports/namespaces.js';
export * from './ports/nodes.js';
export * from './ports/runs.js';
export * from './ports/secrets.js';
export * from './ports/tasks.js';
export * from './ports/trust.js';

export interface SettingStore {
  get(key: string): Promise<string | undefined>;
  /** Sets it if it is absent; returns the value that holds. */
  claim(key: string, value: string): Promise<string>;
  /** It is absent afterwards. */
  release(key: string): Promise<void>;
}

export interface Store {
  readonly jobs: JobStore;
  readonly tasks: TaskStore;
  readonly copies: CopyStore;
  readonly namespaces: NamespaceStore;
  readonly nodes: NodeStore;
  readonly certificates: CertificateStore;
  readonly tokens: TokenStore;
  readonly joinRequests: JoinRequestStore;
  readonly leader: LeaderStore;
  readonly coordinators: CoordinatorStore;
  readonly blobs: BlobStore;
  readonly secrets: SecretStore;
  readonly audit: AuditStore;
  readonly settings: SettingStore;
  readonly trust: TrustStore;
  /** Answers `select 1`; throws MeshError DATABASE_DOWN. */
  ping(): Promise<void>;
  close(): Promise<void>;
}
