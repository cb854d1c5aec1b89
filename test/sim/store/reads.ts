/** Reading tasks, as coordinator/store/tasks-read.ts does. */
import type { TaskStore } from '../../../coordinator/ports.js';
import type { JobRecord, Tables, TaskRecord } from './tables.js';
import { withAge } from './tasks.js';

type Result<K extends keyof TaskStore> = Awaited<ReturnType<TaskStore[K]>>;

/** Tasks that came back, of jobs that may run, the earliest first. */
function waiting(tables: Tables): { job: JobRecord; task: TaskRecord; dueAtMs: number }[] {
  const found: { job: JobRecord; task: TaskRecord; dueAtMs: number }[] = [];
  for (const job of tables.jobs.values()) {
    if (job.completedAtMs !== undefined || job.cancelling) continue;
    for (const task of job.tasks) if (task.dueAtMs !== undefined) found.push({ job, task, dueAtMs: task.dueAtMs });
  }
  return found.sort((a, b) => a.dueAtMs - b.dueAtMs);
}

export const returned = (tables: Tables, afterJob: number, limit: number): Result<'returned'> =>
  [...tables.jobs.values()]
    .filter(({ seq, tasks }) => seq > afterJob && tasks.some((task) => task.dueAtMs !== undefined))
    .map(({ seq }) => seq)
    .sort((a, b) => a - b)
    .slice(0, limit);

export function due(tables: Tables, jobs: readonly number[], limitEach: number): Result<'due'> {
  const ready = waiting(tables).filter(({ dueAtMs }) => dueAtMs <= tables.now());
  return jobs.flatMap((seq) =>
    ready
      .filter(({ job }) => job.seq === seq)
      .slice(0, limitEach)
      .map(({ task: { index, failedNodes, failures, losses } }) => ({
        ...{ job: seq, index, failedNodes: [...failedNodes], failures, losses },
      })),
  );
}

export function nextDueInMs(tables: Tables, jobs: readonly number[]): Result<'nextDueInMs'> {
  const first = waiting(tables).find(({ job, dueAtMs }) => dueAtMs > tables.now() && jobs.includes(job.seq));
  return first && first.dueAtMs - tables.now();
}

export const live = (tables: Tables): Result<'live'> =>
  [...tables.jobs.values()]
    .filter((job) => job.completedAtMs === undefined)
    .flatMap((job) =>
      job.tasks
        .filter(({ status }) => status === 'ASSIGNED' || status === 'RUNNING')
        .map((task) => withAge(tables, job, task)),
    );

export function list(tables: Tables, query: Parameters<TaskStore['list']>[0]): Result<'list'> {
  const { among, fromIndex, toIndex = Number.POSITIVE_INFINITY } = query;
  const isAmong = ({ index, dueAtMs }: TaskRecord): boolean => {
    if (among === 'returned') return dueAtMs !== undefined;
    if (among === 'failed') return tables.attempts.some((one) => one.job === query.job && one.index === index);
    return among === undefined || among.includes(index);
  };
  const tasks = (tables.jobs.get(query.job)?.tasks ?? [])
    .filter(({ index }) => index >= fromIndex && index < toIndex)
    .filter((task) => (query.status === undefined || task.status === query.status) && isAmong(task));
  return tasks.slice(0, query.limit).map((task) => {
    const { dueAtMs: _due, runningAtMs: _running, failedNodes: _failed, input: _input, ...row } = task;
    return { ...row, job: query.job, node: task.node === undefined ? undefined : tables.nodes.get(task.node)?.name };
  });
}

export const made = (tables: Tables, job: number): number => tables.jobs.get(job)?.tasks.length ?? 0;

export const attempts = (tables: Tables, job: number, index: number): Result<'attempts'> =>
  tables.attempts
    .filter((attempt) => attempt.job === job && attempt.index === index)
    .sort((a, b) => a.generation - b.generation || a.attempt - b.attempt)
    .map(({ job: _job, index: _index, node, ...rest }) => ({ ...rest, node: tables.nodes.get(node)?.name ?? '' }));

export function results(tables: Tables, job: number, fromIndex: number, limit: number): Result<'results'> {
  const record = tables.jobs.get(job);
  const rows = (record?.tasks ?? []).slice(fromIndex, fromIndex + limit);
  if (record && record.skipped > 0 && fromIndex >= record.tasks.length)
    return Array.from({ length: Math.max(0, Math.min(limit, record.counts.total - fromIndex)) }, (_, place) => ({
      ...{ index: fromIndex + place, status: 'CANCELLED' as const, resultJson: undefined, output: undefined },
    }));
  const stop = rows.findIndex((row) => row.finishedAtMs === undefined);
  return rows
    .slice(0, stop === -1 ? rows.length : stop)
    .map(({ index, status, resultJson, output }) => ({ index, status, resultJson, output }));
}

export const inputs = (tables: Tables, refs: Parameters<TaskStore['inputs']>[0]): Result<'inputs'> =>
  refs.map((ref) => tables.jobs.get(ref.job)?.tasks[ref.index]?.input);

export const storedBytes = (tables: Tables, job: number): Result<'storedBytes'> =>
  [...(tables.jobs.get(job)?.tasks ?? []), ...tables.attempts.filter((attempt) => attempt.job === job)].reduce(
    (bytes, kept) => bytes + (kept.output?.length ?? 0) + ('resultJson' in kept ? (kept.resultJson?.length ?? 0) : 0),
    0,
  );

export const nodesLost = (tables: Tables, refs: Parameters<TaskStore['nodesLost']>[0]): Result<'nodesLost'> =>
  refs.map(
    (ref) =>
      new Set(
        tables.attempts
          .filter((a) => a.job === ref.job && a.index === ref.index && a.outcome === 'node-lost')
          .filter((a) => a.startedAtMs !== undefined && a.node !== ref.node)
          .map((a) => a.node),
      ).size,
  );

export function unfinishedInputs(
  tables: Tables,
  seq: number,
  fromIndex: number,
  limit: number,
): Result<'unfinishedInputs'> {
  const job = tables.jobs.get(seq);
  const found: Result<'unfinishedInputs'> = [];
  for (let index = fromIndex; job && index < job.counts.total && found.length < limit; index++)
    if (job.tasks[index]?.status !== 'COMPLETED') found.push({ index, input: job.inputs[index] });
  return found;
}
