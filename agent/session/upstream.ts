/** What work and session say to each other. */
import type { FinishedBatch, Renumbered, Started, SucceededRun, TaskRefs } from '../../proto/gen/mesh/v1/agent.js';
import type { LedgerReport } from '../core/ledger-results.js';

/** What the session of the moment does with what happens here; everything is dropped while there is none. */
export interface Upstream {
  /** Whether the coordinator knows such runs. */
  takesRun(run: SucceededRun): boolean;
  /** Resolves when there is room for more. */
  finished(batch: FinishedBatch): Promise<void>;
  started(items: Started[]): void;
  retracted(dropped: TaskRefs, kept: TaskRefs): void;
}

/** For the hello; the ages are those of `running`, by position. */
export interface WorkReport extends LedgerReport {
  runningAgeMs: number[];
}

/** What the coordinator made of the hello. */
export interface Reconciliation {
  superseded: TaskRefs;
  readopted: Renumbered | undefined;
}
