import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client';
import { packageVersion } from '../../common/package.js';
import type { Store } from '../ports.js';
import type { LiveNode } from './fleet.js';
import type { AttemptOutcome } from '../core/task.js';
import type { CopyOutcome } from './copies.js';
import { Tally } from './tally.js';

const SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200];
const STORE_SECONDS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5];
const ROWS = [1, 3, 10, 30, 100, 300, 1000, 3000, 10_000];

/** Series of certificates at most: those that end first. */
const CERTIFICATES_MAX = 2000;

/** Every metric. Counters move as things happen; gauges are read when Prometheus asks. */
export class Metrics {
  readonly registry = new Registry();
  readonly retries = this.#counter('mesh_task_retries_total', 'Attempts given another try, by reason', 'reason');
  readonly assignments = this.#counter('mesh_assignments_total', 'Tasks assigned, by node', 'node');
  readonly enrollments = this.#counter('mesh_enrollments_total', 'Joins with a token, by outcome', 'outcome');
  readonly stale = this.#counter('mesh_stale_results_total', 'Results of superseded attempts, dropped');
  readonly copies = this.#counter(
    'mesh_speculative_attempts_total',
    'Second attempts of stragglers that came to an end, by outcome',
    'outcome',
  );
  readonly jobSeconds = this.#histogram('mesh_job_duration_seconds', 'From submission to end', SECONDS);
  readonly waitSeconds = new Tally(this.registry, 'mesh_task_wait_seconds', 'From assignment to start', SECONDS);
  readonly runSeconds = new Tally(this.registry, 'mesh_task_run_seconds', 'From start to end of an attempt', SECONDS);
  readonly planSeconds = this.#histogram('mesh_scheduler_plan_seconds', 'One run of the planner', STORE_SECONDS);
  readonly storeSeconds = this.#histogram('mesh_store_batch_seconds', 'One statement', STORE_SECONDS, 'op');
  readonly storeRows = this.#histogram('mesh_store_batch_rows', 'Rows in one statement', ROWS, 'op');

  constructor() {
    // A timer of its own measures the lag of the event loop: ten times a second wakes an idle process little enough.
    collectDefaultMetrics({ register: this.registry, eventLoopMonitoringPrecision: 100 });
    const info = new Gauge({
      name: 'mesh_build_info',
      help: 'Always 1; the labels say what runs',
      labelNames: ['version', 'node'],
      registers: [this.registry],
    });
    info.set({ version: packageVersion, node: process.version }, 1);
  }

  /** What is read at scrape time. */
  observe(source: {
    store: Store;
    nodes: () => Iterable<LiveNode>;
    epoch: () => number;
    auditBroken: () => boolean;
    /** This coordinator's issuer and the roots it trusts. */
    authorities?: (() => { role: 'issuer' | 'root'; name: string; notAfterMs: number }[]) | undefined;
  }): void {
    this.#gauge('mesh_nodes', 'Nodes by state', ['state'], async (gauge) => {
      for (const state of ['HEALTHY', 'SUSPECT', 'OFFLINE']) gauge.set({ state }, 0);
      for (const node of source.nodes()) gauge.inc({ state: node.liveness.state });
    });
    this.#gauge('mesh_jobs', 'Retained jobs by status', ['status'], async (gauge) => {
      for (const [status, count] of await source.store.jobs.countByStatus()) gauge.set({ status }, count);
    });
    this.#gauge('mesh_tasks', 'Tasks of retained jobs by status', ['status'], async (gauge) => {
      const { total, materialised, ...counts } = await source.store.jobs.taskTotals();
      for (const [status, count] of Object.entries(counts)) gauge.set({ status: status.toUpperCase() }, count);
      gauge.inc({ status: 'QUEUED' }, total - materialised);
    });
    this.#gauge('mesh_agent_rtt_seconds', 'Smoothed session round trip', ['node'], async (gauge) => {
      for (const { row, roundTrip } of source.nodes())
        if (roundTrip) gauge.set({ node: row.name }, roundTrip.smoothedMs / 1000);
    });
    this.#gauge('mesh_node_reliability', 'Share of attempts a node did not spoil', ['node'], async (gauge) => {
      for (const { row, reliability } of source.nodes()) gauge.set({ node: row.name }, reliability);
    });
    this.#gauge(
      'mesh_certificate_expiry_seconds',
      'When a certificate ends, Unix time',
      ['role', 'name'],
      async (gauge) => {
        const soonest = (await source.store.certificates.current()).sort((a, b) => a.notAfterMs - b.notAfterMs);
        for (const { role, name, notAfterMs } of soonest.slice(0, CERTIFICATES_MAX))
          gauge.set({ role, name }, notAfterMs / 1000);
        for (const { role, name, notAfterMs } of source.authorities?.() ?? [])
          gauge.set({ role, name }, notAfterMs / 1000);
      },
    );
    this.#gauge('mesh_leader', '1 on the coordinator that leads', [], async (gauge) => {
      gauge.set(source.epoch() > 0 ? 1 : 0);
    });
    this.#gauge('mesh_audit_broken', '1 where the audit is not what was written', [], async (gauge) => {
      gauge.set(source.auditBroken() ? 1 : 0);
    });
  }

  /** For whom attempts end with. */
  readonly ofResults = {
    retried: (reason: AttemptOutcome): void => this.retries.inc({ reason }),
    ran: (runMs: number, waitMs: number): void => {
      this.runSeconds.observe(runMs / 1000);
      this.waitSeconds.observe(waitMs / 1000);
    },
    jobEnded: (seconds: number): void => this.jobSeconds.observe(seconds),
  };

  readonly copyEnded = (outcome: CopyOutcome): void => this.copies.inc({ outcome });

  /** For whom attempts begin with. */
  readonly ofDispatch = {
    planned: (seconds: number): void => this.planSeconds.observe(seconds),
    assigned: (node: string, tasks: number): void => this.assignments.inc({ node }, tasks),
  };

  #counter(name: string, help: string, ...labelNames: string[]): Counter {
    return new Counter({ name, help, labelNames, registers: [this.registry] });
  }

  #histogram(name: string, help: string, buckets: number[], ...labelNames: string[]): Histogram {
    return new Histogram({ name, help, buckets, labelNames, registers: [this.registry] });
  }

  #gauge(name: string, help: string, labelNames: string[], collect: (gauge: Gauge) => Promise<void>): void {
    new Gauge({
      name,
      help,
      labelNames,
      registers: [this.registry],
      async collect() {
        this.reset();
        await collect(this as Gauge);
      },
    });
  }
}
