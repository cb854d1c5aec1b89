/**
 * One job of a million tasks, and ten thousand jobs of a hundred, against the same mesh at ten thousand tasks: how long
 * submitting takes, when the first task has run, what the coordinator's memory comes to, whether the rate holds, and
 * what it takes to look at a page of the tasks. A fresh mesh for each run, so that no run pays for the one before.
 */
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../common/clock.js';
import type { Job } from '../proto/gen/mesh/v1/mesh.js';
import type { Bench, BenchOptions } from './bench.js';
import { settleDatabase } from './database.js';
import { listPages, type Listing } from './listing.js';
import { type BenchMesh, startBenchMesh } from './mesh-side.js';
import { toMiB, watchMemory } from './process-memory.js';
import { formatNumber, type Result, type Row } from './report.js';
import { median } from './statistics.js';
import { until } from './until.js';

const POLL_MS = 50;
/** Submissions under way at a time, where there are many jobs. */
const SUBMITTERS = 64;
const WARM_RUNS = 4;
const SMALL_RUNS = 10;
const LIST_ROUNDS = 20;
/** The row that rates are compared with. */
const BASE = 'small jobs, one after the other: rate';

interface Sizes {
  /** Of the one large job. */
  tasks: number;
  /** What it is compared with. */
  small: number;
  /** The same number of tasks as the large job, in so many jobs. */
  jobs: number;
}

interface Measured {
  submitMs: number;
  /** From the acknowledgement to the news that the first task has run. */
  firstMs: number;
  /** Tasks a second, from the first byte of the submission to the last commit. */
  rate: number;
  highestMiB: number;
  listing: Listing;
}

const passedMs = (fromMs: number): number => systemClock.monotonicMs() - fromMs;

function* values(count: number): Generator<string> {
  for (let index = 0; index < count; index++) yield JSON.stringify({ path: `input/file-${index}.png` });
}

function requireDone({ id, status, error, tasks }: Job): void {
  if (status !== 'COMPLETED' || tasks?.completed !== tasks?.total)
    throw new Error(`job ${id} is ${status} with ${tasks?.completed} of ${tasks?.total} tasks completed: ${error}`);
}

/** @returns when the first task had run, and when the job had ended; monotonic */
async function follow({ connection }: BenchMesh, id: string): Promise<{ firstMs: number; endedMs: number }> {
  let firstMs: number | undefined;
  for await (const { job } of connection.mesh.watchJob({ id })) {
    if ((job?.tasks?.completed ?? 0) > 0) firstMs ??= systemClock.monotonicMs();
    if (job?.completedAtMs !== undefined) requireDone(job);
  }
  const endedMs = systemClock.monotonicMs();
  return { firstMs: firstMs ?? endedMs, endedMs };
}

/** One job, listed while it runs. */
async function one(mesh: BenchMesh, tasks: number, items: boolean): Promise<Measured> {
  const watch = watchMemory(mesh.coordinatorPid);
  const fromMs = systemClock.monotonicMs();
  const { id } = await mesh.submit({ name: 'million', taskCount: tasks }, items ? values(tasks) : undefined);
  const submitMs = passedMs(fromMs);
  const over = new AbortController();
  const [{ firstMs, endedMs }, listing] = await Promise.all([
    follow(mesh, id).finally(() => over.abort()),
    listPages(mesh, id, tasks, Infinity, over.signal),
  ]);
  const { highestBytes } = await watch.stop();
  const rate = (tasks * 1000) / (endedMs - fromMs);
  return { submitMs, firstMs: firstMs - fromMs - submitMs, rate, highestMiB: toMiB(highestBytes), listing };
}

/** Many jobs, submitted by several at a time. */
async function many(mesh: BenchMesh, jobs: number, tasksEach: number): Promise<Measured> {
  const watch = watchMemory(mesh.coordinatorPid);
  const work = await mesh.noop();
  const fromMs = systemClock.monotonicMs();
  let left = jobs;
  let firstMs: Promise<number> | undefined;
  const submitter = async (): Promise<void> => {
    while (left-- > 0) {
      const { id } = await mesh.submit({ name: 'many', work, taskCount: tasksEach });
      const sentMs = systemClock.monotonicMs();
      firstMs ??= follow(mesh, id).then((followed) => followed.firstMs - sentMs);
    }
  };
  await Promise.all(Array.from({ length: SUBMITTERS }, submitter));
  const submitMs = passedMs(fromMs);
  for (const status of ['QUEUED', 'RUNNING'])
    await until('the end of all jobs', POLL_MS, async () => {
      const { items } = await mesh.connection.mesh.listJobs({ status, limit: 1, cursor: '' });
      return items.length === 0;
    });
  const rate = (jobs * tasksEach * 1000) / passedMs(fromMs);
  const { highestBytes } = await watch.stop();
  return { submitMs, firstMs: (await firstMs) ?? 0, rate, highestMiB: toMiB(highestBytes), listing: new Map() };
}

/** One short run says little: the middle of several, one after the other. */
async function small(mesh: BenchMesh, tasks: number): Promise<number> {
  const rates: number[] = [];
  for (let run = 0; run < WARM_RUNS + SMALL_RUNS; run++) {
    const fromMs = systemClock.monotonicMs();
    const { id } = await mesh.submit({ name: 'small', taskCount: tasks });
    requireDone(await mesh.wait(id));
    if (run >= WARM_RUNS) rates.push((tasks * 1000) / passedMs(fromMs));
  }
  return median(rates);
}

/** Nothing may run: what a full queue costs, and what it takes to look at it. */
async function queued(mesh: BenchMesh, tasks: number): Promise<{ highestMiB: number; listing: Listing }> {
  const { mesh: api } = mesh.connection;
  const { items: nodes } = await api.listNodes({});
  for (const { name } of nodes) await api.drainNode({ name, draining: true });
  const watch = watchMemory(mesh.coordinatorPid);
  await mesh.submit({ name: 'queued', taskCount: tasks });
  const { id } = await mesh.submit({ name: 'queued', taskCount: tasks }, values(tasks));
  const listing = await listPages(mesh, id, tasks, LIST_ROUNDS);
  return { highestMiB: toMiB((await watch.stop()).highestBytes), listing };
}

class Table {
  readonly rows: Row[] = [];

  add(what: string, unit: string, value: number, extra: Partial<Row> = {}): void {
    const known = this.rows.find((row) => row.what === what);
    if (known) known.values.push(value);
    else this.rows.push({ what, unit, values: [value], ...extra });
  }

  /** Of the slowest position: the median, and what one call in a hundred takes longer than. */
  addListing(what: string, listing: Listing): void {
    const slowest = (pick: (times: number[]) => number): number => Math.max(...[...listing.values()].map(pick));
    this.add(`${what}: a page, slowest position, median`, 'ms', slowest(median), { aims: [{ atMost: 20 }] });
    this.add(`${what}: a page, slowest position, 99 %`, 'ms', slowest(high));
  }

  addMeasured(what: string, { submitMs, firstMs, rate, highestMiB }: Measured, tasks: number): void {
    this.add(`${what}: submission`, 'ms', submitMs, { aims: [{ atMost: 5000 }] });
    this.add(`${what}: acknowledged → first task has run`, 'ms', firstMs, { aims: [{ atMost: 1000 }] });
    this.add(`${what}: highest RSS of the coordinator`, 'MiB', highestMiB, { aims: [{ atMost: 400 }] });
    this.add(`${what}: rate`, 'tasks/s', rate, { tasks, aims: [{ atLeast: 0.9, of: BASE }] });
  }
}

const high = (times: number[]): number => [...times].sort((a, b) => a - b)[Math.ceil(times.length * 0.99) - 1] ?? 0;

async function once(table: Table, sizes: Sizes, dataDir: string, say: BenchOptions['say']): Promise<void> {
  const { tasks, jobs } = sizes;
  const mesh = await startBenchMesh({ dataDir, agents: 1, slots: availableParallelism() });
  try {
    const base = await small(mesh, sizes.small);
    table.add(BASE, 'tasks/s', base, { tasks: sizes.small });
    say(`small jobs: ${formatNumber(base)} tasks/s`);
    const measure = async (what: string, run: () => Promise<Measured>): Promise<void> => {
      await settleDatabase(mesh.database);
      const measured = await run();
      const { submitMs, firstMs, rate, highestMiB, listing } = measured;
      say(
        `${what}: submitted in ${formatNumber(submitMs)} ms, first after ${formatNumber(firstMs)} ms, ` +
          `${formatNumber(rate)} tasks/s, ${formatNumber(highestMiB)} MiB`,
      );
      table.addMeasured(what, measured, tasks);
      if (listing.size > 0) table.addListing(`${what}, while it runs`, listing);
      for (const [position, times] of listing) say(`  ${position}: ${formatNumber(median(times))} ms`);
    };
    await measure('array', () => one(mesh, tasks, false));
    await measure('items', () => one(mesh, tasks, true));
    await measure(`${formatNumber(jobs)} jobs`, () => many(mesh, jobs, tasks / jobs));
    const { highestMiB, listing } = await queued(mesh, tasks);
    say(`queued: ${formatNumber(highestMiB)} MiB`);
    table.add('two such jobs queued: highest RSS of the coordinator', 'MiB', highestMiB, { aims: [{ atMost: 400 }] });
    table.addListing('queued', listing);
    for (const [position, times] of listing) say(`  ${position}: ${formatNumber(median(times))} ms`);
  } finally {
    await mesh.stop();
  }
}

async function run({ smoke, runs, tasks: wanted, workDir, say }: BenchOptions): Promise<Result> {
  const tasks = wanted ?? (smoke ? 5000 : 1_000_000);
  const sizes = { tasks, small: Math.min(smoke ? 500 : 10_000, tasks), jobs: tasks / 100 };
  const table = new Table();
  for (let turn = 1; turn <= runs; turn++) {
    say(`run ${turn} of ${runs}`);
    await once(table, sizes, join(workDir, `mesh-${turn}`), say);
  }
  return {
    name: 'million',
    title: `One job of ${formatNumber(tasks)} no-op tasks, and ${formatNumber(sizes.jobs)} jobs of 100`,
    rows: table.rows,
    config: {
      mesh: { settings: 'defaults', agents: '1', slots: String(availableParallelism()), data: 'new for each run' },
      submission: {
        array: 'one message',
        items: 'streamed by the client, about 40 bytes each',
        jobs: `${SUBMITTERS} under way at a time over one connection`,
      },
    },
    notes: [
      `The small jobs run one after the other, ${WARM_RUNS} unmeasured, then ${SMALL_RUNS}, of which the median counts.`,
      'Rates count from the first byte of the submission to the news of the last commit.',
      'Pages have 100 tasks; while a job runs they are asked for on a machine that has no idle core.',
    ],
  };
}

export const million: Bench = {
  name: 'million',
  about: 'a job of 1,000,000 tasks and 10,000 jobs of 100, next to jobs of 10,000',
  run,
};
