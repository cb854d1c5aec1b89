import type { JobCounts } from '../core/job.js';
import type { ResultPage } from './queries.js';
import type { Changes, ResultEvent } from './changes.js';

/** What one follower holds that is not its turn yet. */
const HELD_MAX = 1000;
const HELD_BYTES_MAX = 2 ** 20;

/**
 * Results of one job, held for somebody who reads them in order, from the moment of their commit: the store need not be
 * asked for what was just written there. What was not heard, or is too much to hold, is read from the store; that there is
 * such a thing shows in the job's counters.
 */
export class HeardResults {
  readonly #held = new Map<number, ResultEvent>();
  readonly #unsubscribe: () => void;
  #bytes = 0;
  #next = 0;

  constructor(changes: Changes, job: number) {
    this.#unsubscribe = changes.results.subscribe(job, (event) => this.#hold(event));
  }

  close(): void {
    this.#unsubscribe();
    this.#held.clear();
  }

  /** The tasks before this one were read. */
  get next(): number {
    return this.#next;
  }

  /** What follows on what was read and is held, at most `limit`; it counts as read. */
  take(limit: number): ResultPage {
    const page: ResultPage = [];
    for (let event = this.#drop(this.#next); event; event = this.#drop(this.#next)) {
      const { index, resultJson, output } = event;
      page.push({ index, status: 'COMPLETED', resultJson, output });
      this.#next = index + 1;
      if (page.length === limit) break;
    }
    return page;
  }

  /** These came from the store, and count as read. */
  passed(page: ResultPage): void {
    for (const { index } of page) this.#drop(index);
    this.#next = (page.at(-1)?.index ?? this.#next - 1) + 1;
  }

  /** More tasks ended than were read or are held: the next may be one of them. */
  lacks({ completed, failed, cancelled }: JobCounts): boolean {
    return completed + failed + cancelled > this.#next + this.#held.size;
  }

  #hold(event: ResultEvent): void {
    if (event.index < this.#next || this.#held.has(event.index)) return;
    const bytes = bytesOf(event);
    if (this.#held.size >= HELD_MAX || this.#bytes + bytes > HELD_BYTES_MAX) return;
    this.#held.set(event.index, event);
    this.#bytes += bytes;
  }

  #drop(index: number): ResultEvent | undefined {
    const event = this.#held.get(index);
    if (!event) return undefined;
    this.#held.delete(index);
    this.#bytes -= bytesOf(event);
    return event;
  }
}

const bytesOf = ({ resultJson, output }: ResultEvent): number => (resultJson?.length ?? 0) + (output?.length ?? 0);
