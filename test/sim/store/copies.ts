/**
 * Tasks with two live attempts, as coordinator/store/tasks-speculate.ts has them in SQL (adr/0012-speculation.md): the task's
 * record is the copy, the original is kept beside it and counts while the task is live in the copy's generation.
 */
import type { AttemptOutcome } from '../../../coordinator/core/task.js';
import type { CopyAsked, CopySettled, CopyStore, OriginalAttempt, Settlement } from '../../../coordinator/ports.js';
import type { RunStatement } from './memory-store.js';
import type { JobRecord, OriginalRecord, Tables, TaskRecord } from './tables.js';
import { COUNTER, Deltas, ENDED, type LiveStatus, observeAssigned, observeSettled, pastOf } from './tasks.js';

const keyOf = ({ job, index }: { job: number; index: number }): string => `${job}.${index}`;

const isHeld = (task: TaskRecord): boolean => task.status === 'ASSIGNED' || task.status === 'RUNNING';

/** The original of a live task, if it has one. */
function originalOf(tables: Tables, ref: { job: number; index: number }, task: TaskRecord): OriginalRecord | undefined {
  const original = tables.originals.get(keyOf(ref));
  return original && isHeld(task) && original.copyGeneration === task.generation ? original : undefined;
}

function make(tables: Tables, epoch: number, asked: CopyAsked): Awaited<ReturnType<CopyStore['make']>> {
  tables.requireLead(epoch);
  const { index, generation, node, to } = asked;
  const deltas = new Deltas();
  const task = tables.jobs.get(asked.job)?.tasks[index];
  if (!task) return { task: undefined, jobs: [] };
  const made = () => ({
    ...{ job: asked.job, index, generation: task.generation, node: to, ...pastOf(task), input: task.input },
  });
  const known = originalOf(tables, asked, task);
  if (task.node === to && known?.alone === false && known.generation === generation && known.node === node)
    return { task: made(), jobs: [] };
  const job = tables.open(asked.job, { assignable: true });
  const isLone = known?.alone !== false && (known ?? task).generation === generation && task.node === node;
  if (!job || task.status !== 'RUNNING' || !isLone || node === to) return { task: undefined, jobs: [] };
  const { runningAtMs, startedAtMs } = task;
  tables.originals.set(keyOf(asked), {
    ...{ job: job.seq, index, generation, node, copyGeneration: task.generation + 1, alone: false },
    ...{ attempt: known?.attempt ?? task.failures + task.losses + 1, runningAtMs, startedAtMs },
  });
  const cleared = { runningAtMs: undefined, startedAtMs: undefined };
  Object.assign(
    task,
    { status: 'ASSIGNED', generation: task.generation + 1, node: to, assignedAtMs: tables.now() },
    cleared,
  );
  deltas.add(job, { running: -1, assigned: 1 });
  observeAssigned(tables, job, task, epoch, true);
  return { task: made(), jobs: deltas.apply(tables) };
}

interface Found {
  job: JobRecord;
  task: TaskRecord;
  original: OriginalRecord | undefined;
  part: 'original' | 'copy';
  /** No attempt of the task lives after it. */
  last: boolean;
}

const NOTHING: CopySettled = { accepted: false, live: [], failures: 0, losses: 0, failedNodes: [], jobs: [] };

function settle(tables: Tables, epoch: number, item: Settlement): CopySettled {
  tables.requireLead(epoch);
  const job = tables.open(item.job, { assignable: false });
  const task = job?.tasks[item.index];
  if (!job || !task || !isHeld(task)) return NOTHING;
  const original = originalOf(tables, item, task);
  const refOf = (pair: { generation: number; node: number | undefined }) => ({
    ...{ job: item.job, index: item.index, generation: pair.generation, node: pair.node as number },
  });
  const isOriginal = original?.generation === item.generation && original.node === item.node;
  const isRow = task.generation === item.generation && task.node === item.node;
  // With the guard taken away whatever comes is taken for the task's attempt.
  const isCopy = original?.alone !== true && (isRow || !tables.guards.generation);
  const part = isOriginal ? 'original' : isCopy ? 'copy' : undefined;
  if (part === undefined) {
    const live = [...(original?.alone ? [] : [refOf(task)]), ...(original ? [refOf(original)] : [])];
    return { ...NOTHING, live, ...pastOf(task) };
  }
  const last = item.to === 'COMPLETED' || item.to === 'FAILED' || original === undefined || original.alone;
  const live = last ? [] : [refOf(part === 'original' ? task : (original as OriginalRecord))];
  const deltas = new Deltas();
  end(tables, { job, task, original, part, last }, item, deltas);
  observeSettled(tables, epoch, item);
  return { accepted: true, live, ...pastOf(task), jobs: deltas.apply(tables) };
}

function end(tables: Tables, found: Found, item: Settlement, deltas: Deltas): void {
  const { job, task, original, part, last } = found;
  const atMs = tables.now() - Math.max(0, Number.isFinite(item.finishedAgeMs) ? item.finishedAgeMs : 0);
  const ends = item.to === 'COMPLETED' || item.to === 'FAILED';
  record(tables, found, item, atMs);
  const before = task.status as LiveStatus;
  if (last) task.status = item.to;
  else if (part === 'copy') task.status = 'RUNNING';
  // The original takes the row over: because it ends the task, or because the copy left it to itself.
  if (original && (part === 'original') === last) {
    const { node, runningAtMs, startedAtMs } = original;
    Object.assign(task, { node, runningAtMs, startedAtMs });
  } else if (last && item.runUs !== undefined) task.startedAtMs ??= atMs - item.runUs / 1000;
  if (original && part === 'original' && ends) task.generation = original.generation;
  task.failures += item.failure;
  task.losses += item.loss;
  task.dueAtMs = last && !ends ? tables.now() + (item.dueInMs ?? 0) : undefined;
  task.finishedAtMs = ends ? atMs : undefined;
  const spoiled = item.failure === 1 || item.outcome === 'node-fault';
  if (spoiled && !task.failedNodes.includes(item.node)) task.failedNodes.push(item.node);
  task.lastError = item.error ?? task.lastError;
  const { exitCode, runUs, peakMemoryBytes } = item;
  if (last) Object.assign(task, { exitCode, runUs, peakMemoryBytes });
  task.resultJson = ends ? item.resultJson : undefined;
  task.output = item.outcome === 'succeeded' ? item.output : undefined;
  if (part === 'original' || last) tables.originals.delete(keyOf(item));
  else if (original) original.alone = true;
  deltas.add(job, { [COUNTER[before]]: -1 });
  const after = task.status;
  deltas.add(job, { [after in COUNTER ? COUNTER[after as LiveStatus] : ENDED[after as 'FAILED']]: 1 });
}

/** The attempt's end, and that of the other one if the task ended with it. */
function record(tables: Tables, { task, original, part, last }: Found, item: Settlement, atMs: number): void {
  const { job, index, outcome, error, output, runUs } = item;
  const copyAttempt = task.failures + task.losses + 1 + (original ? 1 : 0);
  const attempt = part === 'original' && original ? original.attempt : copyAttempt;
  const began = runUs === undefined ? undefined : atMs - runUs / 1000;
  const startedAtMs = part === 'original' ? original?.startedAtMs : (task.startedAtMs ?? began);
  if (outcome !== 'succeeded' && !(outcome === 'retracted' && item.to === 'QUEUED'))
    tables.attempts.push({
      ...{ job, index, generation: item.generation, attempt },
      ...{ node: item.node, outcome, error: error?.replaceAll('\0', ''), output, startedAtMs, finishedAtMs: atMs },
    });
  const ends = last && (item.to === 'COMPLETED' || item.to === 'FAILED');
  if (!ends || !original) return;
  if (part === 'copy') recordCancelled(tables, original);
  else if (!original.alone && task.status === 'RUNNING')
    recordCancelled(tables, {
      ...{ job, index, generation: task.generation, node: task.node as number },
      ...{ attempt: copyAttempt, startedAtMs: task.startedAtMs },
    });
}

type CancelledAttempt = Pick<OriginalRecord, 'job' | 'index' | 'generation' | 'node' | 'attempt' | 'startedAtMs'>;

function recordCancelled(tables: Tables, attempt: CancelledAttempt): void {
  const { job, index, generation, node, startedAtMs } = attempt;
  const outcome: AttemptOutcome = 'cancelled';
  tables.attempts.push({
    ...{ job, index, generation, node, attempt: attempt.attempt, outcome, error: undefined, output: undefined },
    ...{ startedAtMs, finishedAtMs: tables.now() },
  });
}

function cancel(tables: Tables, epoch: number, job: number): void {
  tables.requireLead(epoch);
  if (!tables.jobs.get(job)?.cancelling) return;
  for (const [key, original] of tables.originals) {
    if (original.job !== job) continue;
    tables.originals.delete(key);
    recordCancelled(tables, original);
  }
}

function live(tables: Tables): OriginalAttempt[] {
  const found: OriginalAttempt[] = [];
  for (const { job, index, generation, node, alone, copyGeneration } of tables.originals.values()) {
    const task = tables.open(job, { assignable: false })?.tasks[index];
    if (!task || !isHeld(task) || task.generation !== copyGeneration) continue;
    found.push({ job, index, generation, node, alone, ...pastOf(task) });
  }
  return found.sort((a, b) => a.job - b.job || a.index - b.index);
}

export const copyStore = (tables: Tables, read: RunStatement, write: RunStatement): CopyStore => ({
  make: (epoch, asked) => write('copies.make', () => make(tables, epoch, asked)),
  settle: (epoch, item) => write('copies.settle', () => settle(tables, epoch, item)),
  cancel: (epoch, job) => write('copies.cancel', () => cancel(tables, epoch, job)),
  live: () => read('copies.live', () => live(tables)),
  runTimesMs: (job, rows) =>
    read('copies.runTimesMs', () =>
      (tables.jobs.get(job)?.tasks ?? [])
        .slice(-rows)
        .flatMap(({ status, runUs }) => (status === 'COMPLETED' && runUs !== undefined ? [runUs / 1000] : []))
        .sort((a, b) => a - b),
    ),
});
