/**
 * The database under churn: a steady flow of jobs, and retention that deletes what ended a while ago. Does the rate hold,
 * and do the tables stay as large as what is in them? Every interval says what became of the tables since the last one.
 *
 * Without a rate there are always a few jobs waiting, so the mesh runs as fast as it can; with one, jobs come at that pace
 * and what is told is whether it keeps up and how long a job takes.
 */
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import postgres from 'postgres';
import { pause, systemClock } from '../common/clock.js';
import type { Bench, BenchOptions } from './bench.js';
import { type BenchMesh, startBenchMesh } from './mesh-side.js';
import { residentMemory, toMiB } from './process-memory.js';
import { formatNumber, type Result, type Row } from './report.js';
import { median } from './statistics.js';

const TASKS_PER_JOB = 500;
/** Jobs under way at a time where no rate is asked for. */
const AT_A_TIME = 8;
/** Retention, and a turn of the coordinator's to delete: from then on as much goes as comes. */
const STEADY_MS = 90_000;

interface Reading {
  atMs: number;
  taskBytes: number;
  taskIndexBytes: number;
  jobBytes: number;
  liveRows: number;
  deadRows: number;
  updates: number;
  hotUpdates: number;
  vacuums: number;
  walBytes: number;
}

interface Interval {
  rate: number;
  sizeMiB: number;
  deadShare: number;
  hotShare: number;
  vacuums: number;
  walPerTask: number;
  jobMs: { median: number; high: number };
  rssMiB: number;
}

type Sql = postgres.Sql;

async function read(sql: Sql): Promise<Reading> {
  // The statistics of a backend are told to others once a second at most; those of this one do not matter.
  const [row] = await sql<Omit<Reading, 'atMs'>[]>`
    select sum(pg_table_size(relid))::float8 as "taskBytes", sum(pg_indexes_size(relid))::float8 as "taskIndexBytes",
      pg_total_relation_size('job')::float8 as "jobBytes", sum(n_live_tup)::float8 as "liveRows",
      sum(n_dead_tup)::float8 as "deadRows", sum(n_tup_upd)::float8 as updates, sum(n_tup_hot_upd)::float8 as "hotUpdates",
      sum(autovacuum_count)::float8 as vacuums, (pg_current_wal_lsn() - '0/0'::pg_lsn)::float8 as "walBytes"
    from pg_stat_user_tables where relname in ('task', 'task_range', 'task_block')`;
  if (!row) throw new Error('there are no statistics of the tables of tasks');
  return { atMs: systemClock.monotonicMs(), ...row };
}

const high = (values: readonly number[]): number =>
  [...values].sort((a, b) => a - b)[Math.max(0, Math.ceil(values.length * 0.99) - 1)] ?? 0;

function intervalOf(before: Reading, after: Reading, tasks: number, jobMs: readonly number[], rss: number): Interval {
  const updates = after.updates - before.updates;
  return {
    rate: (tasks * 1000) / (after.atMs - before.atMs),
    sizeMiB: toMiB(after.taskBytes + after.taskIndexBytes),
    deadShare: (100 * after.deadRows) / Math.max(1, after.liveRows + after.deadRows),
    hotShare: updates > 0 ? (100 * (after.hotUpdates - before.hotUpdates)) / updates : 0,
    vacuums: after.vacuums - before.vacuums,
    walPerTask: (after.walBytes - before.walBytes) / Math.max(1, tasks),
    jobMs: { median: jobMs.length > 0 ? median(jobMs) : 0, high: high(jobMs) },
    rssMiB: toMiB(rss),
  };
}

/** Keeps jobs coming until the signal aborts; `onJob` hears of each that has ended. */
async function flow(mesh: BenchMesh, rate: number | undefined, over: AbortSignal, onJob: (ms: number) => void) {
  const work = await mesh.noop();
  const job = async (): Promise<void> => {
    const fromMs = systemClock.monotonicMs();
    const { id } = await mesh.submit({ name: 'churn', work, taskCount: TASKS_PER_JOB });
    const { status, error } = await mesh.wait(id);
    if (status !== 'COMPLETED') throw new Error(`job ${id} is ${status}: ${error}`);
    onJob(systemClock.monotonicMs() - fromMs);
  };
  if (rate === undefined) {
    await Promise.all(
      Array.from({ length: AT_A_TIME }, async () => {
        while (!over.aborted) await job();
      }),
    );
    return;
  }
  const everyMs = (TASKS_PER_JOB * 1000) / rate;
  const fromMs = systemClock.monotonicMs();
  const open = new Set<Promise<void>>();
  for (let count = 0; !over.aborted; count++) {
    // Whoever cannot keep up is not buried: the next job waits for one of those before it.
    if (open.size >= AT_A_TIME) await Promise.race(open);
    await pause(systemClock, Math.max(0, fromMs + count * everyMs - systemClock.monotonicMs()), over);
    const one: Promise<void> = job().finally(() => open.delete(one));
    open.add(one);
  }
  await Promise.all(open);
}

async function watch(mesh: BenchMesh, options: BenchOptions, everyMs: number, count: number): Promise<Interval[]> {
  const sql = postgres({ ...mesh.database, max: 1, onnotice: () => undefined });
  const over = new AbortController();
  let jobMs: number[] = [];
  const flowing = flow(mesh, options.rate, over.signal, (ms) => jobMs.push(ms));
  // Told below, when it is awaited.
  flowing.catch(() => over.abort());
  const intervals: Interval[] = [];
  try {
    await pause(systemClock, options.smoke ? 0 : STEADY_MS, over.signal);
    jobMs = [];
    for (let before = await read(sql); intervals.length < count && !over.signal.aborted; ) {
      await pause(systemClock, everyMs, over.signal);
      const after = await read(sql);
      const rss = residentMemory(mesh.coordinatorPid).nowBytes;
      const interval = intervalOf(before, after, jobMs.length * TASKS_PER_JOB, jobMs, rss);
      intervals.push(interval);
      jobMs = [];
      before = after;
      options.say(
        `${intervals.length}: ${formatNumber(interval.rate)} tasks/s, ${formatNumber(interval.sizeMiB)} MiB, ` +
          `${formatNumber(interval.deadShare)} % dead, ${formatNumber(interval.hotShare)} % HOT, ` +
          `${interval.vacuums} vacuums, ${formatNumber(interval.walPerTask)} B of WAL a task, ` +
          `a job ${formatNumber(interval.jobMs.median)} / ${formatNumber(interval.jobMs.high)} ms, ` +
          `${formatNumber(interval.rssMiB)} MiB RSS`,
      );
    }
    over.abort();
    await flowing;
    return intervals;
  } finally {
    over.abort();
    await sql.end();
  }
}

function rowsOf(intervals: readonly Interval[]): Row[] {
  const tenth = Math.max(1, Math.round(intervals.length / 10));
  const [first, last] = [intervals.slice(0, tenth), intervals.slice(-tenth)];
  const row = (what: string, unit: string, of: readonly Interval[], pick: (one: Interval) => number): Row => ({
    ...{ what, unit, values: of.map(pick) },
  });
  const size = (one: Interval): number => one.sizeMiB;
  return [
    row('rate, first tenth', 'tasks/s', first, ({ rate }) => rate),
    {
      ...row('rate, last tenth', 'tasks/s', last, ({ rate }) => rate),
      aims: [{ atLeast: 0.9, of: 'rate, first tenth' }],
    },
    row('tables and indexes of tasks, first tenth', 'MiB', first, size),
    {
      ...row('tables and indexes of tasks, last tenth', 'MiB', last, size),
      aims: [{ atMost: 1.1, of: 'tables and indexes of tasks, first tenth' }],
    },
    row('dead rows of tasks', '%', intervals, ({ deadShare }) => deadShare),
    row('HOT updates of tasks', '%', intervals, ({ hotShare }) => hotShare),
    row('autovacuum runs of tasks an interval', '', intervals, ({ vacuums }) => vacuums),
    row('WAL a task', 'B', intervals, ({ walPerTask }) => walPerTask),
    row(`a job of ${TASKS_PER_JOB}, median`, 'ms', intervals, ({ jobMs }) => jobMs.median),
    row(`a job of ${TASKS_PER_JOB}, 99 %`, 'ms', intervals, ({ jobMs }) => jobMs.high),
    row('RSS of the coordinator', 'MiB', intervals, ({ rssMiB }) => rssMiB),
  ];
}

async function run(options: BenchOptions): Promise<Result> {
  const { smoke, workDir, say, rate } = options;
  const minutes = smoke ? 0.05 : options.minutes;
  const everyMs = smoke ? 1000 : Math.min(60_000, minutes * 6000);
  const count = Math.max(1, Math.round((minutes * 60_000) / everyMs));
  const retention = smoke ? '1s' : '60s';
  const slots = availableParallelism();
  const settings = { MESH_RETENTION: retention };
  const mesh = await startBenchMesh({ dataDir: join(workDir, 'mesh'), agents: 1, slots, settings });
  try {
    say(`${count} intervals of ${formatNumber(everyMs / 1000)} s${rate ? ` at ${formatNumber(rate)} tasks/s` : ''}`);
    const intervals = await watch(mesh, options, everyMs, count);
    return {
      name: 'churn',
      title: `A steady flow of jobs for ${formatNumber(minutes)} min, ended ones deleted after ${retention}`,
      rows: rowsOf(intervals),
      config: {
        mesh: { settings: `defaults, but --retention ${retention}`, agents: '1', slots: String(slots) },
        flow: {
          jobs: `${TASKS_PER_JOB} no-op tasks each`,
          pace: rate ? `${formatNumber(rate)} tasks/s` : `${AT_A_TIME} at a time, as fast as they go`,
          interval: `${formatNumber(everyMs / 1000)} s`,
        },
      },
      notes: [`Counted from ${STEADY_MS / 1000} s on, when as many tasks go as come; one value for each interval.`],
    };
  } finally {
    await mesh.stop();
  }
}

export const churn: Bench = {
  name: 'churn',
  about: 'a flow of jobs with retention deleting old ones: rate, table sizes, HOT updates, WAL',
  run,
};
