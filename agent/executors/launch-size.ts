/**
 * How many attempts of a job share a launch: as many as are a few milliseconds of work, by how long attempts of it took.
 * Long beside what a message costs, short beside what people notice; longer while so much waits here that nobody could have
 * begun what is in it sooner.
 */

/** What was measured before counts half as much after every launch. */
const DECAY = 0.5;
const JOBS_MEASURED_MAX = 1000;

export class LaunchSizes {
  readonly #totalUs: number;
  readonly #mostUs: number;
  readonly #attemptsMax: number;
  /** Decayed; the least recently measured job first. */
  readonly #measured = new Map<number, { count: number; totalUs: number }>();

  /**
   * @param totalUs work in one launch
   * @param mostUs of those that are no more than a slot's share of what waits
   */
  constructor(totalUs: number, attemptsMax: number, mostUs: number = totalUs) {
    this.#totalUs = totalUs;
    this.#mostUs = mostUs;
    this.#attemptsMax = attemptsMax;
  }

  /**
   * At least 1; 1 for a job that nobody has measured.
   * @param share what waits here for each slot
   */
  of(job: number, share = 0): number {
    const measured = this.#measured.get(job);
    if (!measured) return 1;
    const meanUs = Math.max(1, measured.totalUs / measured.count);
    const wanted = Math.max(this.#totalUs, Math.min(this.#mostUs, share * meanUs));
    return Math.min(this.#attemptsMax, Math.max(1, Math.floor(wanted / meanUs)));
  }

  measure(job: number, count: number, totalUs: number): void {
    if (count === 0) return;
    const known = this.#measured.get(job) ?? { count: 0, totalUs: 0 };
    this.#measured.delete(job);
    this.#measured.set(job, { count: known.count * DECAY + count, totalUs: known.totalUs * DECAY + totalUs });
    if (this.#measured.size <= JOBS_MEASURED_MAX) return;
    const oldest = this.#measured.keys().next();
    if (!oldest.done) this.#measured.delete(oldest.value);
  }
}
