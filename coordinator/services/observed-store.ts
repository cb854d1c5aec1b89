import type { Clock } from '../../common/clock.js';
import { countOfRuns, type Store, type TaskStore } from '../ports.js';

export type ObserveBatch = (op: string, seconds: number, rows: number) => void;

/** The same store, with the hot statements timed and their rows counted. */
export function observed(store: Store, clock: Clock, observe: ObserveBatch): Store {
  const timed = async <T>(op: string, rows: number, run: () => Promise<T>): Promise<T> => {
    const beganMs = clock.monotonicMs();
    const result = await run();
    observe(op, (clock.monotonicMs() - beganMs) / 1000, rows);
    return result;
  };
  const { tasks } = store;
  const observedTasks: TaskStore = {
    ...tasks,
    assign: (epoch, items) => {
      const rows = items.reduce(
        (sum, item) => sum + ('indexes' in item ? item.indexes.length : item.to - item.from),
        0,
      );
      return timed('assign', rows, () => tasks.assign(epoch, items));
    },
    markRunning: (epoch, items) => timed('mark-running', items.length, () => tasks.markRunning(epoch, items)),
    settle: (epoch, items, runs = []) =>
      timed('settle', items.length + countOfRuns(runs), () => tasks.settle(epoch, items, runs)),
    adopt: (epoch, items) => timed('adopt', items.length, () => tasks.adopt(epoch, items)),
    readopt: (epoch, items) => timed('readopt', items.length, () => tasks.readopt(epoch, items)),
    cancel: (epoch, job, from, limit) => timed('cancel', limit, () => tasks.cancel(epoch, job, from, limit)),
  };
  return { ...store, tasks: observedTasks };
}
