/** What the coordinator learns about work: how long tasks take, and which jobs ask for the same. */
import type { Resources } from '../../proto/gen/mesh/v1/common.js';
import type { Selector } from '../../common/selector.js';
import { costOf } from './room.js';
import type { Kind } from './scheduler/types.js';

/** An estimate follows about the last so many observations, once it has seen as many. */
const MEMORY = 16;
/** One batch of results counts at most as so many observations: a burst is one piece of news, not thousands. */
const BURST_MAX = 4;
/** A mean may pull the estimate at most by this factor: one task that hung does not stand for the next thousand. */
const OUTLIER = 8;

/** Exponentially weighted mean of running times: a plain mean at first, robust to bursts and outliers later. */
export class TaskTime {
  #ms: number | undefined;
  #seen = 0;

  /** @param alike what is known of other work of the kind: it stands in before the first observation, and learns too */
  constructor(private readonly alike?: TaskTime) {}

  /** Undefined before the first observation. Fractions of a millisecond for no-ops. */
  get ms(): number | undefined {
    return this.#ms ?? this.alike?.ms;
  }

  /** `count` attempts that ended together ran for `totalMs` in sum. */
  observe(totalMs: number, count: number): void {
    if (!(count > 0) || !(totalMs >= 0)) return;
    this.alike?.observe(totalMs, count);
    const mean = totalMs / count;
    const news = Math.min(count, BURST_MAX);
    if (this.#ms === undefined) {
      this.#ms = mean;
    } else {
      const bounded = this.#ms > 0 ? Math.min(Math.max(mean, this.#ms / OUTLIER), this.#ms * OUTLIER) : mean;
      const weight = Math.max(1 - (1 - 1 / MEMORY) ** news, news / (this.#seen + news));
      this.#ms += weight * (bounded - this.#ms);
    }
    this.#seen = Math.min(this.#seen + news, MEMORY);
  }
}

/** Learned task times by job number; a job is forgotten when it ends. */
export class TaskTimes {
  readonly #jobs = new Map<number, TaskTime>();

  /** @param ranMs running times in sum, in milliseconds, of `count` attempts that ran to their own end */
  observe(job: number, ranMs: number, count = 1): void {
    let time = this.#jobs.get(job);
    if (!time) {
      time = new TaskTime();
      this.#jobs.set(job, time);
    }
    time.observe(ranMs, count);
  }

  of(job: number): number | undefined {
    return this.#jobs.get(job)?.ms;
  }

  forget(job: number): void {
    this.#jobs.delete(job);
  }
}

/**
 * Interns what jobs ask of a node, so that the planner looks at kinds and not at jobs. Memory is bounded by the kinds of
 * the jobs that live: each `intern` is paired with a `release`. Ids are never used twice.
 */
export class KindRegistry {
  readonly #byText = new Map<string, { kind: Kind; users: number }>();
  readonly #textById = new Map<number, string>();
  #nextId = 1;

  get size(): number {
    return this.#byText.size;
  }

  intern(
    executor: Kind['executor'],
    resources: Resources,
    selector: Selector,
    {
      fenced = false,
      sandbox,
      limited = false,
      secrets,
    }: Partial<Pick<Kind, 'fenced' | 'sandbox' | 'limited' | 'secrets'>> = {},
  ): Kind {
    const text = JSON.stringify([executor, costOf(resources), selector, fenced, sandbox, limited, secrets]);
    const known = this.#byText.get(text);
    if (known) {
      known.users++;
      return known.kind;
    }
    const kind: Kind = { id: this.#nextId++, executor, resources, selector, fenced, sandbox, limited, secrets };
    this.#byText.set(text, { kind, users: 1 });
    this.#textById.set(kind.id, text);
    return kind;
  }

  get(id: number): Kind | undefined {
    const text = this.#textById.get(id);
    return text === undefined ? undefined : this.#byText.get(text)?.kind;
  }

  /** One job less uses it; true when it was the last and the kind is forgotten. */
  release(kind: Kind): boolean {
    const text = this.#textById.get(kind.id);
    const known = text === undefined ? undefined : this.#byText.get(text);
    if (text === undefined || !known || --known.users > 0) return false;
    this.#byText.delete(text);
    this.#textById.delete(kind.id);
    return true;
  }
}
