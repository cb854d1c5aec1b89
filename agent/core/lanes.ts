import type { Attempt } from './attempt.js';
import type { Demand } from './room.js';

/** Dropped attempts stay in a lane until they are reached; beyond this many a lane is rewritten without them. */
const STALE_MAX = 1024;

/** Waiting attempts of one demand and one way to take a disconnect, in order of arrival. Everything is amortised O(1). */
export class Lane {
  readonly key: string;
  readonly demand: Demand;
  /** Its attempts are not to run without a coordinator. */
  readonly stops: boolean;
  /** How often a younger attempt of another lane was let past this lane's head. */
  passes = 0;
  #queue: Attempt[] = [];
  #head = 0;
  /** Returned attempts; they are older than the queue's. The last element goes first. */
  #returned: Attempt[] = [];
  #stale = 0;

  constructor(key: string, demand: Demand, stops: boolean) {
    this.key = key;
    this.demand = demand;
    this.stops = stops;
  }

  push(attempt: Attempt): void {
    this.#queue.push(attempt);
  }

  /** Puts back what was taken, before everything that waits; `attempts` are in their old order. */
  putBack(attempts: readonly Attempt[]): void {
    for (let i = attempts.length - 1; i >= 0; i--) this.#returned.push(attempts[i] as Attempt);
  }

  /** One of the waiting attempts left PREFILLED without being taken. */
  dropped(): void {
    this.#stale++;
    if (this.#stale <= STALE_MAX || this.#stale * 2 < this.#queue.length - this.#head) return;
    const waits = (attempt: Attempt) => attempt.state === 'PREFILLED';
    this.#queue = this.#queue.slice(this.#head).filter(waits);
    this.#returned = this.#returned.filter(waits);
    this.#head = 0;
    this.#stale = 0;
  }

  /** The oldest waiting attempt. */
  peek(): Attempt | undefined {
    for (;;) {
      const returned = this.#returned.at(-1);
      const attempt = returned ?? this.#queue[this.#head];
      if (!attempt || attempt.state === 'PREFILLED') return attempt;
      this.#advance(returned !== undefined);
      this.#stale--;
    }
  }

  /** Takes the oldest and those right behind it that belong to the same job, at most `max`. */
  take(max: number): Attempt[] {
    const taken: Attempt[] = [];
    for (
      let next = this.peek();
      next && taken.length < max && next.job === (taken[0] ?? next).job;
      next = this.peek()
    ) {
      taken.push(next);
      this.#advance(this.#returned.length > 0);
    }
    this.passes = 0;
    return taken;
  }

  #advance(returned: boolean): void {
    if (returned) {
      this.#returned.pop();
      return;
    }
    this.#head++;
    if (this.#head > 512 && this.#head * 2 > this.#queue.length) {
      this.#queue = this.#queue.slice(this.#head);
      this.#head = 0;
    }
  }
}
