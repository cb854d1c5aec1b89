import type { Clock } from '../../common/clock.js';
import type { Finished, FinishedBatch, TaskRefs } from '../../proto/gen/mesh/v1/agent.js';

interface Waiting {
  finished: Finished;
  endedMs: number;
}

/**
 * Results that the coordinator has not acknowledged. Each is sent when it is made and again after every reconnect, until
 * the acknowledgement, which comes after the coordinator's commit. Bounded by what was assigned: the coordinator gives
 * no more before it has these.
 */
export class Outbox {
  /** By job and index; a newer generation of a task takes the place of an older one, which nobody wants any more. */
  readonly #jobs = new Map<number, Map<number, Waiting>>();

  constructor(private readonly clock: Clock) {}

  add(finished: Finished): void {
    let job = this.#jobs.get(finished.job);
    if (!job) this.#jobs.set(finished.job, (job = new Map()));
    // The output of a superseded attempt may have taken longer to store than its successor took to end.
    if ((job.get(finished.index)?.finished.generation ?? 0) > finished.generation) return;
    job.set(finished.index, { finished, endedMs: this.clock.monotonicMs() - finished.ageMs });
  }

  /** Acknowledged or no longer wanted. */
  remove(refs: TaskRefs): void {
    for (let i = 0; i < refs.jobs.length; i++) {
      const job = this.#jobs.get(refs.jobs[i] as number);
      const index = refs.indexes[i] as number;
      if (job?.get(index)?.finished.generation !== refs.generations[i]) continue;
      job?.delete(index);
      if (job?.size === 0) this.#jobs.delete(refs.jobs[i] as number);
    }
  }

  /** Everything that waits, in bounded batches, each result with its present age. */
  *batches(sizeMax: number): Generator<FinishedBatch> {
    const nowMs = this.clock.monotonicMs();
    let items: Finished[] = [];
    for (const job of this.#jobs.values()) {
      for (const { finished, endedMs } of job.values()) {
        items.push({ ...finished, ageMs: Math.round(nowMs - endedMs) });
        if (items.length < sizeMax) continue;
        yield { items };
        items = [];
      }
    }
    if (items.length > 0) yield { items };
  }
}
