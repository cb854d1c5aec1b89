/** What was accepted and how tasks ended: I1 to I4. */
import { groupBy } from '../../common/group-by.js';
import type { Invariant, Violation } from './check.js';
import type { History, JobAcknowledged } from './events.js';
import { attemptText, runsOf, taskKey } from './runs.js';

const TERMINAL: ReadonlySet<string> = new Set(['COMPLETED', 'FAILED', 'CANCELLED']);
/** Ends that a later adoption never takes back. */
const RESULTS: ReadonlySet<string> = new Set(['succeeded', 'failed', 'timed-out']);

export const acknowledged = (history: History): Map<string, JobAcknowledged> =>
  new Map(history.flatMap((event) => (event.kind === 'job-acknowledged' ? [[event.job, event] as const] : [])));

/** I1: every acknowledged task reaches exactly one terminal state. */
export const oneEnd: Invariant = (history) => {
  const found: Violation[] = [];
  const violated = (message: string, atMs?: number) => found.push({ invariant: 'I1', message, atMs });
  const ends = new Map<string, string>();
  const rows = new Map<string, string>();
  const finalJobs = new Map(
    history.flatMap((event) => (event.kind === 'final-job' ? [[event.job, event] as const] : [])),
  );
  for (const event of history) {
    if (event.kind === 'task-terminal') {
      const earlier = ends.get(taskKey(event));
      if (earlier !== undefined)
        violated(`${taskKey(event)} ended as ${event.status} after it had ended as ${earlier}`, event.atMs);
      ends.set(taskKey(event), event.status);
    }
    if (event.kind === 'final-task') rows.set(taskKey(event), event.status);
  }
  for (const [key, status] of rows) {
    if (!TERMINAL.has(status)) violated(`${key} never ended: it is ${status}`);
    const end = ends.get(key);
    if (end !== undefined && end !== status) violated(`${key} ended as ${end} and its row says ${status}`);
  }
  const isOver = history.some((event) => event.kind === 'final-job' || event.kind === 'final-task');
  for (const job of isOver ? acknowledged(history).values() : []) {
    const row = finalJobs.get(job.job);
    const known = [...rows.keys()].some((key) => key.startsWith(`${job.job}.`));
    if (!row && !known) violated(`job ${job.job} was acknowledged and is gone`, job.atMs);
    const ended = row ? row.completed + row.failed + row.cancelled : job.tasks;
    if (ended !== job.tasks) violated(`${job.tasks - ended} of ${job.tasks} tasks of job ${job.job} never ended`);
    if (row && (row.status === 'QUEUED' || row.status === 'RUNNING'))
      violated(`job ${job.job} never ended: it is ${row.status}`);
  }
  return found;
};

/** I2: at most one accepted result per task, and none twice. */
export const oneResult: Invariant = (history) => {
  const found: Violation[] = [];
  const ending = new Map<string, number>();
  const results = new Set<string>();
  for (const event of history) {
    if (event.kind !== 'attempt-settled') continue;
    const key = taskKey(event);
    const violated = (message: string) => found.push({ invariant: 'I2', message, atMs: event.atMs });
    if (TERMINAL.has(event.to)) {
      const earlier = ending.get(key);
      if (earlier !== undefined)
        violated(`${attemptText(event)} was accepted (${event.to}) after generation ${earlier} had ended the task`);
      ending.set(key, event.generation);
    }
    if (!RESULTS.has(event.outcome)) continue;
    if (results.has(`${key}#${event.generation}`)) violated(`the result of ${attemptText(event)} was accepted twice`);
    results.add(`${key}#${event.generation}`);
  }
  return found;
};

/**
 * I3: no result from a superseded generation or epoch is accepted. A straggler's copy does not supersede what it is a copy
 * of: both are current until one of them is settled.
 */
export const onlyCurrent: Invariant = (history) => {
  const found: Violation[] = [];
  const current = new Map<string, { generation: number; node: string }>();
  /** Attempts whose copies are the current ones. */
  const originals = new Map<string, { generation: number; node: string }>();
  const isSame = (attempt: { generation: number; node: string }, known?: { generation: number; node: string }) =>
    attempt.generation === known?.generation && attempt.node === known.node;
  let epoch = 0;
  for (const event of history) {
    if (event.kind === 'leader-elected') {
      if (event.epoch <= epoch)
        found.push({
          invariant: 'I3',
          message: `${event.holder} was elected in epoch ${event.epoch} after epoch ${epoch} had begun`,
          atMs: event.atMs,
        });
      epoch = Math.max(epoch, event.epoch);
    }
    if (event.kind !== 'task-assigned' && event.kind !== 'attempt-settled') continue;
    const violated = (message: string) => found.push({ invariant: 'I3', message, atMs: event.atMs });
    if (event.epoch < epoch)
      violated(`${attemptText(event)}: epoch ${event.epoch} wrote "${event.kind}" while epoch ${epoch} ruled`);
    const now = current.get(taskKey(event));
    if (event.kind === 'task-assigned') {
      if (now && event.generation <= now.generation)
        violated(`${attemptText(event)} was assigned after generation ${now.generation}`);
      // Of an original whose copy has ended there may be another copy.
      if (event.copy && now) originals.set(taskKey(event), originals.get(taskKey(event)) ?? now);
      else originals.delete(taskKey(event));
      current.set(taskKey(event), { generation: event.generation, node: event.node });
    } else if (isSame(event, originals.get(taskKey(event)))) {
      originals.delete(taskKey(event));
    } else if (now && !isSame(event, now)) {
      violated(`${attemptText(event)} was accepted (${event.outcome}); current is ${now.generation} on ${now.node}`);
    }
  }
  return found;
};

/**
 * I3: what is accepted as an attempt's result is that attempt's, which has ended by then. One that goes on under a later
 * generation keeps the one it began with; then no attempt began under the later one there.
 */
export const ownResult: Invariant = (history) => {
  const found: Violation[] = [];
  const runs = groupBy(runsOf(history), placeOf);
  const taken = new Set<object>();
  for (const event of runs.size === 0 ? [] : history) {
    if (event.kind !== 'attempt-settled' || !RESULTS.has(event.outcome)) continue;
    const here = (runs.get(placeOf(event)) ?? []).filter((run) => run.beganMs <= event.atMs && !taken.has(run));
    const exact = here.filter((run) => run.generation === event.generation);
    const ended = (exact.length > 0 ? exact : here).find((run) => run.endedMs <= event.atMs);
    if (ended) taken.add(ended);
    // A command that cannot be started fails without ever having begun.
    else if (event.outcome === 'succeeded' || exact.length > 0) {
      const message = `${attemptText(event)} was accepted (${event.outcome}) and no such attempt had ended there`;
      found.push({ invariant: 'I3', message, atMs: event.atMs });
    }
  }
  return found;
};

const placeOf = (event: { job: string; index: number; node: string }): string => `${taskKey(event)}@${event.node}`;

/** I4: failures and losses stay within their bounds. */
export const boundedCounts: Invariant = (history) => {
  const jobs = acknowledged(history);
  const found: Violation[] = [];
  for (const event of history) {
    const job = event.kind === 'final-task' ? jobs.get(event.job) : undefined;
    if (!job || event.kind !== 'final-task') continue;
    for (const [what, count, max] of [
      ['failed', event.failures, job.failuresMax],
      ['was lost', event.losses, job.lossesMax],
    ] as const)
      if (count > max)
        found.push({
          invariant: 'I4',
          message: `${taskKey(event)} ${what} ${count} times, at most ${max}`,
          atMs: undefined,
        });
  }
  return found;
};
