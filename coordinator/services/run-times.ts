import type { Fleet } from './fleet.js';
import type { LiveJob } from './jobs.js';

/** What the tasks of one batch of results took, by job and node: what is learned of both (core/pace.ts). */
export class RunTimes {
  readonly #jobs = new Map<LiveJob, Map<number, { totalMs: number; count: number }>>();

  /** @param totalMs of all of them */
  add(job: LiveJob, node: number, totalMs: number, count = 1): void {
    let nodes = this.#jobs.get(job);
    if (!nodes) this.#jobs.set(job, (nodes = new Map()));
    const sum = nodes.get(node);
    if (sum) {
      sum.totalMs += totalMs;
      sum.count += count;
    } else {
      nodes.set(node, { totalMs, count });
    }
  }

  teach(fleet: Pick<Fleet, 'get'>): void {
    for (const [job, nodes] of this.#jobs)
      for (const [node, { totalMs, count }] of nodes) {
        const pace = fleet.get(node)?.pace;
        if (pace) pace.observe(job.taskTime, totalMs, count);
        else job.taskTime.observe(totalMs, count);
      }
  }
}
