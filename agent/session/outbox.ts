/**
 * Results that the coordinator has not acknowledged. Each is kept in the journal before it is sent, and sent again after
 * every reconnect and after a restart of the agent, until the acknowledgement, which comes after the coordinator's
 * commit. Bounded by what was assigned: the coordinator gives no more before it has these.
 *
 * When the journal cannot take a result (a full disk) it is kept in memory alone and sent all the same.
 */
import type { Clock } from '../../common/clock.js';
import type { Service } from '../../common/lifecycle.js';
import type { Logger } from '../../common/log.js';
import type { Finished, FinishedBatch, TaskRefs } from '../../proto/gen/mesh/v1/agent.js';
import type { AttemptRef } from '../core/types.js';
import type { Journal } from '../output/journal.js';

/** Not yet in the journal, and not to be sent before. Segments are numbered from 1. */
const PENDING = -1;
/** On its way into the journal. */
const STORING = -2;
/** The journal could not take it. */
const UNKEPT = 0;
/** Bytes of one batch: with what the estimate below cannot know it stays well below the largest message. */
const BATCH_BYTES_MAX = 2 * 2 ** 20;
const AGE_MS_MAX = 2 ** 32 - 1;
/** One that waited no longer than this goes as it is. */
const AGED_MS = 50;

interface Waiting {
  finished: Finished;
  endedMs: number;
  segment: number;
  /** Kept, and not to be sent before its output has arrived. */
  held: boolean;
  /** Its size when it was sent in this session; 0 before. */
  sentBytes: number;
}

export interface OutboxOptions {
  clock: Clock;
  journal: Journal;
  log: Logger;
}

export class Outbox implements Service {
  readonly name = 'outbox';
  readonly #options: OutboxOptions;
  /** By job and index; a newer generation of a task takes the place of an older one, which nobody wants any more. */
  readonly #jobs = new Map<number, Map<number, Waiting>>();

  #inFlightBytes = 0;

  constructor(options: OutboxOptions) {
    this.#options = options;
  }

  /** Sent in this session and not acknowledged. */
  get inFlightBytes(): number {
    return this.#inFlightBytes;
  }

  /** Takes over what an earlier life of the agent left. */
  async start(): Promise<void> {
    const { journal, log } = this.#options;
    let count = 0;
    for (const { segment, items } of await journal.load()) {
      for (const finished of items) {
        if (this.#put(finished, segment, false)) count++;
        else journal.release(segment, 1);
      }
    }
    if (count > 0) log.info({ event: 'outbox.recovered', results: count }, 'results of an earlier run wait');
  }

  async stop(): Promise<void> {
    await this.#options.journal.close();
  }

  /** @param held whether it waits for `ready` before it may be sent */
  add(finished: Finished, held = false): void {
    this.#put(finished, PENDING, held);
  }

  /** It may be sent now. */
  ready({ job, index, generation }: AttemptRef): Finished | undefined {
    const waiting = this.#jobs.get(job)?.get(index);
    if (!waiting || waiting.finished.generation !== generation) return undefined;
    waiting.held = false;
    return waiting.finished;
  }

  /** Keeps these, and returns those of them that may be sent now. What was never added passes through. */
  async store(items: Finished[]): Promise<Finished[]> {
    const { journal } = this.#options;
    const fresh = items.filter((item) => {
      const waiting = this.#waiting(item);
      if (waiting?.segment !== PENDING) return false;
      waiting.segment = STORING;
      return true;
    });
    if (fresh.length > 0) {
      const segment = await journal.append(fresh);
      let gone = 0;
      for (const item of fresh) {
        const waiting = this.#waiting(item);
        if (waiting) waiting.segment = segment ?? UNKEPT;
        else gone++;
      }
      if (segment !== undefined && gone > 0) journal.release(segment, gone);
      const crowded = journal.crowded();
      if (crowded !== undefined) await this.#moveOn(crowded);
    }
    return items.filter((item) => !this.#waiting(item)?.held);
  }

  /** Acknowledged or no longer wanted. */
  remove(refs: TaskRefs): void {
    const { journal } = this.#options;
    let segment = UNKEPT;
    let count = 0;
    for (let i = 0; i < refs.jobs.length; i++) {
      const job = this.#jobs.get(refs.jobs[i] as number);
      const index = refs.indexes[i] as number;
      const waiting = job?.get(index);
      if (!job || !waiting || waiting.finished.generation !== refs.generations[i]) continue;
      job.delete(index);
      this.#inFlightBytes -= waiting.sentBytes;
      if (job.size === 0) this.#jobs.delete(refs.jobs[i] as number);
      if (waiting.segment !== segment && count > 0) {
        journal.release(segment, count);
        count = 0;
      }
      segment = waiting.segment;
      if (segment > UNKEPT) count++;
    }
    if (count > 0) journal.release(segment, count);
  }

  /** It is wanted under another generation. Returns what is to be kept and sent now. */
  renumber(ref: AttemptRef, generation: number): Finished | undefined {
    const waiting = this.#jobs.get(ref.job)?.get(ref.index);
    if (!waiting || waiting.finished.generation !== ref.generation) return undefined;
    const finished = { ...waiting.finished, generation, ageMs: this.#age(waiting) };
    this.#put(finished, PENDING, waiting.held);
    return finished;
  }

  /** Everything in here. */
  *all(): Generator<Finished> {
    for (const job of this.#jobs.values()) for (const { finished } of job.values()) yield finished;
  }

  /** A session begins: nothing was sent in it. */
  nothingSent(): void {
    if (this.#inFlightBytes === 0) return;
    for (const job of this.#jobs.values()) for (const waiting of job.values()) waiting.sentBytes = 0;
    this.#inFlightBytes = 0;
  }

  /** These are sent now. Returns them with their present age, without those that were sent in this session already. */
  take(items: readonly Finished[]): Finished[] {
    const taken: Finished[] = [];
    for (const item of items) {
      const waiting = this.#jobs.get(item.job)?.get(item.index);
      if (!waiting || waiting.finished.generation !== item.generation) {
        taken.push(item);
        continue;
      }
      if (waiting.sentBytes > 0) continue;
      waiting.sentBytes = bytesOf(item);
      this.#inFlightBytes += waiting.sentBytes;
      const ageMs = this.#age(waiting);
      taken.push(ageMs - item.ageMs > AGED_MS ? { ...item, ageMs } : item);
    }
    return taken;
  }

  /** Everything that is kept and was not sent in this session, in bounded batches, each result with its present age. */
  *batches(sizeMax: number): Generator<FinishedBatch> {
    for (const items of inBatches(this.#sendable(), sizeMax)) yield { items };
  }

  *#sendable(): Generator<Finished> {
    for (const job of this.#jobs.values()) {
      for (const waiting of job.values()) {
        if (waiting.segment >= UNKEPT && !waiting.held && waiting.sentBytes === 0)
          yield { ...waiting.finished, ageMs: this.#age(waiting) };
      }
    }
  }

  #age({ endedMs }: Waiting): number {
    return Math.min(AGE_MS_MAX, Math.max(0, Math.round(this.#options.clock.monotonicMs() - endedMs)));
  }

  /** What stands for exactly this result. */
  #waiting(finished: Finished): Waiting | undefined {
    const waiting = this.#jobs.get(finished.job)?.get(finished.index);
    return waiting?.finished === finished ? waiting : undefined;
  }

  /** False when a newer one is there. */
  #put(finished: Finished, segment: number, held: boolean): boolean {
    let job = this.#jobs.get(finished.job);
    if (!job) this.#jobs.set(finished.job, (job = new Map()));
    const before = job.get(finished.index);
    // The output of a superseded attempt may have taken longer to store than its successor took to end.
    if (before && before.finished.generation > finished.generation) return false;
    if (before && before.segment > UNKEPT) this.#options.journal.release(before.segment, 1);
    const endedMs = this.#options.clock.monotonicMs() - finished.ageMs;
    if (before) this.#inFlightBytes -= before.sentBytes;
    job.set(finished.index, { finished, endedMs, segment, held, sentBytes: 0 });
    return true;
  }

  /** Writes the few results that keep an old segment alive once more, so that it can go. */
  async #moveOn(from: number): Promise<void> {
    const { journal } = this.#options;
    const moving: Waiting[] = [];
    for (const job of this.#jobs.values()) {
      for (const waiting of job.values()) if (waiting.segment === from) moving.push(waiting);
    }
    if (moving.length === 0) return;
    const to = await journal.append(moving.map((waiting) => ({ ...waiting.finished, ageMs: this.#age(waiting) })));
    if (to === undefined) return;
    for (const waiting of moving) {
      const stays = this.#waiting(waiting.finished) === waiting;
      journal.release(stays ? from : to, 1);
      if (stays) waiting.segment = to;
    }
  }
}

/** In batches of bounded number and size. */
export function* inBatches(items: Iterable<Finished>, countMax: number): Generator<Finished[]> {
  let batch: Finished[] = [];
  let bytes = 0;
  for (const item of items) {
    const itemBytes = bytesOf(item);
    if (batch.length > 0 && (batch.length >= countMax || bytes + itemBytes > BATCH_BYTES_MAX)) {
      yield batch;
      batch = [];
      bytes = 0;
    }
    batch.push(item);
    bytes += itemBytes;
  }
  if (batch.length > 0) yield batch;
}

function bytesOf({ resultJson, error, output }: Finished): number {
  let bytes = 64 + resultJson.length + error.length;
  if (output) for (const chunk of output.chunks) bytes += 16 + chunk.data.length;
  return bytes;
}
