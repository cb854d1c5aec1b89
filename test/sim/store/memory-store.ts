/**
 * The store in memory: the second implementation of coordinator/ports.ts, for the simulator. It shares its conformance
 * suite (test/conformance/store.ts) with the one over PostgreSQL.
 *
 * Every statement goes through `run`, which decides when it reaches the tables, whether it does, and whether the answer
 * gets back: a lost COMMIT is a transaction that ran and an answer that did not come.
 */
import { MeshError } from '../../../common/errors.js';
import {
  type Settled,
  type Settlement,
  settlementsOf,
  type Store,
  type TaskStore,
} from '../../../coordinator/ports.js';
import { copyStore } from './copies.js';
import * as jobs from './jobs.js';
import { otherStores } from './others.js';
import * as reads from './reads.js';
import type { Tables } from './tables.js';
import * as tasks from './tasks.js';

export interface Statement {
  name: string;
  writes: boolean;
}

export type Run = <T>(statement: Statement, transaction: () => T) => Promise<T>;

/** A database that is next door and never fails. */
export const runAtOnce: Run = async (_statement, transaction) => transaction();

export function memoryStore(tables: Tables, run: Run = runAtOnce): Store {
  const read = <T>(name: string, transaction: () => T): Promise<T> => run({ name, writes: false }, transaction);
  const write = <T>(name: string, transaction: () => T): Promise<T> => run({ name, writes: true }, transaction);
  return {
    jobs: {
      create: async (job, inputs) => {
        const isKnown = await read('jobs.isKnown', () => jobs.isKnown(tables, job));
        // The digest is asked for after the inputs, which are hashed on the way.
        const given: string[] = [];
        for await (const page of inputs) given.push(...page);
        if (!isKnown) await job.admit?.();
        const node = isKnown ? undefined : job.place?.();
        return write('jobs.create', () => jobs.create(tables, job, isKnown ? [] : given, node));
      },
      get: (id) => read('jobs.get', () => jobs.get(tables, id)),
      list: (query) => read('jobs.list', () => jobs.list(tables, query)),
      live: () => read('jobs.live', () => jobs.live(tables)),
      countByStatus: () => read('jobs.countByStatus', () => jobs.countByStatus(tables)),
      taskTotals: () => read('jobs.taskTotals', () => jobs.taskTotals(tables)),
      withdrawRows: async () => undefined,
      requestCancel: (epoch, seq, error) =>
        write('jobs.requestCancel', () => jobs.requestCancel(tables, epoch, seq, error)),
      remove: (seqs) => write('jobs.remove', () => jobs.remove(tables, seqs)),
      endedBefore: (ms, limit) => read('jobs.endedBefore', () => jobs.endedBefore(tables, ms, limit)),
    },
    tasks: taskStore(tables, read, write),
    copies: copyStore(tables, read, write),
    ...otherStores(tables, read, write),
    ping: () => read('ping', () => undefined),
    close: async () => undefined,
  };
}

export type RunStatement = <T>(name: string, transaction: () => T) => Promise<T>;

function taskStore(tables: Tables, read: RunStatement, write: RunStatement): TaskStore {
  return {
    assign: (epoch, items) => write('tasks.assign', () => tasks.assign(tables, epoch, items)),
    markRunning: (epoch, items) => write('tasks.markRunning', () => tasks.markRunning(tables, epoch, items)),
    settle: (epoch, items, runs = []) => settle(tables, write, epoch, [...items, ...runs.flatMap(settlementsOf)]),
    adopt: (epoch, items) => write('tasks.adopt', () => tasks.adopt(tables, epoch, items)),
    readopt: (epoch, items) => write('tasks.readopt', () => tasks.readopt(tables, epoch, items)),
    cancel: (epoch, job, from, limit) => write('tasks.cancel', () => tasks.cancel(tables, epoch, job, from, limit)),
    returned: (after, limit) => read('tasks.returned', () => reads.returned(tables, after, limit)),
    due: (jobs, limitEach) => read('tasks.due', () => reads.due(tables, jobs, limitEach)),
    nextDueInMs: (jobs) => read('tasks.nextDueInMs', () => reads.nextDueInMs(tables, jobs)),
    live: () => read('tasks.live', () => reads.live(tables)),
    list: (query) => read('tasks.list', () => reads.list(tables, query)),
    made: (job) => read('tasks.made', () => reads.made(tables, job)),
    attempts: (job, index) => read('tasks.attempts', () => reads.attempts(tables, job, index)),
    results: (job, from, limit) => read('tasks.results', () => reads.results(tables, job, from, limit)),
    inputs: (refs) => read('tasks.inputs', () => reads.inputs(tables, refs)),
    storedBytes: (job) => read('tasks.storedBytes', () => reads.storedBytes(tables, job)),
    nodesLost: (refs) => read('tasks.nodesLost', () => reads.nodesLost(tables, refs)),
    unfinishedInputs: (job, from, limit) =>
      read('tasks.unfinishedInputs', () => reads.unfinishedInputs(tables, job, from, limit)),
  };
}

/** Two statements when a batch holds successes and others, each a transaction of its own: one may commit without the other. */
async function settle(
  tables: Tables,
  write: RunStatement,
  epoch: number,
  items: readonly Settlement[],
): Promise<Settled> {
  const accepted = items.map(() => false);
  const changes = new Map<number, Settled['jobs'][number]>();
  const isSuccess = (item: Settlement) => item.outcome === 'succeeded' && item.to === 'COMPLETED';
  for (const successes of [true, false]) {
    const positions = items.flatMap((item, position) => (isSuccess(item) === successes ? [position] : []));
    if (positions.length === 0) continue;
    const part = positions.map((position) => items[position] as Settlement);
    const settled = await write('tasks.settle', () => tasks.settle(tables, epoch, part));
    settled.accepted.forEach((matched, i) => (accepted[positions[i] as number] = matched));
    for (const change of settled.jobs) changes.set(change.seq, change);
  }
  return { accepted, jobs: [...changes.values()] };
}

export const databaseDown = (why: string): MeshError => new MeshError('DATABASE_DOWN', `the simulated database ${why}`);
