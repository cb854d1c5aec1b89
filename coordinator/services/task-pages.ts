/**
 * A page of a job's tasks, at any position and in any state, for the same price: along the key, or from what is known of
 * where such tasks are, and never further than LOOK_MAX tasks. Where that finds too few, the page is short, even empty,
 * and says where to go on.
 *
 * A task that was never assigned has no row; it is shown as what it is.
 */
import type { JobCounts } from '../core/job.js';
import type { TaskStatus } from '../core/task.js';
import type { JobRow, Store, TaskRow } from '../ports.js';

/** Rows looked at for one page. */
const LOOK_MAX = 5000;

const COUNTERS: Record<TaskStatus, keyof JobCounts> = {
  QUEUED: 'queued',
  ASSIGNED: 'assigned',
  RUNNING: 'running',
  RETRYING: 'retrying',
  COMPLETED: 'completed',
  FAILED: 'failed',
  CANCELLED: 'cancelled',
};

export interface TaskPage {
  rows: TaskRow[];
  /** Where to go on; undefined at the end. */
  next: number | undefined;
}

export class TaskPages {
  /** @param liveIndexes of the job's attempts that are out, in order, where somebody knows: the leader */
  constructor(
    private readonly store: Store,
    private readonly liveIndexes: ((job: number, fromIndex: number) => number[]) | undefined,
  ) {}

  /** From `fromIndex` on, in order of their index; at most `limit`. */
  async page(job: JobRow, status: TaskStatus | undefined, fromIndex: number, limit: number): Promise<TaskPage> {
    const { counts, cursor } = job;
    const until = (end: number) => this.#scan(job, status, fromIndex, end, limit);
    switch (status) {
      case undefined:
        return this.#all(job, fromIndex, limit);
      case 'QUEUED':
        return counts.queued + counts.total - counts.materialised === 0 ? END : this.#queued(job, fromIndex, limit);
      case 'CANCELLED':
        return counts.cancelled === 0 ? END : this.#cancelled(job, fromIndex, limit);
      case 'FAILED':
        return counts.failed === 0 ? END : this.#known(job, status, 'failed', fromIndex, limit);
      case 'RETRYING':
        if (counts.retrying === 0) return END;
        return counts.retrying <= LOOK_MAX ? this.#known(job, status, 'returned', fromIndex, limit) : until(cursor);
      case 'ASSIGNED':
      case 'RUNNING':
        if (counts[COUNTERS[status]] === 0) return END;
        return this.liveIndexes ? this.#live(job, status, fromIndex, limit) : until(cursor);
      case 'COMPLETED':
        return counts.completed === 0 ? END : until(cursor);
    }
  }

  /** Rows first: they are the tasks from 0 on, without a gap. */
  async #all(job: JobRow, fromIndex: number, limit: number): Promise<TaskPage> {
    const rows = await this.store.tasks.list({ job: job.seq, fromIndex, limit: limit + 1 });
    return cut(fill(job, rows, fromIndex + rows.length, limit), limit);
  }

  /** What came back lies before the cursor, what was never given away behind it. */
  async #queued(job: JobRow, fromIndex: number, limit: number): Promise<TaskPage> {
    const { cursor, counts } = job;
    const back = fromIndex < cursor ? counts.queued : 0;
    const query = { job: job.seq, status: 'QUEUED' as const, limit: limit + 1 };
    if (back > LOOK_MAX) {
      const page = await this.#scan(job, 'QUEUED', fromIndex, cursor, limit);
      return page.next === undefined ? { ...page, next: cursor } : page;
    }
    const returned =
      back > 0 ? await this.store.tasks.list({ ...query, fromIndex, toIndex: cursor, among: 'returned' }) : [];
    if (returned.length > limit) return cut(returned, limit);
    return cut(fill(job, returned, Math.max(fromIndex, cursor), limit), limit);
  }

  async #cancelled(job: JobRow, fromIndex: number, limit: number): Promise<TaskPage> {
    const made = await this.store.tasks.made(job.seq);
    if (fromIndex >= made) return cut(fill(job, [], fromIndex, limit), limit);
    const page = await this.#scan(job, 'CANCELLED', fromIndex, made, limit);
    return page.next === undefined && job.counts.total > made ? { ...page, next: made } : page;
  }

  async #known(
    { seq }: JobRow,
    status: TaskStatus,
    among: 'failed' | 'returned',
    fromIndex: number,
    limit: number,
  ): Promise<TaskPage> {
    return cut(await this.store.tasks.list({ job: seq, status, fromIndex, limit: limit + 1, among }), limit);
  }

  async #live({ seq }: JobRow, status: TaskStatus, fromIndex: number, limit: number): Promise<TaskPage> {
    const indexes = this.liveIndexes?.(seq, fromIndex) ?? [];
    const some = indexes.slice(0, LOOK_MAX);
    const page = cut(
      await this.store.tasks.list({ job: seq, status, fromIndex, limit: limit + 1, among: some }),
      limit,
    );
    return page.next === undefined && indexes.length > some.length ? { ...page, next: indexes[some.length] } : page;
  }

  async #scan(
    { seq }: JobRow,
    status: TaskStatus | undefined,
    fromIndex: number,
    end: number,
    limit: number,
  ): Promise<TaskPage> {
    const toIndex = Math.min(end, fromIndex + LOOK_MAX);
    if (toIndex <= fromIndex) return END;
    const query = { job: seq, fromIndex, toIndex, limit: limit + 1, ...(status ? { status } : {}) };
    const page = cut(await this.store.tasks.list(query), limit);
    return page.next === undefined && toIndex < end ? { ...page, next: toIndex } : page;
  }
}

const END: TaskPage = { rows: [], next: undefined };

const cut = (rows: TaskRow[], limit: number): TaskPage => ({ rows: rows.slice(0, limit), next: rows[limit]?.index });

/** With one more than `limit`, as long as there are tasks: those without a row, from `index` on. */
function fill(job: JobRow, rows: readonly TaskRow[], index: number, limit: number): TaskRow[] {
  const filled = [...rows];
  for (let next = index; filled.length <= limit && next < job.counts.total; next++) filled.push(withoutRow(job, next));
  return filled;
}

export const withoutRow = (job: JobRow, index: number): TaskRow => ({
  ...{ job: job.seq, index, generation: 0, failures: 0, losses: 0, queuedAtMs: job.createdAtMs },
  status: job.cancelling ? 'CANCELLED' : 'QUEUED',
  finishedAtMs: job.cancelling ? job.completedAtMs : undefined,
  ...{ node: undefined, exitCode: undefined, assignedAtMs: undefined, startedAtMs: undefined, runUs: undefined },
  ...{ lastError: undefined, resultJson: undefined, output: undefined, peakMemoryBytes: undefined },
});
