/**
 * What a coordinator does while it leads, made anew for each lead and stopped at its end: nothing that one term held in
 * memory reaches the next, so a term begins as a fresh process would, with what is committed. Its epoch is fixed; every
 * write carries it, and once another rules they are refused in SQL, however late this process finds out.
 */
import { MeshError } from '../common/errors.js';
import { type Service, ServiceGroup } from '../common/lifecycle.js';
import { Ledger } from './core/ledger.js';
import { PLAN_DEFAULTS } from './core/scheduler/plan.js';
import { KindRegistry } from './core/work.js';
import type { StandingParts } from './parts.js';
import { Admission } from './services/admission.js';
import { Cancellation } from './services/cancellation.js';
import { Changes } from './services/changes.js';
import { Copies } from './services/copies.js';
import { Dispatch } from './services/dispatch.js';
import { Explain } from './services/explain.js';
import { Fleet } from './services/fleet.js';
import { Intake } from './services/intake.js';
import { Jobs } from './services/jobs.js';
import { LogIntake } from './services/log-intake.js';
import { LogReader } from './services/log-reader.js';
import { Namespaces } from './services/namespaces.js';
import { PipelineDelay } from './services/pipeline-delay.js';
import { Queries } from './services/queries.js';
import { Removal } from './services/removal.js';
import { Resubmission } from './services/resubmission.js';
import { Results } from './services/results.js';
import { Retention } from './services/retention.js';
import { Speculation } from './services/speculation.js';
import { Uploads } from './services/uploads.js';
import { Vitals } from './services/vitals.js';

const SUSPECT_AFTER_MISSED = 3;
/** However slow the database is, agents are not given more than this long's work ahead. */
const PIPELINE_DELAY_MS_MAX = 1000;

export class Term implements Service {
  readonly name = 'term';
  readonly changes = new Changes();
  readonly ledger = new Ledger();
  readonly jobs: Jobs;
  readonly fleet: Fleet;
  readonly copies: Copies;
  readonly namespaces: Namespaces;
  readonly intake: Intake;
  readonly results: Results;
  readonly dispatch: Dispatch;
  readonly admission: Admission;
  readonly vitals: Vitals;
  readonly cancellation: Cancellation;
  readonly resubmission: Resubmission;
  readonly removal: Removal;
  readonly queries: Queries;
  readonly explain: Explain;
  readonly logIntake: LogIntake;
  readonly logReader: LogReader;
  readonly uploads: Uploads;
  readonly #parts: StandingParts;
  readonly #services: ServiceGroup;
  readonly #leaving = new AbortController();
  readonly #ended = new AbortController();

  constructor(
    readonly epoch: number,
    parts: StandingParts,
  ) {
    this.#parts = parts;
    const { config, store, clock, log, random, metrics, audit, blobs, secrets, logs } = parts;
    const { ledger, changes } = this;
    const services = new ServiceGroup(`term ${epoch}`);
    this.#services = services;
    const onCapacity = () => this.dispatch.wake();
    const pipeline = new PipelineDelay(clock, PLAN_DEFAULTS.pipelineDelayMs, PIPELINE_DELAY_MS_MAX);
    const heartbeatMs = config.heartbeat;
    const leaseMs = config.nodeLease;
    const jobs = new Jobs(new KindRegistry(), changes, config.maxLogBytes);
    const fleet = new Fleet(clock, log, livenessOf(config), ledger);
    const namespaces = new Namespaces({ store: store.namespaces, jobs, ledger, audit, onChanged: onCapacity });
    const copies = new Copies({ store, jobs, fleet, ledger, clock, onOutcome: metrics.copyEnded });
    const own = { ledger, changes, jobs, fleet, copies, namespaces, onCapacity, pipeline };
    const onUnfit: Results['unfit'] = (attempts, why) => this.results.unfit(attempts, why);
    const shared = { store, audit, clock, log, random, epoch: () => epoch, secrets, onUnfit, ...own };
    this.copies = copies;
    this.namespaces = namespaces;
    this.jobs = jobs;
    this.fleet = fleet;

    services.add({ name: 'state', start: () => this.#load(), stop: async () => undefined });
    services.add(namespaces);
    const retention = services.add(
      new Retention({
        ...{ store, jobs, logs, blobs, clock, log, directory: config.dataDir },
        retentionMs: config.retention,
        minFreeBytes: config.minFreeBytes,
        freeBytes: parts.freeBytes,
      }),
    );
    this.results = services.add(
      new Results({
        ...shared,
        onReturned: () => this.dispatch.returned(),
        onFailFast: (job, reason) => this.#failFast(job, reason),
        onStale: (count) => metrics.stale.inc(count),
        observe: metrics.ofResults,
        jobBytesMax: config.maxJobResultBytes,
      }),
    );
    this.dispatch = services.add(
      new Dispatch({ ...shared, settings: planSettings(config), observe: metrics.ofDispatch }),
    );
    services.add(
      new Speculation({
        ...shared,
        settings: { factor: config.stragglerFactor, floorMs: config.stragglerFloor },
        nodes: () => this.dispatch.nodes(),
        onAssigned: (node) => metrics.ofDispatch.assigned(node, 1),
      }),
    );
    this.intake = services.add(
      new Intake({
        ...{ ...shared, blobs, onWork: onCapacity, dispatch: this.dispatch },
        limits: config,
        accepts: () => retention.hasRoom(),
      }),
    );
    const { coordinators, holdsLead, renewalWanted } = parts;
    this.vitals = services.add(
      new Vitals({
        ...{ ...shared, nodes: store.nodes, results: this.results, heartbeatMs, coordinators, holdsLead },
        renewalWanted,
      }),
    );
    this.logIntake = services.add(new LogIntake({ ...shared, logs, jobBytesMax: config.maxJobLogBytes }));
    this.uploads = new Uploads(config, () => retention.hasRoom());
    this.admission = new Admission({ ...shared, results: this.results, heartbeatMs, leaseMs, coordinators, holdsLead });
    this.cancellation = services.add(new Cancellation(shared));
    this.resubmission = new Resubmission(store, this.intake);
    this.removal = new Removal({ ...shared, results: this.results, issuance: parts.issuance });
    this.queries = new Queries(store, jobs, changes, clock, (job, from) => ledger.indexesOf(job, from));
    this.explain = new Explain(jobs, fleet, this.dispatch, ledger, namespaces);
    this.logReader = new LogReader(store, logs, jobs, changes);
  }

  /** Aborts when the term is over: what waits for something to change waits in vain from then on. */
  get ended(): AbortSignal {
    return this.#ended.signal;
  }

  /** Aborts before that, when nothing is begun any more: streams end that are only kept for what may come. */
  get leaving(): AbortSignal {
    return this.#leaving.signal;
  }

  start(): Promise<void> {
    return this.#services.start();
  }

  /** Ends every session, naming the other coordinators; the agents work on and go there. */
  sayGoodbye(reason: string): void {
    this.#leaving.abort();
    const coordinators = this.#parts.coordinators();
    for (const node of this.fleet.all()) node.session?.close(reason, false, coordinators);
  }

  async stop(): Promise<void> {
    this.sayGoodbye('this coordinator does not lead any more');
    this.#ended.abort(new MeshError('LEADERSHIP_LOST', `the term of epoch ${this.epoch} is over`));
    await this.#services.stop();
  }

  /**
   * What is live, before anything is decided, so that nothing committed is forgotten or given away twice; and after the
   * lead was taken, because until then another coordinator may have changed it.
   */
  async #load(): Promise<void> {
    const { store, clock } = this.#parts;
    this.fleet.load(await store.nodes.all());
    await store.jobs.withdrawRows(this.epoch);
    for (const row of await store.jobs.live()) this.jobs.add(row);
    const alone = this.copies.load(await store.copies.live(), clock.monotonicMs());
    for (const task of await store.tasks.live()) {
      const job = this.jobs.get(task.job);
      if (!job || alone.has(`${task.job}.${task.index}`)) continue;
      // A night's render that began under the former leader is no young attempt.
      const sinceMs = clock.monotonicMs() - (task.ageMs ?? 0);
      this.ledger.add(task, job.kind, job.row.submitter, sinceMs);
      if (task.status === 'RUNNING') this.ledger.markRunning(task, task.node, sinceMs);
    }
    this.copies.loaded();
  }

  /**
   * No certificate of this agent holds any more: it works again only after a join with a token that names it. What it had
   * goes elsewhere; what is fenced there waits for the end of the lease that it may still believe in.
   */
  shutOut(name: string): void {
    const node = this.fleet.byName(name);
    if (!node) return;
    const leaseLeftMs = node.liveness.leaseLeftMs(this.#parts.clock.monotonicMs());
    this.fleet.revoked(node);
    this.ledger.releaseAll(node.row.seq);
    const attempts = this.ledger.ofNode(node.row.seq);
    if (attempts.length > 0)
      this.results.lost(attempts, 'node-lost', `the certificate of ${name} was revoked`, leaseLeftMs);
    this.dispatch.wake();
  }

  #failFast(seq: number, reason: string): void {
    const job = this.jobs.get(seq);
    if (!job || job.row.cancelling) return;
    this.cancellation.cancel(job.row, reason).catch((error: unknown) => {
      this.#parts.log.warn({ event: 'job.fail-fast-failed', job: job.row.id, err: error });
    });
  }
}

export const livenessOf = (config: StandingParts['config']) => ({
  heartbeatMs: config.heartbeat,
  leaseMs: config.nodeLease,
  suspectAfterMissed: SUSPECT_AFTER_MISSED,
});

const planSettings = (config: StandingParts['config']) => ({
  ...PLAN_DEFAULTS,
  strategy: config.strategy,
  coefficients: {
    rtt: config.weightRtt,
    load: config.weightLoad,
    queue: config.weightQueue,
    reliability: config.weightReliability,
    speed: config.weightSpeed,
  },
  prefillMax: config.prefillMax,
});
