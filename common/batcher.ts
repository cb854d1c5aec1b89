export interface BatcherOptions<T> {
  /** A flush takes items that weigh no more than this together, and one in any case. */
  itemsMax: number;
  /** One each unless it says otherwise. */
  weigh?: (item: T) => number;
  /** Flushes one batch. Never called twice at a time; items that arrive meanwhile form the next batch. */
  flush: (items: T[]) => Promise<void>;
  onError: (error: unknown, items: T[]) => void;
}

/**
 * Group commit: an item that finds the batcher idle is flushed in the same turn of the event loop; items that arrive
 * during a flush wait for it and go together. So the window is as long as one flush takes, and nothing waits when idle.
 */
export class Batcher<T> {
  readonly #options: BatcherOptions<T>;
  #waiting: T[] = [];
  #flushing: Promise<void> | undefined;

  constructor(options: BatcherOptions<T>) {
    this.#options = options;
  }

  get size(): number {
    return this.#waiting.length;
  }

  add(item: T): void {
    this.#waiting.push(item);
    this.#flushing ??= this.#drain();
  }

  addAll(items: readonly T[]): void {
    for (const item of items) this.#waiting.push(item);
    if (items.length > 0) this.#flushing ??= this.#drain();
  }

  /** Resolves when everything added so far has been flushed. */
  async idle(): Promise<void> {
    while (this.#flushing) await this.#flushing;
  }

  /** How many of those that wait go together. */
  #fitting(): number {
    const { itemsMax, weigh } = this.#options;
    if (!weigh) return Math.min(this.#waiting.length, itemsMax);
    let weight = 0;
    const end = this.#waiting.findIndex((item, at) => (weight += weigh(item)) > itemsMax && at > 0);
    return end < 0 ? this.#waiting.length : end;
  }

  async #drain(): Promise<void> {
    await Promise.resolve();
    while (this.#waiting.length > 0) {
      const count = this.#fitting();
      const items = count === this.#waiting.length ? this.#waiting : this.#waiting.slice(0, count);
      this.#waiting = items === this.#waiting ? [] : this.#waiting.slice(count);
      try {
        await this.#options.flush(items);
      } catch (error) {
        this.#options.onError(error, items);
      }
    }
    this.#flushing = undefined;
  }
}
