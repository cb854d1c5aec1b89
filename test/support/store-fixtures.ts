import { createHash } from 'node:crypto';
import { sql } from 'kysely';
import type { TaskRef } from '../../coordinator/core/task.js';
import {
  type AssignedRange,
  type AssignedTask,
  type AssignItem,
  type JobChange,
  type JobRow,
  type NewJob,
  type Settlement,
  type Store,
} from '../../coordinator/ports.js';
import type { PostgresStore } from '../../coordinator/store/index.js';
import { JobSpec, OnFailure } from '../../proto/gen/mesh/v1/mesh.js';
import { Capabilities } from '../../proto/gen/mesh/v1/common.js';

/** Rows to start a store test from. Everything random-looking is counted, so tests read the same each time. */
let counter = 0;

export const unique = (prefix: string): string => `${prefix}${++counter}`;

export const digestOf = (text: string): string => createHash('sha256').update(text).digest('hex');

export async function* pages(...given: string[][]): AsyncGenerator<string[]> {
  yield* given;
}

export const newJob = (total: number, over: Partial<NewJob> = {}): NewJob => {
  const id = unique('job');
  const work = { $case: 'process' as const, value: { argv: ['true'], environment: {} } };
  return {
    id,
    submitter: 'anna',
    idempotencyKey: `key-${id}`,
    specDigest: () => digestOf('spec'),
    spec: JobSpec.fromPartial({ name: 'work', work, taskCount: total, onFailure: OnFailure.FINISH, retries: 2 }),
    total,
    retryOf: undefined,
    hasInputs: false,
    ...over,
  };
};

/** A new leader of a store in which nobody led. */
export async function lead(store: Store): Promise<number> {
  const epoch = await store.leader.take(await store.leader.read(), unique('coordinator-'));
  if (epoch === undefined) throw new Error('nobody else should take the lease');
  return epoch;
}

export async function madeJob(store: Store, total: number, onFailure?: OnFailure): Promise<JobRow> {
  const job = newJob(total);
  if (onFailure !== undefined) job.spec.onFailure = onFailure;
  const created = await store.jobs.create(job, pages());
  return created.job;
}

/** Those of ranges one by one. */
const tasksOfRanges = (ranges: readonly AssignedRange[]): AssignedTask[] =>
  ranges.flatMap(({ job, node, from, to, inputs }) =>
    Array.from({ length: to - from }, (_, place) => ({
      ...{ job, node, index: from + place, generation: 1, failures: 0, losses: 0, input: inputs?.[place] },
    })),
  );

/** Assigns, and names the tasks one by one, those of ranges first. */
export async function assignTasks(
  store: Pick<Store, 'tasks'>,
  epoch: number,
  items: AssignItem[],
): Promise<{ tasks: AssignedTask[]; jobs: JobChange[] }> {
  const { ranges, tasks, jobs } = await store.tasks.assign(epoch, items);
  return { tasks: [...tasksOfRanges(ranges), ...tasks], jobs };
}

/** A job whose tasks are all assigned to node 1. */
export async function assignedJob(
  store: Store,
  epoch: number,
  total: number,
  onFailure?: OnFailure,
): Promise<{ job: JobRow; tasks: AssignedTask[] }> {
  const job = await madeJob(store, total, onFailure);
  const { tasks } = await assignTasks(store, epoch, [{ job: job.seq, node: 1, from: 0, to: total }]);
  return { job, tasks: tasks.sort((a, b) => a.index - b.index) };
}

export const settlement = (task: TaskRef & { node: number }, over: Partial<Settlement> = {}): Settlement => ({
  job: task.job,
  index: task.index,
  generation: task.generation,
  node: task.node,
  to: 'COMPLETED',
  outcome: 'succeeded',
  failure: 0,
  loss: 0,
  dueInMs: undefined,
  exitCode: 0,
  signal: undefined,
  error: undefined,
  resultJson: undefined,
  output: undefined,
  runUs: 1500,
  finishedAgeMs: 1,
  peakMemoryBytes: undefined,
  ...over,
});

export const failed = (task: TaskRef & { node: number }, over: Partial<Settlement> = {}): Settlement =>
  settlement(task, { to: 'FAILED', outcome: 'failed', failure: 1, exitCode: 1, error: 'exit code 1', ...over });

export const retrying = (task: TaskRef & { node: number }, over: Partial<Settlement> = {}): Settlement =>
  failed(task, { to: 'RETRYING', dueInMs: 0, ...over });

export const lost = (task: TaskRef & { node: number }, over: Partial<Settlement> = {}): Settlement =>
  settlement(task, {
    ...{ to: 'RETRYING', outcome: 'node-lost', loss: 1, dueInMs: 60_000, exitCode: undefined, runUs: undefined },
    error: 'node lost',
    ...over,
  });

export const retracted = (task: TaskRef & { node: number }): Settlement =>
  settlement(task, { to: 'QUEUED', outcome: 'retracted', dueInMs: 0, exitCode: undefined, runUs: undefined });

export const newNode = (name: string): Parameters<Store['nodes']['upsert']>[0] => ({
  id: unique('node'),
  name,
  capabilities: Capabilities.fromPartial({ cpus: 4, os: 'linux', labels: { zone: 'attic' } }),
  version: '0.1.0',
  bootId: unique('boot'),
  certificateSerial: 'ab12',
  certificateFingerprint: digestOf(name),
  certificateExpiresAtMs: 1_900_000_000_000,
});

export const countsOf = async (store: Store, id: string): Promise<JobRow['counts'] | undefined> =>
  (await store.jobs.get(id))?.counts;

/** Resolves when a statement of the store's database waits for a lock. Polls the server; no time is assumed. */
export async function untilBlocked(store: PostgresStore, statements = 1): Promise<void> {
  for (;;) {
    const { rows } = await sql<{ waiting: number }>`
      select count(*) as waiting from pg_stat_activity
      where datname = current_database() and wait_event_type = 'Lock'`.execute(store.database.kysely);
    if ((rows[0]?.waiting ?? 0) >= statements) return;
  }
}
