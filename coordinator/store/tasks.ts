import type { TaskStore } from '../ports.js';
import type { Database } from './database.js';
import { assign } from './tasks-assign.js';
import { cancel } from './tasks-cancel.js';
import { taskReads } from './tasks-read.js';
import { readopt } from './tasks-readopt.js';
import { adopt, markRunning } from './tasks-running.js';
import { settle } from './tasks-settle.js';
import type { Turns } from './turns.js';

/** The task aggregate: one file per family of statements. */
export function taskStore(database: Database, turns: Turns): TaskStore {
  return {
    assign: (epoch, items) => turns.share(() => assign(database, epoch, items)),
    settle: (epoch, items, runs) => turns.share(() => settle(database, epoch, items, runs)),
    markRunning: (epoch, items) => turns.alone(() => markRunning(database, epoch, items)),
    adopt: (epoch, items) => turns.alone(() => adopt(database, epoch, items)),
    readopt: (epoch, items) => turns.alone(() => readopt(database, epoch, items)),
    cancel: (epoch, job, fromIndex, limit) => turns.alone(() => cancel(database, epoch, job, fromIndex, limit)),
    ...taskReads(database),
  };
}
