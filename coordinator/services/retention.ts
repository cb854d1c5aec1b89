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
/** What a burst of submissions may write between two looks at the disk is far less than what must be free. */
const LOOK_MS = 100;
/** Before their time, while the disk is short: so many a turn, none younger, and not on if that frees nothing. */
const EARLY_PER_TURN = 20;
const EARLY_AGE_MS = 3_600_000;
const EARLY_PAUSE_MS = 10 * 60_000;
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
  /** Free space on the disk of this directory, in bytes. Default: what the file system says. */
  freeBytes?: ((directory: string) => Promise<number>) | undefined;
}

const diskFree = async (directory: string): Promise<number> => {
  const disk = await statfs(directory);
  return disk.bavail * disk.bsize;
};

/**
 * Removes ended jobs after their time, and earlier, oldest first, when the disk runs short. Below the threshold no new
 * jobs are accepted; what was acknowledged goes on.
 */
export class Retention implements Service {
  readonly name = 'retention';
  readonly #options: RetentionOptions;
  readonly #loop: Loop;
  #short = false;
  #lookedMs = Number.NEGATIVE_INFINITY;
  /** What was free when jobs were last removed before their time, and until when that is not tried again. */
  #early: { freeBytes: number; pausedUntilMs: number } | undefined;

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

  /** The same, looked at within LOOK_MS: a disk fills up faster than turns come. */
  async hasRoom(): Promise<boolean> {
    if (this.#options.clock.monotonicMs() - this.#lookedMs >= LOOK_MS) await this.#look();
    return this.accepts;
  }

  async #look(): Promise<number> {
    const { directory, minFreeBytes, clock, log } = this.#options;
    this.#lookedMs = clock.monotonicMs();
    const freeBytes = await (this.#options.freeBytes ?? diskFree)(directory);
    const short = freeBytes < minFreeBytes;
    if (short !== this.#short) log.warn({ event: short ? 'disk.short' : 'disk.recovered', freeBytes, minFreeBytes });
    this.#short = short;
    return freeBytes;
  }

  async start(): Promise<void> {
    await this.#loop.start();
  }

  async stop(): Promise<void> {
    await this.#loop.stop();
  }

  async #turn(): Promise<void> {
    const { clock, retentionMs, store, blobs } = this.#options;
    const freeBytes = await this.#look();
    const short = this.#short;
    const nowMs = clock.wallMs();
    const removed = await this.#removeJobs(nowMs - retentionMs, JOBS_PER_TURN);
    if (removed === JOBS_PER_TURN) this.#loop.wake();
    else if (short) await this.#removeEarly(freeBytes, nowMs);
    else this.#early = undefined;
    const unused = await store.blobs.unusedSince(this.#blobsBeforeMs(nowMs), BLOBS_PER_TURN);
    if (unused.length > 0) await blobs.remove(unused);
  }

  /**
   * The disk may be full of other people's files: what people still want to look at goes slowly, oldest first, and only
   * while the space grows with it.
   */
  async #removeEarly(freeBytes: number, nowMs: number): Promise<void> {
    const { clock, log } = this.#options;
    const atMs = clock.monotonicMs();
    if (this.#early && atMs < this.#early.pausedUntilMs) return;
    if (this.#early && freeBytes <= this.#early.freeBytes) {
      log.warn(
        { event: 'retention.useless', freeBytes },
        'removing old jobs frees no space; something else fills the disk',
      );
      this.#early = { freeBytes, pausedUntilMs: atMs + EARLY_PAUSE_MS };
      return;
    }
    const removed = await this.#removeJobs(nowMs - EARLY_AGE_MS, EARLY_PER_TURN);
    this.#early = removed > 0 ? { freeBytes, pausedUntilMs: 0 } : undefined;
  }

  /** A job that still runs may need any file that was there when it came, however long it runs. */
  #blobsBeforeMs(nowMs: number): number {
    const { jobs, retentionMs } = this.#options;
    const oldest = jobs.all().next();
    const liveSinceMs = oldest.done ? nowMs : oldest.value.row.createdAtMs;
    return Math.min(nowMs - retentionMs, liveSinceMs) - BLOB_GRACE_MS;
  }

  async #removeJobs(beforeMs: number, limit: number): Promise<number> {
    const { store, logs, log } = this.#options;
    const ended = await store.jobs.endedBefore(beforeMs, limit);
    // The rows last: what a crash leaves is found again by them.
    for (const { id } of ended) await logs.removeJob(id);
    await store.jobs.remove(ended.map(({ seq }) => seq));
    for (const { id } of ended) log.info({ event: 'job.removed', job: id });
    return ended.length;
  }
}
