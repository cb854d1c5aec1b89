/**
 * Cancel is a compare-and-set: the job is marked first, which stops the planner; then its rows follow in batches, and
 * the agents that hold some are told. Room falls free when they confirm the kill. A result that commits before a row's
 * cancellation wins; whoever asked hears what became of the job.
 */
import { MeshError } from '../../common/errors.js';
import type { Logger } from '../../common/log.js';
import type { Ledger } from '../core/ledger.js';
import { isTerminal } from '../core/job.js';
import type { JobRow, LiveTask, Store } from '../ports.js';
import type { Fleet } from './fleet.js';
import type { Jobs } from './jobs.js';
import { toRefs } from './session.js';

const ROWS_PER_BATCH = 5000;

export interface CancellationOptions {
  store: Store;
  jobs: Jobs;
  fleet: Fleet;
  ledger: Ledger;
  log: Logger;
  epoch: () => number;
  onCapacity: () => void;
}

export class Cancellation {
  readonly #options: CancellationOptions;

  constructor(options: CancellationOptions) {
    this.#options = options;
  }

  /** @throws MeshError CONFLICT when the job has ended already */
  async cancel(row: JobRow, reason: string | undefined): Promise<number> {
    const { store, jobs, epoch, log, onCapacity } = this.#options;
    const marked = isTerminal(row.status) ? undefined : await store.jobs.requestCancel(epoch(), row.seq, reason);
    if (!marked)
      throw new MeshError('CONFLICT', `job ${row.id} has ended already (${row.status})`, {
        hint: `see: mesh job ${row.id}`,
      });
    const live = jobs.get(row.seq);
    if (live) live.row.cancelling = true;
    jobs.apply([marked]);
    const cancelled = await this.#cancelRows(row.seq);
    log.info({ event: 'job.cancelled', job: row.id, tasks: cancelled, reason });
    onCapacity();
    return cancelled;
  }

  /** Jobs that were being cancelled when the last coordinator stopped. */
  async resume(): Promise<void> {
    const waiting = [...this.#options.jobs.all()].filter((job) => job.row.cancelling);
    for (const job of waiting) await this.#cancelRows(job.row.seq);
  }

  async #cancelRows(seq: number): Promise<number> {
    const { store, jobs, epoch } = this.#options;
    let cancelled = 0;
    for (let from: number | undefined = 0; from !== undefined; ) {
      const batch = await store.tasks.cancel(epoch(), seq, from, ROWS_PER_BATCH);
      cancelled += batch.cancelled;
      this.#stop(batch.live);
      jobs.apply([batch.job]);
      from = batch.nextIndex;
    }
    return cancelled;
  }

  /** The row is CANCELLED already; the attempt keeps its room in the ledger until the agent says it is dead. */
  #stop(tasks: readonly LiveTask[]): void {
    const { fleet, ledger } = this.#options;
    const byNode = new Map<number, LiveTask[]>();
    for (const task of tasks) {
      const list = byNode.get(task.node);
      if (list) list.push(task);
      else byNode.set(task.node, [task]);
    }
    for (const [node, list] of byNode) {
      const session = fleet.get(node)?.session;
      if (session?.open) session.send({ $case: 'cancel', value: toRefs(list) });
      else for (const task of list) ledger.remove(task);
    }
  }
}
