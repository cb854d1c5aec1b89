import type { OutputChunk } from '../../proto/gen/mesh/v1/common.js';

/** Output of one attempt, as it arrives or as it came with the result. */
export interface OutputEvent {
  job: number;
  index: number;
  generation: number;
  /** Number of the attempt as people count, from 1. */
  attempt: number;
  /** Milliseconds since 1970 when the attempt started, as far as the coordinator can tell. */
  startedAtMs: number;
  chunks: OutputChunk[];
  /** No more of this attempt will come. */
  last: boolean;
}

/** A task completed, and so it is committed. */
export interface ResultEvent {
  index: number;
  resultJson: string | undefined;
  /** An OutputTail. */
  output: Uint8Array | undefined;
}

type Listener<T> = (event: T) => void;

/** A typed, synchronous fan-out. Listeners must not throw and must not block. */
class Topic<T> {
  readonly #listeners = new Map<number, Set<Listener<T>>>();

  subscribe(key: number, listener: Listener<T>): () => void {
    let set = this.#listeners.get(key);
    if (!set) this.#listeners.set(key, (set = new Set()));
    set.add(listener);
    return () => {
      set.delete(listener);
      if (set.size === 0) this.#listeners.delete(key);
    };
  }

  has(key: number): boolean {
    return this.#listeners.has(key);
  }

  emit(key: number, event: T): void {
    for (const listener of this.#listeners.get(key) ?? []) listener(event);
  }
}

/** Who wants to hear of what, by job number. */
export class Changes {
  /** The job's row or counters changed. */
  readonly jobs = new Topic<void>();
  readonly output = new Topic<OutputEvent>();
  /** Before `jobs` tells of the same change. Not all that completes is told: the store knows the rest. */
  readonly results = new Topic<ResultEvent>();
}
