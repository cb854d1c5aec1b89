/**
 * What the database would not take, until it does. One outage is one line in the log when it begins and one when it is
 * over, however many batches failed; and what failed is tried again together, on one timer. What comes in meanwhile makes
 * its own attempt, so that a batch which is refused for a reason of its own holds up nobody else's.
 */
import type { Clock } from '../../common/clock.js';
import type { Logger } from '../../common/log.js';

const RETRY_MS = 500;

export interface UnsavedOptions<T> {
  /** What it is, for the log: `results` becomes `results.unsaved` and `results.saved`. */
  kind: string;
  clock: Clock;
  log: Logger;
  again: (items: T[]) => void;
}

/** `unsure` is set on what failed: it may have been committed all the same, and only the answer lost. */
export class Unsaved<T extends { unsure?: true | undefined }> {
  readonly #options: UnsavedOptions<T>;
  #waiting: T[] = [];
  /** Failed and not saved since. */
  #owed = 0;
  #count = 0;
  #sinceMs = 0;
  #stopped = false;

  constructor(options: UnsavedOptions<T>) {
    this.#options = options;
  }

  /** What is not saved until now is not tried again. */
  stop(): void {
    this.#stopped = true;
  }

  failed(error: unknown, items: readonly T[]): void {
    const { kind, clock, log } = this.#options;
    if (this.#owed === 0) {
      this.#sinceMs = clock.monotonicMs();
      this.#count = 0;
      log.error(
        { event: `${kind}.unsaved`, count: items.length, err: error },
        'could not commit; trying until it works',
      );
    }
    for (const item of items) {
      if (item.unsure) continue;
      item.unsure = true;
      this.#owed++;
      this.#count++;
    }
    if (this.#stopped) return;
    if (this.#waiting.length === 0) clock.after(RETRY_MS, () => this.#again());
    for (const item of items) this.#waiting.push(item);
  }

  /** Costs nothing while nothing is owed. */
  saved(items: readonly T[]): void {
    if (this.#owed === 0) return;
    for (const item of items) if (item.unsure && this.#owed > 0) this.#owed--;
    if (this.#owed > 0) return;
    const { kind, clock, log } = this.#options;
    const forMs = Math.round(clock.monotonicMs() - this.#sinceMs);
    log.info({ event: `${kind}.saved`, count: this.#count, forMs }, 'what could not be committed is committed');
  }

  #again(): void {
    const items = this.#waiting;
    this.#waiting = [];
    if (!this.#stopped && items.length > 0) this.#options.again(items);
  }
}
