/** The statements that move tasks, as coordinator/store/tasks-*.ts have them in SQL. */
import { MeshError } from '../../../common/errors.js';
import type { TaskPast, TaskRef } from '../../../coordinator/core/task.js';
import type {
  Assigned,
  AssignedRange,
  AssignedTask,
  AssignItem,
  JobChange,
  LiveTask,
  ReadoptedTask,
  ReadoptItem,
  Settled,
  Settlement,
  TaskStore,
} from '../../../coordinator/ports.js';
import { type Delta, type JobRecord, newTask, type Tables, type TaskRecord, toChange } from './tables.js';

type Move<T> = { changed: T[]; jobs: JobChange[] };

/** Sums up what a statement does to each job and applies it at its end. */
export class Deltas {
  readonly #byJob = new Map<JobRecord, Delta>();

  add(job: JobRecord, delta: Delta): void {
    const sum = this.#byJob.get(job) ?? {};
    for (const [name, value] of Object.entries(delta) as [keyof Delta, number][])
      sum[name] = name === 'cursor' ? Math.max(sum.cursor ?? 0, value) : (sum[name] ?? 0) + value;
    this.#byJob.set(job, sum);
  }

  apply(tables: Tables): JobChange[] {
    return [...this.#byJob].sort(([a], [b]) => a.seq - b.seq).map(([job, delta]) => tables.move(job, delta));
  }
}

export const COUNTER = { QUEUED: 'queued', ASSIGNED: 'assigned', RUNNING: 'running', RETRYING: 'retrying' } as const;
export const ENDED = { COMPLETED: 'completed', FAILED: 'failed', CANCELLED: 'cancelled' } as const;
export type LiveStatus = keyof typeof COUNTER;

const isLive = (status: TaskRecord['status']): status is LiveStatus => status in COUNTER;

/** A copy: the record goes on. */
export const pastOf = ({ failures, losses, failedNodes }: TaskRecord): TaskPast => ({
  ...{ failures, losses, failedNodes: [...failedNodes] },
});

export const toLive = (job: JobRecord, task: TaskRecord): LiveTask => ({
  ...{ job: job.seq, index: task.index, generation: task.generation, node: task.node as number },
  ...{ status: task.status as LiveTask['status'], ...pastOf(task) },
});

/** With how long it has run, or been assigned, as far as is known. */
export const withAge = (tables: Tables, job: JobRecord, task: TaskRecord): LiveTask => ({
  ...toLive(job, task),
  ageMs: Math.max(0, tables.now() - (task.startedAtMs ?? task.assignedAtMs ?? tables.now())),
});

export function assign(tables: Tables, epoch: number, items: readonly AssignItem[]): Assigned & { jobs: JobChange[] } {
  tables.requireLead(epoch);
  const deltas = new Deltas();
  const [ranges, tasks]: [AssignedRange[], AssignedTask[]] = [[], []];
  const take = (job: JobRecord, task: TaskRecord, node: number, delta: Delta): void => {
    deltas.add(job, { ...delta, assigned: 1 });
    const cleared = { dueAtMs: undefined, runningAtMs: undefined, startedAtMs: undefined };
    Object.assign(
      task,
      { status: 'ASSIGNED', node, generation: task.generation + 1, assignedAtMs: tables.now() },
      cleared,
    );
    observeAssigned(tables, job, task, epoch);
  };
  for (const item of items) {
    const job = tables.open(item.job, { assignable: true });
    if (!job) continue;
    if ('from' in item) {
      if (item.from !== job.tasks.length || item.to > job.counts.total) continue;
      for (let index = item.from; index < item.to; index++) {
        const task = newTask(index, job.inputs[index], job.createdAtMs);
        job.tasks.push(task);
        take(job, task, item.node, { cursor: index + 1 });
      }
      const inputs = job.inputs.slice(item.from, item.to);
      ranges.push({ ...item, inputs: inputs.length > 0 ? inputs : undefined });
    } else {
      for (const index of item.indexes) {
        const task = job.tasks[index];
        const waits = task?.status === 'QUEUED' || task?.status === 'RETRYING';
        if (!task || !waits || task.dueAtMs === undefined || task.dueAtMs > tables.now()) continue;
        take(job, task, item.node, { [COUNTER[task.status as LiveStatus]]: -1 });
        const { generation, input } = task;
        tasks.push({ job: job.seq, index, generation, node: item.node, ...pastOf(task), input });
      }
    }
  }
  return { ranges, tasks, jobs: deltas.apply(tables) };
}

export function observeAssigned(tables: Tables, job: JobRecord, task: TaskRecord, epoch: number, copy?: true): void {
  const { index, generation } = task;
  const node = tables.nodeName(task.node);
  const attempt = { job: String(job.seq), index, generation, node, epoch, ...(copy && { copy }) };
  tables.observe({ kind: 'task-assigned', atMs: tables.now(), ...attempt });
}

/** The task in exactly this generation on exactly this node, of a job that is open. */
function find(
  tables: Tables,
  ref: TaskRef & { node: number },
  options: { assignable: boolean },
): { job: JobRecord; task: TaskRecord } | undefined {
  const job = tables.open(ref.job, options);
  const task = job?.tasks[ref.index];
  if (!job || !task) return undefined;
  const matches = task.generation === ref.generation && task.node === ref.node;
  return matches || !tables.guards.generation ? { job, task } : undefined;
}

export function markRunning(
  tables: Tables,
  epoch: number,
  items: readonly (TaskRef & { node: number; ageMs: number })[],
): Move<TaskRef> {
  tables.requireLead(epoch);
  const deltas = new Deltas();
  const changed: TaskRef[] = [];
  for (const item of items) {
    const found = find(tables, item, { assignable: false });
    if (found?.task.status !== 'ASSIGNED') continue;
    const startedAtMs = tables.now() - item.ageMs;
    Object.assign(found.task, { status: 'RUNNING', runningAtMs: tables.now(), startedAtMs });
    deltas.add(found.job, { assigned: -1, running: 1 });
    changed.push({ job: item.job, index: item.index, generation: item.generation });
  }
  return { changed, jobs: deltas.apply(tables) };
}

export function settle(tables: Tables, epoch: number, items: readonly Settlement[]): Settled {
  tables.requireLead(epoch);
  const deltas = new Deltas();
  const accepted = items.map((item) => {
    const found = find(tables, item, { assignable: false });
    const held = found?.task.status === 'ASSIGNED' || found?.task.status === 'RUNNING';
    if (found && held) settleOne(tables, epoch, { ...found, item, deltas });
    return held;
  });
  return { accepted, jobs: deltas.apply(tables) };
}

function settleOne(
  tables: Tables,
  epoch: number,
  { job, task, item, deltas }: { job: JobRecord; task: TaskRecord; item: Settlement; deltas: Deltas },
): void {
  const nowMs = tables.now();
  const atMs = nowMs - Math.max(0, Number.isFinite(item.finishedAgeMs) ? item.finishedAgeMs : 0);
  const ends = item.to === 'COMPLETED' || item.to === 'FAILED';
  const attempt = task.failures + task.losses + 1;
  deltas.add(job, { [COUNTER[task.status as LiveStatus]]: -1 });
  deltas.add(job, { [ends ? ENDED[item.to as 'FAILED'] : COUNTER[item.to as 'RETRYING']]: 1 });
  task.status = item.to;
  task.failures += item.failure;
  task.losses += item.loss;
  task.dueAtMs = ends ? undefined : nowMs + (item.dueInMs ?? 0);
  if (item.runUs !== undefined) task.startedAtMs ??= atMs - item.runUs / 1000;
  task.finishedAtMs = ends ? atMs : undefined;
  const spoiled = item.failure === 1 || item.outcome === 'node-fault';
  if (spoiled && !task.failedNodes.includes(item.node)) task.failedNodes.push(item.node);
  const { exitCode, runUs, peakMemoryBytes, resultJson } = item;
  Object.assign(task, { exitCode, runUs, peakMemoryBytes, resultJson });
  task.lastError = item.error ?? task.lastError;
  task.output = item.outcome === 'succeeded' ? item.output : undefined;
  if (item.outcome !== 'succeeded' && !(item.outcome === 'retracted' && item.to === 'QUEUED'))
    tables.attempts.push({
      ...{ job: job.seq, index: task.index, generation: item.generation, attempt, node: item.node },
      ...{ outcome: item.outcome, error: item.error?.replaceAll('\0', ''), output: item.output },
      ...{ startedAtMs: task.startedAtMs, finishedAtMs: atMs },
    });
  observeSettled(tables, epoch, item);
}

export function observeSettled(tables: Tables, epoch: number, item: Settlement): void {
  const { index, generation, outcome, to } = item;
  const job = String(item.job);
  const atMs = tables.now();
  const due = item.dueInMs === undefined ? {} : { dueInMs: item.dueInMs };
  const node = tables.nodeName(item.node);
  tables.observe({ kind: 'attempt-settled', atMs, job, index, generation, node, epoch, outcome, to, ...due });
  if (to === 'COMPLETED' || to === 'FAILED') tables.observe({ kind: 'task-terminal', atMs, job, index, status: to });
}

export function adopt(tables: Tables, epoch: number, items: readonly (TaskRef & { node: number })[]): Move<LiveTask> {
  tables.requireLead(epoch);
  const deltas = new Deltas();
  const changed: LiveTask[] = [];
  for (const item of items) {
    const found = find(tables, item, { assignable: true });
    if (!found) continue;
    const { job, task } = found;
    if (task.status === 'RUNNING') changed.push(withAge(tables, job, task));
    if (task.status !== 'QUEUED' && task.status !== 'RETRYING') continue;
    const ends = tables.attempts.filter(
      (end) => end.job === job.seq && end.index === task.index && end.generation === task.generation,
    );
    // One whose end is known is not adopted: its result would count again.
    if (ends.some((end) => end.outcome !== 'node-lost')) continue;
    deltas.add(job, { [COUNTER[task.status]]: -1, running: 1 });
    task.losses = Math.max(0, task.losses - ends.length);
    for (const end of ends) tables.attempts.splice(tables.attempts.indexOf(end), 1);
    const startedAtMs = task.startedAtMs ?? task.assignedAtMs;
    Object.assign(task, { status: 'RUNNING', dueAtMs: undefined, runningAtMs: tables.now(), startedAtMs });
    changed.push(withAge(tables, job, task));
  }
  return { changed, jobs: deltas.apply(tables) };
}

export function readopt(tables: Tables, epoch: number, items: readonly ReadoptItem[]): Move<ReadoptedTask> {
  tables.requireLead(epoch);
  const deltas = new Deltas();
  const changed: ReadoptedTask[] = [];
  for (const item of items) {
    const job = tables.open(item.job, { assignable: true });
    const task = job?.tasks[item.index];
    if (!job || !task || item.node === item.replacement.node) continue;
    const { generation: former, replacement } = item;
    const again = task.generation === replacement.generation + 1 && task.node === item.node;
    if (again && task.status === 'RUNNING') changed.push({ ...toLive(job, task), former, replacement });
    const present = task.generation === replacement.generation && task.node === replacement.node;
    if (!present || (task.status !== 'ASSIGNED' && task.status !== 'RUNNING')) continue;
    const losses = lossesOf(tables, item);
    if (losses.length === 0) continue;
    if (task.status === 'RUNNING')
      tables.attempts.push({
        ...{ job: job.seq, index: task.index, generation: task.generation, attempt: task.failures + task.losses + 1 },
        ...{ node: task.node as number, outcome: 'cancelled', error: undefined, output: undefined },
        ...{ startedAtMs: task.startedAtMs, finishedAtMs: tables.now() },
      });
    else deltas.add(job, { assigned: -1, running: 1 });
    for (const loss of losses) tables.attempts.splice(tables.attempts.indexOf(loss), 1);
    const startedAtMs =
      item.ageMs === undefined ? (losses[0]?.startedAtMs ?? task.assignedAtMs) : tables.now() - item.ageMs;
    Object.assign(task, {
      ...{ status: 'RUNNING', generation: task.generation + 1, node: item.node, runningAtMs: tables.now() },
      ...{ startedAtMs, losses: Math.max(0, task.losses - losses.length), exitCode: undefined },
    });
    observeAssigned(tables, job, task, epoch);
    changed.push({ ...toLive(job, task), former, replacement });
  }
  return { changed, jobs: deltas.apply(tables) };
}

const lossesOf = (tables: Tables, { job, index, generation, node }: ReadoptItem) =>
  tables.attempts.filter(
    (end) =>
      end.job === job &&
      end.index === index &&
      end.generation === generation &&
      end.node === node &&
      end.outcome === 'node-lost',
  );

export function cancel(
  tables: Tables,
  epoch: number,
  seq: number,
  fromIndex: number,
  limit: number,
): Awaited<ReturnType<TaskStore['cancel']>> {
  tables.requireLead(epoch);
  const job = tables.jobs.get(seq);
  if (!job) throw new MeshError('NOT_FOUND', `there is no job number ${seq}`);
  const live: LiveTask[] = [];
  if (!job.cancelling || job.completedAtMs !== undefined)
    return { nextIndex: undefined, live, cancelled: 0, job: toChange(job) };
  const rows = job.tasks.length;
  const deltas = new Deltas();
  let cancelled = 0;
  for (const task of job.tasks.slice(fromIndex, fromIndex + limit)) {
    if (!isLive(task.status)) continue;
    deltas.add(job, { [COUNTER[task.status]]: -1, cancelled: 1 });
    if (task.status === 'ASSIGNED' || task.status === 'RUNNING') live.push(toLive(job, task));
    if (task.status === 'RUNNING')
      tables.attempts.push({
        ...{ job: seq, index: task.index, generation: task.generation, attempt: task.failures + task.losses + 1 },
        ...{ node: task.node as number, outcome: 'cancelled', error: undefined, output: undefined },
        ...{ startedAtMs: task.startedAtMs, finishedAtMs: tables.now() },
      });
    Object.assign(task, { status: 'CANCELLED', finishedAtMs: tables.now(), dueAtMs: undefined });
    observeCancelled(tables, job, task.index);
    cancelled++;
  }
  const missing = job.counts.total - job.counts.materialised;
  for (let index = job.counts.materialised; index < job.counts.total; index++) observeCancelled(tables, job, index);
  job.counts.materialised += missing;
  job.skipped += missing;
  deltas.add(job, { cancelled: missing });
  const change = deltas.apply(tables)[0] as JobChange;
  const next = fromIndex + limit;
  return { nextIndex: next < rows ? next : undefined, live, cancelled: cancelled + missing, job: change };
}

const observeCancelled = (tables: Tables, job: JobRecord, index: number): void =>
  tables.observe({ kind: 'task-terminal', atMs: tables.now(), job: String(job.seq), index, status: 'CANCELLED' });
