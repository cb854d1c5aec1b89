import type { Clock } from '../common/clock.js';
import type { Identity } from '../common/identity/identity.js';
import { type Service, ServiceGroup } from '../common/lifecycle.js';
import { MeshError } from '../common/errors.js';
import type { Logger } from '../common/log.js';
import { join } from 'node:path';
import { Ledger } from './core/ledger.js';
import { PLAN_DEFAULTS } from './core/scheduler/plan.js';
import { KindRegistry } from './core/work.js';
import type { CoordinatorConfig } from './coordinator.js';
import type { Store } from './ports.js';
import { Admission } from './services/admission.js';
import { BlobDepot } from './services/blob-depot.js';
import { Cancellation } from './services/cancellation.js';
import { Changes } from './services/changes.js';
import { Denylist } from './services/denylist.js';
import { Dispatch } from './services/dispatch.js';
import { Enrollment } from './services/enrollment.js';
import { Explain } from './services/explain.js';
import { Fleet } from './services/fleet.js';
import { Intake } from './services/intake.js';
import { Issuance, type Signer } from './services/issuance.js';
import { Jobs } from './services/jobs.js';
import { Leadership } from './services/leadership.js';
import { LogIntake } from './services/log-intake.js';
import { LogReader } from './services/log-reader.js';
import { LogStore } from './services/log-store.js';
import { observed } from './services/observed-store.js';
import { Metrics } from './services/metrics.js';
import { PipelineDelay } from './services/pipeline-delay.js';
import { Queries } from './services/queries.js';
import { Resubmission } from './services/resubmission.js';
import { Results } from './services/results.js';
import { Retention } from './services/retention.js';
import { Vitals } from './services/vitals.js';

export interface ControlPlaneOptions {
  config: CoordinatorConfig;
  store: Store;
  signer: Signer;
  rootDigest: string;
  holder: string;
  coordinators: () => string[];
  onRevoked: (isRevoked: (identity: Identity) => boolean) => void;
  clock: Clock;
  log: Logger;
  random: () => number;
  onFatal: (error: MeshError) => void;
}

const SUSPECT_AFTER_MISSED = 3;
/** However slow the database is, agents are not given more than this long's work ahead. */
const PIPELINE_DELAY_MS_MAX = 1000;

/** All services of a coordinator, wired; the door and the CA stand outside. */
export class ControlPlane implements Service {
  readonly name = 'control-plane';
  readonly metrics = new Metrics();
  readonly changes = new Changes();
  readonly ledger = new Ledger();
  readonly jobs: Jobs;
  readonly fleet: Fleet;
  readonly denylist: Denylist;
  readonly issuance: Issuance;
  readonly enrollment: Enrollment;
  readonly blobs: BlobDepot;
  readonly intake: Intake;
  readonly results: Results;
  readonly dispatch: Dispatch;
  readonly admission: Admission;
  readonly vitals: Vitals;
  readonly cancellation: Cancellation;
  readonly resubmission: Resubmission;
  readonly queries: Queries;
  readonly explain: Explain;
  readonly logIntake: LogIntake;
  readonly logReader: LogReader;
  readonly #options: ControlPlaneOptions;
  readonly #leadership: Leadership;
  readonly #services = new ServiceGroup('services');

  constructor(options: ControlPlaneOptions) {
    this.#options = options;
    const { config, clock, log, random } = options;
    const { ledger, changes, metrics } = this;
    const store = observed(options.store, clock, (op, seconds, rows) => {
      metrics.storeSeconds.observe({ op }, seconds);
      metrics.storeRows.observe({ op }, rows);
    });
    const epoch = () => this.#leadership.epoch;
    const onCapacity = () => this.dispatch.wake();
    const pipeline = new PipelineDelay(clock, PLAN_DEFAULTS.pipelineDelayMs, PIPELINE_DELAY_MS_MAX);
    const shared = { store, clock, log, random, epoch, ledger, changes, onCapacity, pipeline };
    const heartbeatMs = config.heartbeat;
    const leaseMs = config.nodeLease;

    this.jobs = new Jobs(new KindRegistry(), changes, config.maxLogBytes);
    const { jobs } = this;
    this.fleet = new Fleet(clock, log, { heartbeatMs, leaseMs, suspectAfterMissed: SUSPECT_AFTER_MISSED }, ledger);
    const { fleet } = this;
    this.#leadership = this.#services.add(
      new Leadership({
        store: store.leader,
        holder: options.holder,
        leaseMs: config.leaderLease,
        clock,
        log,
        onLost: () =>
          options.onFatal(new MeshError('LEADERSHIP_LOST', 'another coordinator leads on this database now')),
      }),
    );
    this.#services.add({ name: 'state', start: () => this.#load(), stop: async () => undefined });
    this.denylist = this.#services.add(new Denylist(store.certificates, clock, log, options.onRevoked));
    const { audit, certificates, tokens, nodes } = store;
    this.issuance = new Issuance({
      ...{ signer: options.signer, certificates, audit, denylist: this.denylist, clock, log },
      onNodeRevoked: async (name) => {
        await nodes.setRevoked(name, true);
        fleet.revoked(name);
      },
    });
    this.enrollment = new Enrollment({
      ...{ tokens, nodes, audit, clock, log, issuance: this.issuance, rootDigest: options.rootDigest },
      onOutcome: (outcome) => metrics.enrollments.inc({ outcome }),
    });
    const logs = new LogStore(join(config.dataDir, 'logs'), config.maxLogBytes);
    this.blobs = new BlobDepot(join(config.dataDir, 'blobs'), store.blobs, config.maxBlobBytes);
    const retention = this.#services.add(
      new Retention({
        ...{ store, jobs, logs, blobs: this.blobs, clock, log, directory: config.dataDir },
        retentionMs: config.retention,
        minFreeBytes: config.minFreeBytes,
      }),
    );
    this.results = this.#services.add(
      new Results({
        ...shared,
        ...{ jobs, fleet },
        onReturned: () => this.dispatch.returned(),
        onFailFast: (job, reason) => this.#failFast(job, reason),
        onStale: (count) => metrics.stale.inc(count),
        observe: {
          retried: (reason) => metrics.retries.inc({ reason }),
          ran: (runMs, waitMs) => {
            metrics.runSeconds.observe(runMs / 1000);
            metrics.waitSeconds.observe(waitMs / 1000);
          },
          jobEnded: (seconds) => metrics.jobSeconds.observe(seconds),
        },
      }),
    );
    const { results } = this;
    this.dispatch = this.#services.add(
      new Dispatch({
        ...shared,
        ...{ jobs, fleet },
        settings: {
          ...PLAN_DEFAULTS,
          strategy: config.strategy,
          coefficients: {
            rtt: config.weightRtt,
            load: config.weightLoad,
            queue: config.weightQueue,
            reliability: config.weightReliability,
          },
          prefillMax: config.prefillMax,
        },
        observe: {
          planned: (seconds) => metrics.planSeconds.observe(seconds),
          assigned: (node, tasks) => metrics.assignments.inc({ node }, tasks),
        },
      }),
    );
    this.intake = this.#services.add(
      new Intake({
        ...{ store, jobs, blobs: this.blobs, clock, log, epoch, onWork: onCapacity },
        liveJobsMax: config.maxLiveJobs,
        accepts: () => retention.accepts,
      }),
    );
    this.vitals = this.#services.add(new Vitals({ ...shared, nodes, fleet, results, heartbeatMs }));
    this.logIntake = this.#services.add(new LogIntake({ logs, jobs, ledger, changes, clock }));
    this.admission = new Admission({
      ...shared,
      ...{ jobs, fleet, results, heartbeatMs, leaseMs, coordinators: options.coordinators },
    });
    this.cancellation = this.#services.add(new Cancellation({ ...shared, jobs, fleet }));
    this.resubmission = new Resubmission(store, this.intake);
    this.queries = new Queries(store, jobs, changes, clock);
    this.explain = new Explain(jobs, fleet, this.dispatch);
    this.logReader = new LogReader(store, logs, jobs, changes);
    metrics.observe({ store, fleet, epoch });
  }

  start(): Promise<void> {
    return this.#services.start();
  }

  /**
   * What is live, before anything is decided, so that nothing committed is forgotten or given away twice; and after the
   * lead was taken, because until then another coordinator may have changed it.
   */
  async #load(): Promise<void> {
    const { store, clock } = this.#options;
    this.fleet.load(await store.nodes.all());
    for (const row of await store.jobs.live()) this.jobs.add(row);
    for (const task of await store.tasks.live()) {
      const job = this.jobs.get(task.job);
      if (!job) continue;
      this.ledger.add(task, job.kind, job.row.submitter, clock.monotonicMs());
      if (task.status === 'RUNNING') this.ledger.markRunning(task, task.node, clock.monotonicMs());
    }
  }

  /** Ends every session, so that the door need not wait for them; the agents work on and come back. */
  sayGoodbye(): void {
    for (const node of this.fleet.all()) node.session?.close('the coordinator is stopping', false);
  }

  stop(): Promise<void> {
    return this.#services.stop();
  }

  /** What keeps this coordinator from serving; undefined when nothing does. */
  async notReady(): Promise<string | undefined> {
    if (this.#leadership.epoch === 0) return 'standby';
    return this.#options.store.ping().then(
      () => undefined,
      () => 'the database does not answer',
    );
  }

  #failFast(seq: number, reason: string): void {
    const job = this.jobs.get(seq);
    if (!job || job.row.cancelling) return;
    this.cancellation.cancel(job.row, reason).catch((error: unknown) => {
      this.#options.log.warn({ event: 'job.fail-fast-failed', job: job.row.id, err: error });
    });
  }
}
