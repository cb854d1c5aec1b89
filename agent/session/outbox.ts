import type { Clock } from '../../common/clock.js';
import type { Finished, FinishedBatch, TaskRefs } from '../../proto/gen/mesh/v1/agent.js';
import type { AttemptRef } from '../core/types.js';

/**
 * Results that the coordinator has not acknowledged. Each is sent when it is made and again after every reconnect, until
 * the acknowledgement, which comes after the coordinator's commit. Bounded by what was assigned: the coordinator gives
 * no more before it has these.
 */
export class Outbox {
  readonly #waiting = new Map<string, { finished: Finished; endedMs: number }>();

  constructor(private readonly clock: Clock) {}

  get size(): number {
    return this.#waiting.size;
  }

  add(finished: Finished): void {
    this.#waiting.set(keyOf(finished), { finished, endedMs: this.clock.monotonicMs() - finished.ageMs });
  }

  /** Acknowledged or no longer wanted. */
  remove(refs: TaskRefs): void {
    for (let i = 0; i < refs.jobs.length; i++) {
      const [job, index, generation] = [refs.jobs[i], refs.indexes[i], refs.generations[i]];
      this.#waiting.delete(keyOf({ job: job as number, index: index as number, generation: generation as number }));
    }
  }

  /** Everything that waits, in bounded batches, each result with its present age. */
  *batches(sizeMax: number): Generator<FinishedBatch> {
    const nowMs = this.clock.monotonicMs();
    let items: Finished[] = [];
    for (const { finished, endedMs } of this.#waiting.values()) {
      items.push({ ...finished, ageMs: Math.round(nowMs - endedMs) });
      if (items.length < sizeMax) continue;
      yield { items };
      items = [];
    }
    if (items.length > 0) yield { items };
  }
}

const keyOf = ({ job, index, generation }: AttemptRef): string => `${job}.${index}.${generation}`;
