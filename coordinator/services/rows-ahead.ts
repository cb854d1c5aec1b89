/**
 * Task rows are made ahead of the planner, not all at once: what waits of a job of a million tasks is a number in its row,
 * and its next rows are written shortly before they are assigned, while their pages are still in the database's memory.
 * Of each job a window is kept ahead, refilled when a statement's worth or half of it is used; many jobs share what is kept ahead in all. One
 * statement makes rows of many jobs, a bounded number together, so it holds up nobody for long.
 *
 * Making rows is idempotent: after a crash, or when an answer was lost, it goes on where the job's own row says.
 */
import type { Store } from '../ports.js';
import type { Jobs, LiveJob } from './jobs.js';

/** Made when the job is kept: enough of a small job, and of a large one until more are made. Also kept ahead of each job. */
export const FIRST_ROWS = 256;
/** Ahead in one job: what two plans may assign. */
const AHEAD_MAX = 40_000;
/** Ahead in all jobs together, where FIRST_ROWS of each are fewer. */
const AHEAD_TOTAL = 400_000;
const ROWS_PER_STATEMENT = 10_000;
const JOBS_PER_STATEMENT = 200;

export interface RowsAheadOptions {
  store: Store;
  jobs: Jobs;
  epoch: () => number;
}

export class RowsAhead {
  /** Jobs with tasks that have no row yet. */
  readonly #behind = new Set<LiveJob>();

  constructor(private readonly options: RowsAheadOptions) {}

  /** True when it has tasks without a row, which are made in time from now on. */
  follow(job: LiveJob): boolean {
    const { materialised, total } = job.row.counts;
    if (materialised < total) this.#behind.add(job);
    return materialised < total;
  }

  /** Makes the rows that are due, a bounded number. True when there are new ones, and there may be more to make. */
  async make(): Promise<boolean> {
    const { store, jobs, epoch } = this.options;
    const wanted = this.#wanted();
    if (wanted.length === 0) return false;
    let isNew = false;
    for (const { job, rows } of await store.jobs.materialise(epoch(), wanted)) isNew = jobs.made(job, rows) || isNew;
    return isNew;
  }

  /** Those first that have the least left. */
  #wanted(): { job: number; rows: number }[] {
    const { jobs } = this.options;
    const window = Math.max(FIRST_ROWS, Math.min(AHEAD_MAX, Math.floor(AHEAD_TOTAL / Math.max(1, this.#behind.size))));
    const low: { job: LiveJob; ahead: number; lacking: number }[] = [];
    for (const job of this.#behind) {
      const { materialised, total } = job.row.counts;
      const ahead = jobs.fresh(job);
      const lacking = Math.min(window - ahead, total - materialised);
      if (materialised >= total || jobs.get(job.row.seq) !== job) this.#behind.delete(job);
      else if (job.row.cancelling) continue;
      else if (lacking >= Math.min(window / 2, ROWS_PER_STATEMENT, total - materialised))
        low.push({ job, ahead, lacking });
    }
    low.sort((a, b) => a.ahead - b.ahead);
    const some = low.slice(0, JOBS_PER_STATEMENT);
    const rowsMax = Math.ceil(ROWS_PER_STATEMENT / some.length);
    return some.map(({ job: { row }, lacking }) => ({ job: row.seq, rows: Math.min(lacking, rowsMax) }));
  }
}
