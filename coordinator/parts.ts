import type { Clock } from '../common/clock.js';
import type { Identity } from '../common/identity/identity.js';
import type { Logger } from '../common/log.js';
import type { CoordinatorConfig } from './coordinator.js';
import type { BlobContentStore, Store } from './ports.js';
import type { Audit } from './services/audit.js';
import type { BlobDepot } from './services/blob-depot.js';
import type { Issuance, Signer } from './services/issuance.js';
import type { LogStore } from './services/log-store.js';
import type { KeyHolder, Secrets } from './services/secrets.js';
import type { Metrics } from './services/metrics.js';

/** What a control plane is made from; the door and the CA stand outside. */
export interface ControlPlaneOptions {
  config: CoordinatorConfig;
  store: Store;
  /** Where staged files are kept for other coordinators; undefined where there can be none. */
  blobContent?: BlobContentStore | undefined;
  signer: Signer;
  /** Who has the mesh's key for secrets; nobody is given any when absent. */
  keyHolder?: KeyHolder;
  /** This coordinator's issuer and the roots it trusts, for the metrics. */
  authorities?: () => { role: 'issuer' | 'root'; name: string; notAfterMs: number }[];
  /** The step of a rotation of the root that this coordinator has taken. Default: none. */
  trustGeneration?: () => number;
  /** For the holder of which certificates a renewal is asked for; see `Rotation.wants`. Default: for nobody. */
  renewalWanted?: (serial: string) => number;
  /** This coordinator in the leader's lease: the same after a restart on the same data directory. */
  holder: string;
  /** For people; the holder when absent. */
  name?: string | undefined;
  /** Where this coordinator may be reached, as `host:port`. */
  coordinators: () => string[];
  onRevoked: (isRevoked: (identity: Identity) => boolean) => void;
  clock: Clock;
  log: Logger;
  random: () => number;
  /** Where this coordinator keeps the head of the audit; nowhere when absent. */
  auditHeadFile?: string;
  /** Why the way to the database is not safe; for `mesh doctor --security`. */
  databaseWarning?: string | undefined;
  /** Default: a registry of its own. */
  metrics?: Metrics;
  /** Free space on the disk of this directory, in bytes. Default: what the file system says. */
  freeBytes?: (directory: string) => Promise<number>;
}

/** What outlives a term: the same for every lead this process takes. */
export interface StandingParts {
  config: CoordinatorConfig;
  /** With its statements timed. */
  store: Store;
  clock: Clock;
  log: Logger;
  random: () => number;
  metrics: Metrics;
  audit: Audit;
  issuance: Issuance;
  blobs: BlobDepot;
  logs: LogStore;
  secrets: Secrets;
  freeBytes: ControlPlaneOptions['freeBytes'];
  renewalWanted: (serial: string) => number;
  /** Whether no other coordinator can lead now; see `Leadership.holds`. */
  holdsLead: () => boolean;
  /** Every live coordinator, as `host:port`, the leader's addresses first. */
  coordinators: () => string[];
}
