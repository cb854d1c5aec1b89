/**
 * One job of a million tasks, and ten thousand jobs of a hundred, each against itself at ten thousand tasks (an array of
 * them, a job of them with an item each, a hundred jobs of a hundred) on the same mesh: how long submitting takes, when the
 * first task has run, what the coordinator's memory comes to, whether the rate holds, and what it takes to look at a page
 * of the tasks. A fresh mesh for each run, so that no run pays for the one before.
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

/** How often it is asked whether all of many jobs have ended; a small share of what they take. */
const pollMs = (jobs: number): number => Math.min(50, Math.max(5, jobs / 20));
/** Submissions under way at a time, where there are many jobs: as many as go in one call, and are kept by one commit. */
const SUBMITTERS = 100;
const WARM_RUNS = 4;
const SMALL_RUNS = 10;
const LIST_ROUNDS = 20;
/** What each shape is called at ten thousand tasks. */
const itselfSmall = (what: string): string => `${what}, small: rate`;
/** The row that all rates are shown against, too: plain arrays of ten thousand. */
const BASE = itselfSmall('array');

interface Sizes {
  /** Of the one large job. */
  tasks: number;
  /** What it is compared with. */
  small: number;
  /** Each of them has so many tasks, where there are many jobs. */
  each: number;
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

interface OneOptions {
  items: boolean;
  /** Whether pages are asked for while it runs. */
  listed: boolean;
}

/** One job. */
async function one(mesh: BenchMesh, tasks: number, { items, listed }: OneOptions): Promise<Measured> {
  const watch = watchMemory(mesh.coordinatorPid);
  const fromMs = systemClock.monotonicMs();
  const { id } = await mesh.submit({ name: 'million', taskCount: tasks }, items ? values(tasks) : undefined);
  const submitMs = passedMs(fromMs);
  const over = new AbortController();
  const [{ firstMs, endedMs }, listing] = await Promise.all([
    follow(mesh, id).finally(() => over.abort()),
    listPages(mesh, id, tasks, listed ? Infinity : 0, over.signal),
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
    await until('the end of all jobs', pollMs(jobs), async () => {
      const { items } = await mesh.connection.mesh.listJobs({ status, limit: 1, cursor: '' });
      return items.length === 0;
    });
  const rate = (jobs * tasksEach * 1000) / passedMs(fromMs);
  const { highestBytes } = await watch.stop();
  return { submitMs, firstMs: (await firstMs) ?? 0, rate, highestMiB: toMiB(highestBytes), listing: new Map() };
}

/** One short run says little: the middle of several, one after the other. */
async function repeated(once: () => Promise<Measured>): Promise<number> {
  const rates: number[] = [];
  for (let run = 0; run < WARM_RUNS + SMALL_RUNS; run++) {
    const { rate } = await once();
    if (run >= WARM_RUNS) rates.push(rate);
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
    this.add(`${what}: rate`, 'tasks/s', rate, { tasks, aims: [{ atLeast: 0.9, of: itselfSmall(what) }] });
  }
}

const high = (times: number[]): number => [...times].sort((a, b) => a - b)[Math.ceil(times.length * 0.99) - 1] ?? 0;

async function once(table: Table, sizes: Sizes, dataDir: string, say: BenchOptions['say']): Promise<void> {
  const { tasks, small, each } = sizes;
  const mesh = await startBenchMesh({ dataDir, agents: 1, slots: availableParallelism() });
  try {
    const shapes: [what: string, run: (tasks: number, listed: boolean) => Promise<Measured>][] = [
      ['array', (count, listed) => one(mesh, count, { items: false, listed })],
      ['items', (count, listed) => one(mesh, count, { items: true, listed })],
      ['many jobs', (count) => many(mesh, count / each, each)],
    ];
    for (const [what, run] of shapes) {
      const rate = await repeated(() => run(small, false));
      table.add(itselfSmall(what), 'tasks/s', rate, { tasks: small });
      say(`${what}, small: ${formatNumber(rate)} tasks/s`);
    }
    for (const [what, run] of shapes) {
      await settleDatabase(mesh.database);
      const measured = await run(tasks, true);
      const { submitMs, firstMs, rate, highestMiB, listing } = measured;
      say(
        `${what}: submitted in ${formatNumber(submitMs)} ms, first after ${formatNumber(firstMs)} ms, ` +
          `${formatNumber(rate)} tasks/s, ${formatNumber(highestMiB)} MiB`,
      );
      table.addMeasured(what, measured, tasks);
      if (listing.size > 0) table.addListing(`${what}, while it runs`, listing);
      for (const [position, times] of listing) say(`  ${position}: ${formatNumber(median(times))} ms`);
    }
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
  const sizes = { tasks, small: Math.min(smoke ? 500 : 10_000, tasks), each: 100 };
  const table = new Table();
  for (let turn = 1; turn <= runs; turn++) {
    say(`run ${turn} of ${runs}`);
    await once(table, sizes, join(workDir, `mesh-${turn}`), say);
  }
  const [large, jobs] = [formatNumber(tasks), formatNumber(tasks / sizes.each)];
  return {
    name: 'million',
    title: `One job of ${large} no-op tasks, and ${jobs} jobs of ${sizes.each}`,
    rows: table.rows,
    base: BASE,
    config: {
      mesh: { settings: 'defaults', agents: '1', slots: String(availableParallelism()), data: 'new for each run' },
      submission: {
        array: 'one message',
        items: 'streamed by the client, about 40 bytes each',
        'many jobs': `of ${sizes.each} tasks, ${SUBMITTERS} under way at a time over one connection`,
      },
    },
    notes: [
      `A small rate is that of ${formatNumber(sizes.small)} tasks in the same shape, on the same mesh, before the large ones: ${WARM_RUNS} times unmeasured, then ${SMALL_RUNS} times one after the other, of which the median counts.`,
      'The aim of a rate is against the same shape; the column beside it shows all rates against plain arrays of ten thousand.',
      'Rates count from the first byte of the submission to the news of the last commit.',
      'Pages have 100 tasks; while a job runs they are asked for on a machine that has no idle core.',
    ],
  };
}

export const million: Bench = {
  name: 'million',
  about: 'a job of 1,000,000 tasks and 10,000 jobs of 100, next to the same at 10,000',
  run,
};
