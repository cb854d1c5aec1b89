/**
 * Cancel is a compare-and-set: the job is marked first, which stops the planner; then its rows follow in batches, and
 * the agents that hold some are told. Room falls free when they confirm the kill. A result that commits before a row's
 * cancellation wins; whoever asked hears what became of the job.
 */
import { groupBy } from '../../common/group-by.js';
import type { Clock } from '../../common/clock.js';
import { MeshError, toMeshError } from '../../common/errors.js';
import type { Service } from '../../common/lifecycle.js';
import { Loop } from '../../common/loop.js';
import { OnFailure } from '../../proto/gen/mesh/v1/mesh.js';
import type { Logger } from '../../common/log.js';
import type { Ledger } from '../core/ledger.js';
import { isTerminal } from '../core/job.js';
import type { TaskRef } from '../core/task.js';
import type { JobChange, JobRow, Store } from '../ports.js';
import type { Copies } from './copies.js';
import type { Fleet } from './fleet.js';
import type { Jobs } from './jobs.js';
import { toRefs } from './session.js';
import { UNSURE_MS } from './unsure.js';

const ROWS_PER_BATCH = 5000;
/** A cancellation that a failure cut off goes on after at most this long. */
const RESUME_MS = 2000;

export interface CancellationOptions {
  store: Store;
  jobs: Jobs;
  fleet: Fleet;
  ledger: Ledger;
  copies: Copies;
  clock: Clock;
  log: Logger;
  epoch: () => number;
  onCapacity: () => void;
}

export class Cancellation implements Service {
  readonly name = 'cancellation';
  readonly #options: CancellationOptions;
  readonly #loop: Loop;
  /** Jobs whose rows somebody is at. */
  readonly #active = new Set<number>();
  /** Jobs whose mark may have been committed although its answer was lost, and until when that may show; monotonic. */
  readonly #unsure = new Map<number, number>();

  constructor(options: CancellationOptions) {
    this.#options = options;
    this.#loop = new Loop({
      name: 'cancellation.resume',
      clock: options.clock,
      everyMs: RESUME_MS,
      turn: () => this.#resume(),
      onError: (error) => options.log.warn({ event: 'job.cancel-failed', err: error }),
    });
  }

  async start(): Promise<void> {
    await this.#loop.start();
  }

  async stop(): Promise<void> {
    await this.#loop.stop();
  }

  /** @throws MeshError CONFLICT when the job has ended already */
  async cancel(row: JobRow, reason: string | undefined): Promise<number> {
    this.#active.add(row.seq);
    try {
      return await this.#cancel(row, reason);
    } finally {
      this.#active.delete(row.seq);
    }
  }

  async #cancel(row: JobRow, reason: string | undefined): Promise<number> {
    const { store, jobs, log, onCapacity } = this.#options;
    const marked = isTerminal(row.status) ? undefined : await this.#mark(row, reason);
    if (!marked) {
      const { status } = (await store.jobs.get(row.id)) ?? row;
      throw new MeshError('CONFLICT', `job ${row.id} has ended already (${status})`, {
        hint: `see: mesh job ${row.id}`,
      });
    }
    const live = jobs.get(row.seq);
    if (live) live.row.cancelling = true;
    jobs.apply([marked]);
    const cancelled = await this.#cancelRows(row.seq);
    log.info({ event: 'job.cancelled', job: row.id, tasks: cancelled, reason });
    onCapacity();
    return cancelled;
  }

  async #mark(row: JobRow, reason: string | undefined): Promise<JobChange | undefined> {
    const { store, epoch, clock } = this.#options;
    try {
      return await store.jobs.requestCancel(epoch(), row.seq, reason);
    } catch (error) {
      if (toMeshError(error).code === 'DATABASE_DOWN') this.#unsure.set(row.seq, clock.monotonicMs() + UNSURE_MS);
      throw error;
    }
  }

  /** A job that was marked without our hearing of it would be planned for ever, and never given to anybody. */
  async #findOut(): Promise<void> {
    const { store, jobs, clock } = this.#options;
    for (const [seq, untilMs] of [...this.#unsure]) {
      const live = jobs.get(seq);
      const row = live && (await store.jobs.get(live.row.id));
      if (live && row?.cancelling) live.row.cancelling = true;
      if (!live || row?.cancelling || clock.monotonicMs() >= untilMs) this.#unsure.delete(seq);
    }
  }

  /** What a failure or the end of the last coordinator cut off: cancelled jobs with rows left, fail-fast not yet done. */
  async #resume(): Promise<void> {
    const { jobs, ledger } = this.#options;
    await this.#findOut();
    for (const { row } of [...jobs.all()]) {
      if (this.#active.has(row.seq)) continue;
      if (row.cancelling) {
        const held = ledger.ofJob(row.seq);
        await this.#cancelRows(row.seq);
        // Rows that were cancelled by a statement whose answer was lost are not named again.
        this.#stop(held.filter((attempt) => ledger.get(attempt) === attempt));
      } else if (row.spec.onFailure === OnFailure.FAIL_FAST && row.counts.failed > 0) {
        await this.cancel(row, 'a task failed');
      }
    }
  }

  async #cancelRows(seq: number): Promise<number> {
    const { store, jobs, copies, epoch } = this.#options;
    const originals = await copies.cancel(epoch(), seq);
    let cancelled = 0;
    for (let from: number | undefined = 0; from !== undefined; ) {
      const batch = await store.tasks.cancel(epoch(), seq, from, ROWS_PER_BATCH);
      cancelled += batch.cancelled;
      this.#stop(batch.live);
      jobs.apply([batch.job]);
      from = batch.nextIndex;
    }
    this.#stop(originals);
    return cancelled;
  }

  /**
   * The row is CANCELLED already; the attempt keeps its room in the ledger until the agent says it is dead, or comes back
   * without it.
   */
  #stop(tasks: readonly (TaskRef & { node: number })[]): void {
    const { fleet, ledger } = this.#options;
    const byNode = groupBy(tasks, (task) => task.node);
    for (const [node, list] of byNode) {
      const session = fleet.get(node)?.session;
      if (session?.open) {
        for (const task of list) ledger.condemn(task, node);
        session.send({ $case: 'cancel', value: toRefs(list) });
      } else {
        for (const task of list) ledger.remove(task);
      }
    }
  }
}
