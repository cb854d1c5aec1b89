/**
 * What the results of one job may take of the database. It is looked at before a batch is settled and counted after its
 * commit, so it is passed by a batch at most. Beyond it nothing is lost in silence: a function whose value does not fit
 * fails for good, saying so; a command is judged by its exit code as ever, and where its last output would be there is a
 * note.
 */
import type { Logger } from '../../common/log.js';
import { formatSize } from '../../common/units.js';
import { Stream } from '../../proto/gen/mesh/v1/common.js';
import type { TaskStore } from '../ports.js';
import type { LiveJob } from './jobs.js';
import { type Report, payloadBytes } from './settlement.js';

export interface ResultQuotaOptions {
  jobBytesMax: number;
  store: { tasks: Pick<TaskStore, 'storedBytes'> };
  log: Logger;
}

export class ResultQuota {
  readonly #options: ResultQuotaOptions;
  readonly #bytes = new WeakMap<LiveJob, number>();
  readonly #noted = new WeakSet<LiveJob>();

  constructor(options: ResultQuotaOptions) {
    this.#options = options;
  }

  /** Learns what earlier terms stored of a job. Until that is known it counts as nothing. */
  async load(job: LiveJob): Promise<void> {
    // Most of very many jobs have not begun: there is nothing of them.
    if (job.row.cursor === 0) return;
    this.charge(job, await this.#options.store.tasks.storedBytes(job.row.seq));
  }

  charge(job: LiveJob, bytes: number): void {
    if (bytes > 0) this.#bytes.set(job, (this.#bytes.get(job) ?? 0) + bytes);
  }

  /** Whether nothing more of the job may be stored. */
  isFull(job: LiveJob): boolean {
    return (this.#bytes.get(job) ?? 0) >= this.#options.jobBytesMax;
  }

  /** The report as it may be stored. */
  fit(report: Report, job: LiveJob): Report {
    const { jobBytesMax } = this.#options;
    const { finished } = report;
    if (!this.isFull(job) || payloadBytes(finished) === 0) return report;
    const why = `the results of this job take ${formatSize(jobBytesMax)}, the most they may (--max-job-result-bytes)`;
    this.#note(job, why);
    if (finished.resultJson !== '')
      return {
        ...report,
        outcome: 'failed',
        final: true,
        finished: { ...finished, resultJson: '', error: why, output: undefined },
      };
    const { chunks = [] } = finished.output ?? {};
    const last = chunks.at(-1);
    if (!last) return report;
    const offset = last.offset + last.data.length;
    const note = { stream: Stream.SYSTEM, offset, atMs: last.atMs, data: Buffer.from(`[output left out: ${why}]\n`) };
    return { ...report, finished: { ...finished, output: { chunks: [note], totalBytes: offset } } };
  }

  #note(job: LiveJob, reason: string): void {
    if (this.#noted.has(job)) return;
    this.#noted.add(job);
    this.#options.log.warn({ event: 'job.results-full', job: job.row.id, submitter: job.row.submitter }, reason);
  }
}
