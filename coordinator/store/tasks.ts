import type { TaskStore } from '../ports.js';
import type { Database } from './database.js';
import { assign } from './tasks-assign.js';
import { cancel } from './tasks-cancel.js';
import { taskReads } from './tasks-read.js';
import { adopt, markRunning } from './tasks-running.js';
import { settle } from './tasks-settle.js';

/** The task aggregate: one file per family of statements. */
export const taskStore = (database: Database): TaskStore => ({
  assign: (epoch, items) => assign(database, epoch, items),
  markRunning: (epoch, items) => markRunning(database, epoch, items),
  settle: (epoch, items) => settle(database, epoch, items),
  adopt: (epoch, items) => adopt(database, epoch, items),
  cancel: (epoch, job, fromIndex, limit) => cancel(database, epoch, job, fromIndex, limit),
  ...taskReads(database),
});
