import { statfs } from 'node:fs/promises';
import type { Clock } from '../../common/clock.js';
import type { Service } from '../../common/lifecycle.js';
import type { Logger } from '../../common/log.js';
import { Loop } from '../../common/loop.js';
import type { Store } from '../ports.js';
import type { BlobDepot } from './blob-depot.js';
import type { Jobs } from './jobs.js';
import type { LogStore } from './log-store.js';

const EVERY_MS = 30_000;
const JOBS_PER_TURN = 100;
const BLOBS_PER_TURN = 1000;
/** Files that a submission has uploaded and not yet used are safe for this long, and used ones so much longer. */
const BLOB_GRACE_MS = 86_400_000;

export interface RetentionOptions {
  store: Store;
  jobs: Jobs;
  logs: LogStore;
  blobs: BlobDepot;
  clock: Clock;
  log: Logger;
  directory: string;
  retentionMs: number;
  minFreeBytes: number;
}

/**
 * Removes ended jobs after their time, and earlier, oldest first, when the disk runs short. Below the threshold no new
 * jobs are accepted; what was acknowledged goes on.
 */
export class Retention implements Service {
  readonly name = 'retention';
  readonly #options: RetentionOptions;
  readonly #loop: Loop;
  #short = false;

  constructor(options: RetentionOptions) {
    this.#options = options;
    this.#loop = new Loop({
      name: 'retention.turn',
      clock: options.clock,
      everyMs: EVERY_MS,
      turn: () => this.#turn(),
      onError: (error) => options.log.warn({ event: 'retention.failed', err: error }),
    });
  }

  /** False while the disk is too full to promise anything. */
  get accepts(): boolean {
    return !this.#short;
  }

  async start(): Promise<void> {
    await this.#loop.start();
  }

  async stop(): Promise<void> {
    await this.#loop.stop();
  }

  async #turn(): Promise<void> {
    const { clock, retentionMs, directory, minFreeBytes, log, store, blobs } = this.#options;
    const disk = await statfs(directory);
    const freeBytes = disk.bavail * disk.bsize;
    const short = freeBytes < minFreeBytes;
    if (short !== this.#short) log.warn({ event: short ? 'disk.short' : 'disk.recovered', freeBytes, minFreeBytes });
    this.#short = short;
    const nowMs = clock.wallMs();
    const removed = await this.#removeJobs(short ? nowMs : nowMs - retentionMs);
    if (removed === JOBS_PER_TURN) this.#loop.wake();
    const unused = await store.blobs.unusedSince(this.#blobsBeforeMs(nowMs), BLOBS_PER_TURN);
    if (unused.length > 0) await blobs.remove(unused);
  }

  /** A job that still runs may need any file that was there when it came, however long it runs. */
  #blobsBeforeMs(nowMs: number): number {
    const { jobs, retentionMs } = this.#options;
    const oldest = jobs.all().next();
    const liveSinceMs = oldest.done ? nowMs : oldest.value.row.createdAtMs;
    return Math.min(nowMs - retentionMs, liveSinceMs) - BLOB_GRACE_MS;
  }

  async #removeJobs(beforeMs: number): Promise<number> {
    const { store, logs, log } = this.#options;
    const ended = await store.jobs.endedBefore(beforeMs, JOBS_PER_TURN);
    for (const job of ended) {
      // The row last: what a crash leaves is found again by it.
      await logs.removeJob(job.id);
      await store.jobs.remove(job.seq);
      log.info({ event: 'job.removed', job: job.id });
    }
    return ended.length;
  }
}
