/**
 * Results on their way to the coordinator of the moment. What was sent in this session and not acknowledged stays below a
 * window of bytes, because an acknowledgement comes after a commit: a coordinator whose database is slow or away holds at
 * most a window, and the last batch, of each agent in memory. What does not fit waits in the outbox, where it is kept
 * anyway, and goes when acknowledgements make room. Nothing else of the session waits for the window; heartbeats never do.
 *
 * A result is sent once in a session. Where a session ends nothing is kept here: the next begins with all of the outbox.
 */
import type { Outbox } from './outbox.js';
import { isRun, type Result, toBatch } from './results.js';
import type { Upstream } from './upstream.js';

/** Bytes of results that may be unacknowledged in one session; the batch that passes it is the last. */
export const IN_FLIGHT_BYTES_MAX = 8 * 2 ** 20;
const BATCH_MAX = 1000;

export class Delivery {
  readonly #outbox: Outbox;
  #upstream: Upstream | undefined;
  /** What was there when the session began. */
  #former: Iterator<Result[]> | undefined;
  /** Behind it, in batches, what came since. */
  #queue: Result[][] = [];
  #pumping: { upstream: Upstream; done: Promise<void> } | undefined;

  constructor(outbox: Outbox) {
    this.#outbox = outbox;
  }

  /** Everything in the outbox is sent once more. Resolves when the stream or the window takes no more. */
  connected(upstream: Upstream): Promise<void> {
    this.disconnected();
    this.#outbox.nothingSent();
    this.#upstream = upstream;
    this.#former = this.#outbox.batches(BATCH_MAX);
    return this.pump();
  }

  disconnected(): void {
    this.#upstream = undefined;
    this.#former = undefined;
    this.#queue = [];
  }

  /** A batch that may go. Resolves when the stream takes more, or the window does not. */
  send(results: Result[]): Promise<void> {
    if (!this.#upstream || results.length === 0) return Promise.resolve();
    this.#queue.push(results);
    return this.pump();
  }

  /** There may be room: sends what waits. */
  pump(): Promise<void> {
    const upstream = this.#upstream;
    if (!upstream || (!this.#former && this.#queue.length === 0)) return Promise.resolve();
    if (this.#pumping?.upstream === upstream) return this.#pumping.done;
    const pumping = { upstream, done: Promise.resolve() };
    this.#pumping = pumping;
    pumping.done = this.#run(upstream);
    return pumping.done;
  }

  async #run(upstream: Upstream): Promise<void> {
    try {
      while (this.#upstream === upstream && this.#outbox.inFlightBytes < IN_FLIGHT_BYTES_MAX) {
        const batch = this.#next();
        if (!batch) return;
        const results = this.#outbox.take(batch.flatMap((result) => this.#fitting(upstream, result)));
        if (results.length > 0) await upstream.finished(toBatch(results));
      }
    } finally {
      // In the same turn in which it found nothing to do, so that what comes next begins anew.
      if (this.#pumping?.upstream === upstream) this.#pumping = undefined;
    }
  }

  #fitting(upstream: Upstream, result: Result): Result | Result[] {
    return isRun(result) && !upstream.takesRun(result) ? this.#outbox.takeApart(result) : result;
  }

  #next(): Result[] | undefined {
    const former = this.#former?.next();
    if (former && !former.done) return former.value;
    this.#former = undefined;
    return this.#queue.shift();
  }
}
