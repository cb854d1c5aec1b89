/** What people ask about jobs, and the rule of who sees what: submitters their own, viewers and operators all. */
import type { Clock } from '../../common/clock.js';
import { MeshError } from '../../common/errors.js';
import type { Identity } from '../../common/identity/identity.js';
import { isTerminal, JOB_STATUSES, type JobStatus, submitterOf } from '../core/job.js';
import { TASK_STATUSES, type TaskStatus } from '../core/task.js';
import type { JobRow, Store, TaskRow } from '../ports.js';
import type { Changes } from './changes.js';
import { HeardResults } from './heard-results.js';
import type { Jobs } from './jobs.js';
import { TaskPages } from './task-pages.js';

const PAGE = 100;
const PAGE_MAX = 1000;
/** Tasks and results carry up to 64 KiB of output each; a page of them is cut by size too. */
const RESULTS_PER_PAGE = 200;
const PAGE_BYTES_MAX = 2 * 2 ** 20;
/** Changes in quick succession are told together, at most once in this time. */
const WATCH_EVERY_MS = 100;
/** The highest index the store can hold. */
const INDEX_MAX = 2 ** 31 - 1;

export class Queries {
  readonly #pages: TaskPages;

  /** @param liveIndexes see TaskPages */
  constructor(
    private readonly store: Store,
    private readonly jobs: Jobs,
    private readonly changes: Changes,
    private readonly clock: Clock,
    liveIndexes?: (job: number, fromIndex: number) => number[],
  ) {
    this.#pages = new TaskPages(store, liveIndexes);
  }

  /** @throws MeshError NOT_FOUND, also for a job of somebody else, so that ids tell nothing */
  async job(id: string, caller: Identity): Promise<JobRow> {
    const row = this.jobs.byId(id)?.row ?? (await this.store.jobs.get(id));
    if (!row || (caller.role === 'submitter' && row.submitter !== submitterOf(caller))) throw noSuchJob(id);
    return row;
  }

  async list(
    query: { status: string; limit: number; cursor: string },
    caller: Identity,
  ): Promise<{ rows: JobRow[]; next: string }> {
    const limit = pageSize(query.limit);
    const rows = await this.store.jobs.list({
      limit: limit + 1,
      ...(query.status ? { status: asStatus<JobStatus>(query.status, JOB_STATUSES) } : {}),
      ...(caller.role === 'submitter' ? { submitter: submitterOf(caller) } : {}),
      ...(query.cursor ? { before: asCursor(query.cursor) } : {}),
    });
    return { rows: rows.slice(0, limit), next: rows.length > limit ? String(rows[limit - 1]?.seq) : '' };
  }

  async tasks(
    job: JobRow,
    query: { status: string; limit: number; cursor: string; index?: number | undefined },
  ): Promise<{ rows: TaskRow[]; next: string }> {
    if (query.index !== undefined) return { rows: [await this.task(job, query.index)], next: '' };
    const limit = Math.min(pageSize(query.limit), RESULTS_PER_PAGE);
    const status = query.status ? asStatus<TaskStatus>(query.status, TASK_STATUSES) : undefined;
    const fromIndex = query.cursor ? asCursor(query.cursor, INDEX_MAX) : 0;
    const page = await this.#pages.page(job, status, fromIndex, limit);
    const rows = cutBySize(page.rows);
    const next = page.rows[rows.length]?.index ?? page.next;
    return { rows, next: next === undefined ? '' : String(next) };
  }

  /** @throws MeshError NOT_FOUND when the job has no such task */
  async task(job: JobRow, index: number): Promise<TaskRow> {
    const { rows } = index < job.counts.total ? await this.#pages.page(job, undefined, index, 1) : { rows: [] };
    if (rows[0]?.index !== index)
      throw new MeshError('NOT_FOUND', `job ${job.id} has no task ${index}`, { hint: `see: mesh tasks ${job.id}` });
    return rows[0];
  }

  /** The job now, and after every change until it ends. */
  async *watch(id: string, caller: Identity, gone: AbortSignal): AsyncGenerator<JobRow> {
    const first = await this.job(id, caller);
    for await (const _ of this.signals(first.seq, gone)) {
      const row = await this.#now(first);
      yield row;
      if (isTerminal(row.status)) return;
    }
  }

  /** The job once it has ended; undefined when the caller is gone before that. */
  async ended(job: JobRow, gone: AbortSignal): Promise<JobRow | undefined> {
    const known = this.jobs.get(job.seq)?.row ?? job;
    for await (const _ of this.signals(job.seq, gone)) {
      const row = await this.#now(known);
      if (isTerminal(row.status)) return row;
    }
    return undefined;
  }

  /** The row of a live job follows the store to its end; only why a job was cancelled is known to the store alone. */
  async #now(known: JobRow): Promise<JobRow> {
    if (known.status === 'COMPLETED' && !known.cancelling) return known;
    const row = this.jobs.get(known.seq)?.row ?? (await this.store.jobs.get(known.id));
    if (!row) throw noSuchJob(known.id);
    return row;
  }

  /** Yields at once, then after each change of the job, merged, its end without delay; ends when the caller is gone. */
  async *signals(seq: number, gone: AbortSignal): AsyncGenerator<void> {
    let changed = true;
    let isMerging = false;
    let wake: () => void = () => undefined;
    const isUrgent = () => gone.aborted || this.jobs.get(seq) === undefined;
    const poke = () => {
      if (!isMerging || isUrgent()) wake();
    };
    const unsubscribe = this.changes.jobs.subscribe(seq, () => {
      changed = true;
      poke();
    });
    gone.addEventListener('abort', poke);
    try {
      while (!gone.aborted) {
        if (!changed) await new Promise<void>((resolve) => (wake = resolve));
        if (gone.aborted) return;
        changed = false;
        yield;
        if (isUrgent()) continue;
        isMerging = true;
        await new Promise<void>((resolve) => {
          const timer = this.clock.after(WATCH_EVERY_MS, resolve);
          wake = () => {
            timer.cancel();
            resolve();
          };
        });
        isMerging = false;
      }
    } finally {
      unsubscribe();
      gone.removeEventListener('abort', poke);
    }
  }

  /**
   * Results in index order, in pages; with `follow` it waits for tasks that have not ended, and what completes meanwhile is
   * not read back from the store.
   */
  async *results(job: JobRow, caller: Identity, follow: boolean, gone: AbortSignal): AsyncGenerator<ResultPage> {
    const live = follow ? this.jobs.get(job.seq)?.row : undefined;
    const heard = new HeardResults(this.changes, job.seq);
    try {
      for await (const _ of this.signals(job.seq, gone)) {
        const ended = this.jobs.hasEnded(job.seq) ?? isTerminal((await this.job(job.id, caller)).status);
        while (heard.next < job.counts.total) {
          const page = heard.take(RESULTS_PER_PAGE);
          if (page.length === 0 && (!live || heard.lacks(live.counts))) {
            page.push(...(await this.store.tasks.results(job.seq, heard.next, RESULTS_PER_PAGE)));
            heard.passed(page);
          }
          if (page.length === 0) break;
          yield page;
        }
        if (heard.next >= job.counts.total || ended || !follow) return;
      }
    } finally {
      heard.close();
    }
  }
}

const noSuchJob = (id: string): MeshError =>
  new MeshError('NOT_FOUND', `there is no job "${id.slice(0, 80)}"`, { hint: 'see: mesh jobs' });

export type ResultPage = Awaited<ReturnType<Store['tasks']['results']>>;

/** At least one row, and no more than fit into a message. */
function cutBySize(rows: TaskRow[]): TaskRow[] {
  let bytes = 0;
  const end = rows.findIndex((row) => {
    bytes += (row.output?.length ?? 0) + (row.resultJson?.length ?? 0);
    return bytes > PAGE_BYTES_MAX;
  });
  return end === -1 ? rows : rows.slice(0, Math.max(1, end));
}

const pageSize = (limit: number): number => (limit === 0 ? PAGE : Math.min(limit, PAGE_MAX));

function asStatus<S extends string>(text: string, all: readonly S[]): S {
  const status = all.find((known) => known === text.toUpperCase());
  if (!status) throw new MeshError('USAGE', `"${text}" is not a status`, { hint: `one of ${all.join(', ')}` });
  return status;
}

function asCursor(text: string, max = Number.MAX_SAFE_INTEGER): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 0 || value > max)
    throw new MeshError('USAGE', 'the cursor is not one that a list returned');
  return value;
}
