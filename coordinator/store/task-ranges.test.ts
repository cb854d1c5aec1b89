import { sql } from 'kysely';
import { test } from 'tap';
import { memoryStore } from '../../test/sim/store/memory-store.js';
import { Tables } from '../../test/sim/store/tables.js';
import { openTransaction, withStore } from '../../test/support/postgres.js';
import { SeededRandom } from '../../test/support/random.js';
import {
  assignTasks,
  failed,
  lead,
  lost,
  newJob,
  pages,
  retracted,
  settlement,
  untilBlocked,
} from '../../test/support/store-fixtures.js';
import type { TaskStatus } from '../core/task.js';
import type { CompletedRun, JobRow, Settlement, Store } from '../ports.js';
import type { PostgresStore } from './index.js';

/** A function's result: nothing to say but what it returned. */
const plain = (job: number, index: number, over: Partial<Settlement> = {}): Settlement =>
  settlement({ job, index, generation: 1, node: 1 }, { exitCode: undefined, resultJson: `${index}`, ...over });

const span = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i);

async function assigned(t: Tap, total: number): Promise<{ store: PostgresStore; epoch: number; job: JobRow }> {
  const store = await withStore(t);
  const epoch = await lead(store);
  const { job } = await store.jobs.create(newJob(total), pages());
  await store.tasks.assign(epoch, [{ job: job.seq, node: 1, from: 0, to: total }]);
  return { store, epoch, job };
}
type Tap = Parameters<typeof withStore>[0];

const sizes = async (store: PostgresStore): Promise<{ rows: number; blocks: number; ranges: number }> => {
  const { rows } = await sql<{ rows: number; blocks: number; ranges: number }>`
    select (select count(*) from task)::integer as rows, (select count(*) from task_block)::integer as blocks,
      (select count(*) from task_range)::integer as ranges`.execute(store.database.kysely);
  return rows[0] as { rows: number; blocks: number; ranges: number };
};

const statuses = async (store: Store, job: JobRow): Promise<string[]> =>
  (await store.tasks.list({ job: job.seq, fromIndex: 0, limit: 1000 })).map(({ status }) => status);

test('tasks that complete plainly and together have no rows', async (t) => {
  const { store, epoch, job } = await assigned(t, 100);
  t.same(await sizes(store), { rows: 0, blocks: 0, ranges: 1 });
  const settled = await store.tasks.settle(
    epoch,
    span(0, 60).map((index) => plain(job.seq, index)),
  );
  t.ok(settled.accepted.every(Boolean));
  t.match(settled.jobs, [{ counts: { assigned: 40, completed: 60 } }]);
  t.same(await sizes(store), { rows: 0, blocks: 1, ranges: 1 });
  t.same(await statuses(store, job), [...span(0, 60).map(() => 'COMPLETED'), ...span(60, 100).map(() => 'ASSIGNED')]);
  const [row] = await store.tasks.list({ job: job.seq, fromIndex: 42, limit: 1 });
  t.match(row, { index: 42, resultJson: '42', runUs: 1500, generation: 1, failures: 0, losses: 0 });
  t.ok((row?.startedAtMs ?? Number.NaN) <= (row?.finishedAtMs ?? Number.NaN));
  const results = await store.tasks.results(job.seq, 50, 100);
  t.same(
    results.map(({ index, resultJson }) => [index, resultJson]),
    span(50, 60).map((index) => [index, `${index}`]),
    'results end where the first task has not ended',
  );
  t.same(
    (await store.tasks.live()).map(({ index }) => index),
    span(60, 100),
  );
  t.ok((await store.tasks.storedBytes(job.seq)) > 60);
  await store.tasks.settle(
    epoch,
    span(60, 100).map((index) => plain(job.seq, index, { resultJson: 'null' })),
  );
  t.match(await store.jobs.get(job.id), { status: 'COMPLETED', counts: { completed: 100 } });
  t.match(await store.tasks.results(job.seq, 99, 5), [{ index: 99, resultJson: 'null' }]);
  t.same(await store.copies.runTimesMs(job.seq, 10), new Array(10).fill(1.5));
  await store.jobs.remove([job.seq]);
  t.same(await sizes(store), { rows: 0, blocks: 0, ranges: 0 });
});

test('blocks of commands know how they ended, and hold those that ended alike', async (t) => {
  const { store, epoch, job } = await assigned(t, 64);
  const ended = (exitCode: number | undefined, from: number, to: number) =>
    span(from, to).map((index) => plain(job.seq, index, { resultJson: undefined, exitCode }));
  await store.tasks.settle(epoch, [...ended(0, 0, 20), ...ended(3, 20, 40), ...ended(undefined, 40, 64)]);
  t.same(await sizes(store), { rows: 0, blocks: 3, ranges: 1 });
  t.same(
    (await store.tasks.list({ job: job.seq, fromIndex: 0, limit: 64 })).map(({ exitCode }) => exitCode),
    span(0, 64).map((index) => (index < 20 ? 0 : index < 40 ? 3 : undefined)),
  );
});

test('a result counts once, however often and in whatever batches it is said', async (t) => {
  const { store, epoch, job } = await assigned(t, 64);
  const all = span(0, 64).map((index) => plain(job.seq, index));
  const first = await store.tasks.settle(epoch, [...all.slice(0, 20), ...all.slice(0, 20)]);
  t.equal(first.accepted.filter(Boolean).length, 20, 'twice in one batch');
  const second = await store.tasks.settle(epoch, all.slice(10, 40));
  t.same(
    second.accepted,
    span(10, 40).map((index) => index >= 20),
    'what is new of what overlaps',
  );
  const stale = [plain(job.seq, 50, { generation: 2 }), plain(job.seq, 51, { node: 2 }), plain(job.seq, 0)];
  t.same((await store.tasks.settle(epoch, stale)).accepted, [false, false, false]);
  t.match(await store.jobs.get(job.id), { counts: { completed: 40, assigned: 24 } });
  const both = await Promise.all([
    store.tasks.settle(epoch, all.slice(40)),
    store.tasks.settle(epoch, all.slice(40)),
    store.tasks.settle(epoch, all.slice(30, 50)),
  ]);
  t.equal(both.flatMap(({ accepted }) => accepted).filter(Boolean).length, 24, 'at the same time');
  t.match(await store.jobs.get(job.id), { status: 'COMPLETED', counts: { completed: 64 } });
});

test('what comes in runs is stored as if it came one by one', async (t) => {
  const { store, epoch, job } = await assigned(t, 100);
  const run = (first: number, count: number, resultsJson: string[]): CompletedRun => ({
    ...{ job: job.seq, node: 1, first, hasRows: false, exitCode: first === 0 ? undefined : 0, resultsJson },
    ...{ runUs: span(first, first + count).map((index) => index % 3), finishedAgeMs: 1000 + first },
  });
  const each = (from: number, to: number) => span(from, to).map((index) => `"${index}"`);
  // One by itself, two of which one is too short for a block, and one whose results differ.
  const runs = [run(0, 20, ['null']), run(20, 4, ['']), run(24, 20, each(24, 44))];
  const first = await store.tasks.settle(epoch, [plain(job.seq, 99)], runs);
  t.same(first.accepted, new Array(45).fill(true));
  t.match(first.jobs, [{ counts: { completed: 45, assigned: 55 } }]);
  t.same(await sizes(store), { rows: 5, blocks: 2, ranges: 1 });
  const rows = await store.tasks.list({ job: job.seq, fromIndex: 0, limit: 100 });
  const told = (index: number) => {
    const result = index < 20 ? 'null' : index < 24 ? undefined : `"${index}"`;
    return [index, 'COMPLETED', index % 3 || undefined, result, index < 20 ? undefined : 0];
  };
  t.same(
    rows.slice(0, 44).map((row) => [row.index, row.status, row.runUs, row.resultJson, row.exitCode]),
    span(0, 44).map(told),
  );
  const finished = (index: number) => rows[index]?.finishedAtMs as number;
  t.equal(finished(0) - finished(24), 24, 'each run is as old as it is');
  t.equal(Math.round(finished(0) - finished(20)), 20, 'and so is one that has rows');

  // What is in a block already, of another node, or failed meanwhile, is not accepted; the rest of its run is.
  await store.tasks.settle(epoch, [failed(plain(job.seq, 50))]);
  const second = await store.tasks.settle(epoch, [], [run(40, 20, ['1']), { ...run(60, 20, ['1']), node: 2 }]);
  t.same(second.accepted, [...span(40, 60).map((index) => index >= 44 && index !== 50), ...new Array(20).fill(false)]);
  // Two statements that want the same of one range at a time.
  const both = await Promise.all([
    store.tasks.settle(epoch, [], [run(60, 20, each(60, 80))]),
    store.tasks.settle(epoch, [], [run(70, 29, ['2'])]),
  ]);
  t.equal(both.flatMap(({ accepted }) => accepted).filter(Boolean).length, 39);
  t.match(await store.jobs.get(job.id), { counts: { completed: 99, failed: 1 } });
});

test('runs of tasks that are known to have rows complete them', async (t) => {
  const { store, epoch, job } = await assigned(t, 8);
  const run = { job: job.seq, node: 1, hasRows: true, exitCode: undefined, finishedAgeMs: 5 };
  const one = await store.tasks.settle(epoch, [], [{ ...run, first: 3, runUs: [7], resultsJson: ['3'] }]);
  t.match(one, { accepted: [true], jobs: [{ counts: { completed: 1 } }] });
  const rest = await store.tasks.settle(
    epoch,
    [],
    [{ ...run, first: 0, runUs: new Array(8).fill(1), resultsJson: ['1'] }],
  );
  t.same(
    rest.accepted,
    span(0, 8).map((index) => index !== 3),
  );
  t.match(await store.tasks.results(job.seq, 2, 2), [{ resultJson: '1' }, { resultJson: '3' }]);
});

test('tasks that are known to have rows complete by them, each once', async (t) => {
  const { store, epoch, job } = await assigned(t, 8);
  const all = span(0, 8).map((index) => plain(job.seq, index, { hasRow: true }));
  const first = await store.tasks.settle(epoch, [...all.slice(0, 4), ...all.slice(0, 4)]);
  t.equal(first.accepted.filter(Boolean).length, 4, 'twice in one batch');
  t.match(first.jobs, [{ status: 'RUNNING', counts: { assigned: 4, completed: 4 } }]);
  const stale = [plain(job.seq, 5, { hasRow: true, generation: 2 }), plain(job.seq, 6, { hasRow: true, node: 2 })];
  t.same((await store.tasks.settle(epoch, [all[4] as Settlement, ...stale, all[0] as Settlement])).accepted, [
    ...[true, false, false, false],
  ]);
  for (const one of [...stale, all[0] as Settlement])
    t.same(await store.tasks.settle(epoch, [one]), { accepted: [false], jobs: [] }, 'by itself');
  const brought = { output: Buffer.from('seen'), exitCode: 3, runUs: 7, peakMemoryBytes: 9, resultJson: 'a\0b' };
  t.match(await store.tasks.settle(epoch, [{ ...(all[7] as Settlement), ...brought }]), {
    ...{ accepted: [true], jobs: [{ status: 'RUNNING', counts: { assigned: 2, completed: 6 } }] },
  });
  const [last] = await store.tasks.list({ job: job.seq, fromIndex: 7, limit: 1 });
  t.match(last, { ...brought, status: 'COMPLETED', resultJson: 'ab' });
  t.ok(last?.startedAtMs && last.finishedAtMs && last.startedAtMs <= last.finishedAtMs);
  const rest = await store.tasks.settle(epoch, all.slice(5, 7));
  t.match(rest.jobs, [{ status: 'COMPLETED', counts: { assigned: 0, completed: 8 } }]);
  t.same(
    (await store.tasks.results(job.seq, 0, 10)).map(({ resultJson }) => resultJson),
    [...span(0, 7).map(String), 'ab'],
  );
  await store.leader.take(await store.leader.read(), 'another');
  for (const said of [all, all.slice(0, 1)])
    await t.rejects(store.tasks.settle(epoch, said), { code: 'LEADERSHIP_LOST' });
});

test('two that take from one range at the same time both succeed', async (t) => {
  const { store, epoch, job } = await assigned(t, 64);
  const other = await openTransaction(t, store, `select 1 from task_range where job = ${job.seq} for no key update`);
  const batches = [span(0, 20), span(20, 40), span(40, 50)].map((indexes) =>
    store.tasks.settle(
      epoch,
      indexes.map((index) => plain(job.seq, index)),
    ),
  );
  await untilBlocked(store, batches.length);
  await other.commit();
  const settled = await Promise.all(batches);
  t.ok(settled.flatMap(({ accepted }) => accepted).every(Boolean));
  t.match(await store.jobs.get(job.id), { counts: { completed: 50, assigned: 14 } });
});

test('tasks with inputs go in ranges and blocks like the others; rows get their inputs from the chunks', async (t) => {
  const store = await withStore(t);
  const epoch = await lead(store);
  const inputs = span(0, 100).map((index) => JSON.stringify({ value: `"${index}"` }));
  const { job } = await store.jobs.create(newJob(100, { hasInputs: true }), pages(inputs));
  await store.tasks.assign(epoch, [{ job: job.seq, node: 1, from: 0, to: 100 }]);
  t.same(await sizes(store), { rows: 0, blocks: 0, ranges: 1 });
  await store.tasks.settle(
    epoch,
    span(0, 60).map((index) => plain(job.seq, index)),
  );
  t.same(await sizes(store), { rows: 0, blocks: 1, ranges: 1 });
  await store.tasks.settle(
    epoch,
    span(70, 73).map((index) => retracted({ job: job.seq, index, generation: 1, node: 1 })),
  );
  t.same(await sizes(store), { rows: 3, blocks: 1, ranges: 1 });
  const again = await store.tasks.assign(epoch, [{ job: job.seq, node: 2, indexes: span(70, 73) }]);
  t.same(new Set(again.tasks.map(({ input }) => input)), new Set(inputs.slice(70, 73)));
});

test('who does not lead any more takes nothing out', async (t) => {
  const { store, epoch, job } = await assigned(t, 32);
  await store.leader.take(await store.leader.read(), 'another');
  const all = span(0, 32).map((index) => plain(job.seq, index));
  await t.rejects(store.tasks.settle(epoch, all), { code: 'LEADERSHIP_LOST' });
  await t.rejects(store.tasks.settle(epoch, [failed(all[0] as Settlement)]), { code: 'LEADERSHIP_LOST' });
  t.same(await sizes(store), { rows: 0, blocks: 0, ranges: 1 });
  t.same(await statuses(store, job), new Array(32).fill('ASSIGNED'));
});

/** What both stores say of a job, with times left out. */
async function said(store: Store, job: JobRow): Promise<unknown> {
  const query = { job: job.seq, fromIndex: 0, limit: 400 };
  const shown = (rows: Awaited<ReturnType<Store['tasks']['list']>>) =>
    rows.map(({ index, generation, status, failures, losses, exitCode, resultJson }) =>
      [index, generation, status, failures, losses, exitCode ?? '', resultJson ?? ''].join(' '),
    );
  const live = (await store.tasks.live()).filter((task) => task.job === job.seq);
  const inputs = await store.tasks.inputs(live);
  const states: TaskStatus[] = ['ASSIGNED', 'COMPLETED', 'RETRYING', 'RUNNING', 'FAILED', 'CANCELLED'];
  return {
    counts: (await store.jobs.get(job.id))?.counts,
    live: live.map(({ index, generation, node, status }, place) =>
      [index, generation, node, status, inputs[place] ?? ''].join(' '),
    ),
    all: shown(await store.tasks.list(query)),
    page: shown(await store.tasks.list({ ...query, fromIndex: 37, limit: 45 })),
    among: shown(await store.tasks.list({ ...query, status: 'ASSIGNED', among: [3, 40, 41, 90, 170] })),
    window: shown(await store.tasks.list({ ...query, status: 'COMPLETED', fromIndex: 30, toIndex: 140, limit: 50 })),
    states: await Promise.all(states.map(async (status) => shown(await store.tasks.list({ ...query, status })))),
    results: (await store.tasks.results(job.seq, 0, 400)).map(({ index, resultJson }) => `${index} ${resultJson}`),
  };
}

/** One step that is the same on every store it is done on. */
function step(random: SeededRandom, seq: number, total: number): (store: Store, epoch: number) => Promise<unknown> {
  const from = random.integer(0, total - 1);
  const indexes = span(from, Math.min(total, from + random.integer(1, 50)));
  const node = random.integer(1, 2);
  const generation = random.chance(0.8) ? 1 : 2;
  const tasks = indexes.map((index) => ({ job: seq, index, generation, node }));
  const isPlain = random.chance(0.7);
  const exitCode = random.chance(0.5) ? 0 : undefined;
  const kind = random.integer(0, 9);
  const settle = (items: Settlement[]) => (store: Store, epoch: number) =>
    store.tasks.settle(epoch, items).then(({ accepted }) => accepted);
  if (kind < 2) {
    const resultsJson = isPlain ? ['null'] : indexes.map(String);
    const run = {
      job: seq,
      node,
      first: from,
      hasRows: false,
      runUs: indexes,
      resultsJson,
      exitCode,
      finishedAgeMs: 5,
    };
    return (store, epoch) => store.tasks.settle(epoch, [], [run]).then(({ accepted }) => accepted);
  }
  if (kind < 5)
    return settle(
      tasks.map((task) => plain(seq, task.index, { ...task, exitCode, peakMemoryBytes: isPlain ? undefined : 1 })),
    );
  if (kind === 5) return settle(tasks.map((task, i) => (i % 3 === 0 ? failed(task) : plain(seq, task.index, task))));
  if (kind === 6) return settle(tasks.map((task) => retracted(task)));
  if (kind === 7) return settle(tasks.slice(0, 5).map((task) => lost(task)));
  if (kind === 8)
    return async (store, epoch) => {
      const { changed } = await store.tasks.markRunning(
        epoch,
        tasks.slice(0, 8).map((task) => ({ ...task, ageMs: 10 })),
      );
      return changed.length;
    };
  return async (store, epoch) => {
    const { tasks: given } = await assignTasks(store, epoch, [{ job: seq, node, indexes }]);
    return given.map(({ index, input }) => `${index} ${input}`).sort();
  };
}

for (const [seed, hasInputs] of [1, 2, 3, 4].flatMap((seed) => [false, true].map((has) => [seed, has] as const)))
  test(`whatever happens to tasks of ranges ${hasInputs ? 'with' : 'without'} inputs, nobody could tell them from rows (seed ${seed})`, async (t) => {
    const random = new SeededRandom(seed);
    const inputs = hasInputs ? span(0, 200).map((index) => JSON.stringify({ value: `${index}` })) : [];
    let nowMs = Date.now();
    const stores: Store[] = [await withStore(t), memoryStore(new Tables({ now: () => ++nowMs }))];
    const total = 200;
    const subjects = await Promise.all(
      stores.map(async (store) => {
        const epoch = await lead(store);
        const { job } = await store.jobs.create(newJob(total, { id: 'a', hasInputs }), pages(inputs));
        return { store, epoch, job };
      }),
    );
    const seq = subjects[0]?.job.seq ?? 0;
    t.equal(subjects[1]?.job.seq, seq);
    let cursor = 0;
    for (let turn = 0; turn < 60; turn++) {
      const size = Math.min(total - cursor, random.integer(1, 60));
      const node = random.integer(1, 2);
      const item = { job: seq, node, from: cursor, to: cursor + size };
      const next = step(random, seq, total);
      const isAssigned = size > 0 && random.chance(0.3);
      const answers = [];
      for (const { store, epoch, job } of subjects) {
        const { tasks } = isAssigned ? await assignTasks(store, epoch, [item]) : { tasks: [] };
        const given = tasks.map(({ index, input }) => `${index} ${input}`);
        answers.push({ given, answer: await next(store, epoch), said: await said(store, job) });
      }
      if (isAssigned) cursor += size;
      if (JSON.stringify(answers[0]) === JSON.stringify(answers[1])) continue;
      t.same(answers[0], answers[1], `turn ${turn}`);
      return;
    }
    const ends = [];
    for (const { store, epoch, job } of subjects) {
      await store.jobs.requestCancel(epoch, seq, undefined);
      const live = [];
      for (let from: number | undefined = 0; from !== undefined; ) {
        const page: Awaited<ReturnType<Store['tasks']['cancel']>> = await store.tasks.cancel(epoch, seq, from, 70);
        live.push(...page.live.map(({ index, generation }) => `${index} ${generation}`));
        from = page.nextIndex;
      }
      const left = await store.tasks.unfinishedInputs(seq, 0, total);
      ends.push({ live, left, said: await said(store, job) });
    }
    t.same(ends[0], ends[1], 'after it was cancelled');
  });
