/**
 * On an idle mesh a job need not wait for a turn of the planner and for a second commit: it is planned before it is kept,
 * and the statement that keeps it assigns its tasks too. Until that is answered nobody else plans, because what was placed
 * is in no ledger yet. An answer that was lost is found out like that of any other assignment.
 */
import type { Kind } from '../core/scheduler/types.js';
import type { Plan, WorkView } from '../core/scheduler/types.js';
import type { AssignedRange, AssignItem, JobRow } from '../ports.js';
import type { Jobs } from './jobs.js';

/** A job's tasks, on their way to a node with its commit. */
export interface Placement {
  readonly node: number;
  /** The job is committed and known to `jobs`; undefined: it is not, or nobody knows. Must be called; again it does nothing. */
  settle(job: JobRow | undefined): void;
  /** It was found out that the job is committed, and it is known to `jobs`. */
  recovered(job: JobRow): void;
}

/** Without inputs and secrets. */
export type PlacedJob = Pick<JobRow, 'type' | 'spec' | 'priority' | 'submitter' | 'namespace'>;

export interface FirstPlacementOptions {
  jobs: Jobs;
  /** Of this work alone. */
  plan: (work: WorkView) => Plan;
  /** These are committed. */
  given: (range: AssignedRange) => void;
  unsure: (item: AssignItem) => void;
}

/** The store numbers jobs from 1. */
const UNNUMBERED = 0;
const NOWHERE: ReadonlySet<number> = new Set();

export class FirstPlacement {
  readonly #options: FirstPlacementOptions;
  #pending: Promise<void> | undefined;

  constructor(options: FirstPlacementOptions) {
    this.#options = options;
  }

  /** Resolves when what was placed last is settled. */
  get pending(): Promise<void> | undefined {
    return this.#pending;
  }

  /** Undefined when something is placed already, or when no node takes all `count` tasks. */
  place(job: PlacedJob, count: number): Placement | undefined {
    if (this.#pending) return undefined;
    const { jobs, plan } = this.#options;
    const kind = jobs.intern(job);
    const { priority, submitter, namespace } = job;
    const { assignments } = plan({
      ...{ job: UNNUMBERED, arrival: UNNUMBERED, kind, priority, submitter, namespace },
      ...{ fresh: count, returned: [], blockedNodes: NOWHERE, taskMs: jobs.timeOf(job).ms },
      unassignedForMs: Number.POSITIVE_INFINITY,
    });
    const [only] = assignments;
    if (only?.fresh === count) return this.#begin(only.node, kind);
    jobs.release(kind);
    return undefined;
  }

  /** The kind is held until the job holds it: the reasons of the plan are kept by it. */
  #begin(node: number, kind: Kind): Placement {
    const { jobs, given, unsure } = this.#options;
    let release: () => void = () => undefined;
    const pending = new Promise<void>((resolve) => (release = resolve));
    this.#pending = pending;
    return {
      node,
      settle: (job) => {
        if (this.#pending !== pending) return;
        this.#pending = undefined;
        jobs.release(kind);
        release();
        if (job && job.cursor > 0) given({ job: job.seq, node, from: 0, to: job.cursor, inputs: undefined });
      },
      recovered: ({ seq, cursor }) => {
        if (cursor > 0) unsure({ job: seq, node, from: 0, to: cursor });
      },
    };
  }
}
