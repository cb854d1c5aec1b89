/** What chaos proves: the promises over the whole history, and the figures that people read. */
import { check, type Violation } from '../history/check.js';
import type { History, HistoryEvent } from '../history/events.js';
import { databaseEvents, everyTask, historyOf, Trail } from '../support/trail.js';
import type { Submitted } from './load.js';
import { LEASE_MS, type World } from './world.js';

export interface Verdict {
  submitted: number;
  completed: number;
  failed: number;
  cancelled: number;
  again: number;
  /** Acknowledged tasks that never ended. */
  lost: number;
  /** Results that were accepted beyond the first of a task, or that are not what their attempt said. */
  doubled: number;
  longestStallMs: number;
  violations: Violation[];
  history: History;
}

const MOVES = new Set<HistoryEvent['kind']>([
  'task-assigned',
  'attempt-began',
  'attempt-ended',
  'attempt-settled',
  'task-terminal',
]);

export async function judge(world: World, jobs: readonly Submitted[]): Promise<Verdict> {
  const trail = new Trail(world.mesh.witness.lines('trail'));
  const fromDatabase = await databaseEvents(world.sql);
  const acknowledged = new Map(jobs.map((job) => [job.id, job]));
  const history = historyOf(world.events, skipped(acknowledged, fromDatabase), trail.events(), fromDatabase);
  const ends = fromDatabase.flatMap((event) =>
    event.kind === 'final-job' && acknowledged.has(event.job) ? [event] : [],
  );
  const sum = (of: 'completed' | 'failed' | 'cancelled') => ends.reduce((total, end) => total + end[of], 0);
  const submitted = jobs.reduce((total, { tasks }) => total + tasks, 0);
  const [completed, failed, cancelled] = [sum('completed'), sum('failed'), sum('cancelled')];
  const violations = check(history, { leaseMs: LEASE_MS, slackMs: 10_000 });
  const wrong = await wrongResults(world, acknowledged, trail);
  violations.push(...wrong.map((message) => ({ invariant: 'I2', message, atMs: undefined }) as const));
  return {
    ...{ submitted, completed, failed, cancelled, violations, history },
    again: trail.again,
    lost: submitted - completed - failed - cancelled,
    doubled: violations.filter(({ invariant }) => invariant === 'I2').length,
    longestStallMs: longestStall(history),
  };
}

/** Tasks of cancelled jobs that never got a row have ended all the same. */
function skipped(acknowledged: ReadonlyMap<string, Submitted>, events: History): HistoryEvent[] {
  const rows = new Set(events.flatMap((event) => (event.kind === 'final-task' ? [`${event.job}.${event.index}`] : [])));
  return events.flatMap((event) => {
    const job = event.kind === 'final-job' && event.status === 'CANCELLED' ? acknowledged.get(event.job) : undefined;
    if (!job) return [];
    return Array.from({ length: job.tasks }, (_, index) => index)
      .filter((index) => !rows.has(`${job.id}.${index}`))
      .map((index) => ({ kind: 'task-terminal', atMs: event.atMs, job: job.id, index, status: 'CANCELLED' }) as const);
  });
}

/**
 * A completed command's output is the pid of the process that wrote it, which must have come to its end by its own
 * account; a function's result is a square. And the counters of a job are the sums of its rows.
 */
async function wrongResults(world: World, jobs: ReadonlyMap<string, Submitted>, trail: Trail): Promise<string[]> {
  const wrong: string[] = [];
  const ended = new Set(
    trail.runs.flatMap(({ first, ended }) => (ended ? [`${first.job}.${first.index} ${first.pid}`] : [])),
  );
  const rows = await world.sql<{ id: string; index: number; text: string | null; output: Buffer | null }[]>`
    select job.id, index, result_json as text, output from ${everyTask(world.sql)} task join job on job.seq = task.job
    where task.status = 'COMPLETED'`;
  for (const { id, index, text, output } of rows) {
    const job = jobs.get(id);
    if (!job) continue;
    if (job.kind === 'function') {
      if (text !== JSON.stringify({ squared: index * index })) wrong.push(`${id}.${index} was answered with ${text}`);
      continue;
    }
    const pid = /(\d+)\n/.exec(output?.toString('latin1') ?? '')?.[1];
    if (!ended.has(`${id}.${index} ${pid}`)) wrong.push(`${id}.${index} has the result of ${pid}, which did not end`);
  }
  const counters = await world.sql<{ id: string }[]>`
    select job.id from job left join ${everyTask(world.sql)} task on task.job = job.seq
    group by job.seq
    having job.completed <> count(*) filter (where task.status = 'COMPLETED')
      or job.failed <> count(*) filter (where task.status = 'FAILED')`;
  wrong.push(...counters.map(({ id }) => `the counters of ${id} are not the sums of its rows`));
  return wrong;
}

/** The longest time in which nothing moved while some task was open. */
function longestStall(history: History): number {
  let [open, sinceMs, longestMs] = [0, 0, 0];
  for (const event of history) {
    const counts = event.kind === 'job-acknowledged' || event.kind === 'end' || MOVES.has(event.kind);
    if (!counts) continue;
    if (open > 0) longestMs = Math.max(longestMs, event.atMs - sinceMs);
    sinceMs = event.atMs;
    if (event.kind === 'job-acknowledged') open += event.tasks;
    if (event.kind === 'task-terminal') open--;
  }
  return longestMs;
}
