/**
 * A coordinator without its door and its CA: what every coordinator does, leader or not, and the term while it leads.
 * Whoever asks for a part of the term when there is none hears NOT_LEADER, with the place to go instead.
 */
import { join } from 'node:path';
import type { Finding } from '../common/finding.js';
import { type Service, ServiceGroup } from '../common/lifecycle.js';
import { KindRegistry } from './core/work.js';
import type { ControlPlaneOptions, StandingParts } from './parts.js';
import { Audit } from './services/audit.js';
import { AuditReader } from './services/audit-reader.js';
import { AuditWitness } from './services/audit-witness.js';
import { BlobContent } from './services/blob-content.js';
import { BlobDepot } from './services/blob-depot.js';
import { Changes } from './services/changes.js';
import { Approvals } from './services/approvals.js';
import { Denylist } from './services/denylist.js';
import { examine } from './services/doctor/doctor.js';
import { Enrollment } from './services/enrollment.js';
import type { LiveNode } from './services/fleet.js';
import { Issuance } from './services/issuance.js';
import { Jobs } from './services/jobs.js';
import { Leadership } from './services/leadership.js';
import { lifetimeOf } from './services/lifetimes.js';
import { LogStore } from './services/log-store.js';
import { Metrics } from './services/metrics.js';
import { observed } from './services/observed-store.js';
import { Queries } from './services/queries.js';
import { Recovery } from './services/recovery.js';
import { RevocationList } from './services/revocation-list.js';
import { Roster } from './services/roster.js';
import { Secrets } from './services/secrets.js';
import { storedNodes } from './services/stored-nodes.js';
import { livenessOf, Term } from './term.js';

export type { ControlPlaneOptions } from './parts.js';

export class ControlPlane implements Service {
  readonly name = 'control-plane';
  readonly metrics: Metrics;
  readonly roster: Roster;
  readonly audit: Audit;
  readonly auditReader: AuditReader;
  readonly doctor: { readonly name: string; examine(): Promise<Finding[]> };
  readonly denylist: Denylist;
  readonly revocationList: RevocationList;
  readonly issuance: Issuance;
  readonly approvals: Approvals;
  readonly enrollment: Enrollment;
  readonly recovery: Recovery;
  readonly blobs: BlobDepot;
  readonly secrets: Secrets;
  readonly #options: ControlPlaneOptions;
  readonly #parts: StandingParts;
  /** Over the store alone. */
  readonly #reads: Queries;
  readonly #leadership: Leadership;
  readonly #services = new ServiceGroup('services');
  #term: Term | undefined;

  constructor(options: ControlPlaneOptions) {
    this.#options = options;
    const { config, clock, log, random, freeBytes } = options;
    const metrics = options.metrics ?? new Metrics();
    this.metrics = metrics;
    const store = observed(options.store, clock, (op, seconds, rows) => {
      metrics.storeSeconds.observe({ op }, seconds);
      metrics.storeRows.observe({ op }, rows);
    });
    const { certificates, tokens, nodes } = store;
    const name = options.name ?? options.holder;
    const audit = this.#services.add(new Audit({ store: store.audit, name, clock, log }));
    this.audit = audit;
    const witness = new AuditWitness({ store: store.audit, file: options.auditHeadFile, clock, log });
    this.auditReader = new AuditReader(store.audit, this.#services.add(witness), name);
    const { databaseWarning } = options;
    const examined = { config, store, witness, databaseWarning };
    this.doctor = { name, examine: () => examine({ ...examined, nowMs: clock.wallMs() }) };
    this.revocationList = new RevocationList({ certificates, signer: options.signer, clock });
    this.denylist = this.#services.add(
      new Denylist({
        ...{ certificates, clock, log },
        cut: (isRevoked) => {
          options.onRevoked(isRevoked);
          this.revocationList.outdated();
        },
        fence: async (agents) => {
          for (const name of await nodes.revokeUncertified(agents)) this.#term?.shutOut(name);
        },
      }),
    );
    this.issuance = new Issuance({
      ...{ signer: options.signer, certificates, audit, denylist: this.denylist, clock, log },
      lifetimeOf: (role) => lifetimeOf(role, config),
    });
    const rootDigest = () => options.signer.rootDigest;
    this.approvals = new Approvals({ requests: store.joinRequests, audit, clock, log, rootDigest });
    this.enrollment = new Enrollment({
      ...{ tokens, nodes, audit, clock, log, issuance: this.issuance, approvals: this.approvals },
      approveNodes: config.approveNodes,
      sharedDatabase: config.databaseUrl !== undefined,
      failuresPerMinute: config.maxFailedJoins,
      onOutcome: (outcome) => metrics.enrollments.inc({ outcome }),
    });
    this.recovery = new Recovery({
      ...{ certificates, nodes, audit, clock, log, issuance: this.issuance, withinMs: config.recoverWithin },
    });
    const logs = new LogStore(join(config.dataDir, 'logs'), config.maxLogBytes);
    const content = options.blobContent && new BlobContent(options.blobContent);
    this.blobs = new BlobDepot(join(config.dataDir, 'blobs'), store.blobs, config.maxBlobBytes, clock, content);
    const countMax = config.maxSecrets;
    this.secrets = new Secrets({ countMax, store: store.secrets, audit, log, holder: options.keyHolder });
    const changes = new Changes();
    this.#reads = new Queries(store, new Jobs(new KindRegistry(), changes, config.maxLogBytes), changes, clock);
    this.roster = this.#services.add(
      new Roster({
        ...{ store: store.coordinators, clock, log, id: options.holder, name },
        addresses: options.coordinators,
        leads: () => this.#leadership.epoch > 0,
        trustGeneration: () => options.trustGeneration?.() ?? 0,
      }),
    );
    const coordinators = () => this.roster.addresses();
    const holdsLead = () => this.holdsLead;
    const { issuance, blobs, secrets } = this;
    const own = { store, metrics, audit, issuance, blobs, secrets, logs, coordinators, holdsLead };
    const renewalWanted = options.renewalWanted ?? (() => 0);
    this.#parts = { config, clock, log, random, freeBytes, renewalWanted, ...own };
    this.#leadership = this.#services.add(
      new Leadership({
        ...{ store: store.leader, holder: options.holder, leaseMs: config.leaderLease, clock, log },
        onLeading: (epoch) => this.#begin(epoch),
        onLost: () => this.#end(),
      }),
    );
    const { authorities } = options;
    const epoch = () => this.#leadership.epoch;
    const auditBroken = () => witness.broken !== undefined;
    metrics.observe({ store, nodes: () => this.#term?.fleet.all() ?? [], epoch, auditBroken, authorities });
  }

  /** The present term; undefined while another coordinator leads. */
  get term(): Term | undefined {
    return this.#term;
  }

  /** Whether no other coordinator can lead now; see `Leadership.holds`. */
  get holdsLead(): boolean {
    return this.#leadership.holds(this.#options.clock.monotonicMs());
  }

  /** @throws MeshError NOT_LEADER that names the leader and where it may be reached */
  lead(): Term {
    if (this.#term) return this.#term;
    throw this.roster.notLeader();
  }

  /** Resolves when this coordinator leads, or stands by because another one may. */
  start(): Promise<void> {
    return this.#services.start();
  }

  /** Ends every session and every idle stream, so that the door need not wait for them; the agents work on and come back. */
  sayGoodbye(): void {
    this.#term?.sayGoodbye('the coordinator is stopping');
  }

  stop(): Promise<void> {
    return this.#services.stop();
  }

  /** What keeps this coordinator from serving; undefined when nothing does. */
  async notReady(): Promise<string | undefined> {
    const answers = await this.#options.store.ping().then(
      () => true,
      () => false,
    );
    if (!answers) return 'the database does not answer';
    return this.#term ? undefined : 'standby';
  }

  async #begin(epoch: number): Promise<void> {
    const term = new Term(epoch, this.#parts);
    try {
      await term.start();
    } catch (error) {
      await term.stop();
      throw error;
    }
    this.#term = term;
    this.roster.refresh();
  }

  async #end(): Promise<void> {
    const term = this.#term;
    this.#term = undefined;
    this.roster.refresh();
    await term?.stop();
  }

  /** The nodes as they were last written down; how they are now only the leader knows. */
  async storedNodes(): Promise<LiveNode[]> {
    const { config, store, clock } = this.#parts;
    return storedNodes(await store.nodes.all(), livenessOf(config), clock);
  }

  /** Of the jobs: what the leader knows of live ones, or what is stored. */
  get queries(): Queries {
    return this.#term?.queries ?? this.#reads;
  }

  get changes() {
    return this.lead().changes;
  }

  get ledger() {
    return this.lead().ledger;
  }

  get jobs() {
    return this.lead().jobs;
  }

  get fleet() {
    return this.lead().fleet;
  }

  get intake() {
    return this.lead().intake;
  }

  get results() {
    return this.lead().results;
  }

  get dispatch() {
    return this.lead().dispatch;
  }

  get admission() {
    return this.lead().admission;
  }

  get vitals() {
    return this.lead().vitals;
  }

  get cancellation() {
    return this.lead().cancellation;
  }

  get resubmission() {
    return this.lead().resubmission;
  }

  get explain() {
    return this.lead().explain;
  }

  get logIntake() {
    return this.lead().logIntake;
  }

  get logReader() {
    return this.lead().logReader;
  }
}
