/** Tasks with two live attempts; here nobody makes any, so ending an attempt is what it is for every other task. */
import type { CopyStore } from '../../../coordinator/ports.js';
import type { RunStatement } from './memory-store.js';
import type { Tables } from './tables.js';
import { settle } from './tasks.js';

export const copyStore = (tables: Tables, read: RunStatement, write: RunStatement): CopyStore => ({
  make: () => write('copies.make', () => ({ task: undefined, jobs: [] })),
  settle: (epoch, item) =>
    write('copies.settle', () => {
      const { accepted, jobs } = settle(tables, epoch, [item]);
      const task = tables.jobs.get(item.job)?.tasks[item.index];
      return {
        accepted: accepted[0] === true,
        live: [],
        failures: task?.failures ?? 0,
        losses: task?.losses ?? 0,
        jobs,
      };
    }),
  cancel: (epoch) => write('copies.cancel', () => tables.requireLead(epoch)),
  live: () => read('copies.live', () => []),
  runTimesMs: (job, rows) =>
    read('copies.runTimesMs', () =>
      (tables.jobs.get(job)?.tasks ?? [])
        .slice(-rows)
        .flatMap(({ status, runUs }) => (status === 'COMPLETED' && runUs !== undefined ? [runUs / 1000] : []))
        .sort((a, b) => a - b),
    ),
});
