import { test } from 'tap';
import {
  elapse,
  identityOf,
  PlayedAgent,
  startPlane,
  submission,
  submit,
  type TestPlane,
} from '../../test/support/plane.js';
import { Outcome } from '../../proto/gen/mesh/v1/agent.js';
import { OutputTail } from '../../proto/gen/mesh/v1/common.js';
import { OnFailure } from '../../proto/gen/mesh/v1/mesh.js';
import { withStore } from '../../test/support/postgres.js';
import type { JobRow, Store } from '../ports.js';

const operator = identityOf('operator', 'admin');
const viewer = identityOf('viewer', 'wall');
const anna = identityOf('submitter', 'anna');
const bert = identityOf('submitter', 'bert');
const never = () => new AbortController().signal;

/** Reads on in the background; `seen` grows. */
function follow<T>(source: AsyncIterable<T>) {
  const seen: T[] = [];
  const done = (async () => {
    for await (const value of source) seen.push(value);
  })();
  return { seen, done };
}

/** Lets time pass until the promise is settled. */
async function passing<T>({ clock }: TestPlane, promise: Promise<T>): Promise<T> {
  let open = true;
  void promise.finally(() => (open = false)).catch(() => undefined);
  while (open) await elapse(clock, 250);
  return promise;
}

test('submitters see their own jobs, and cannot tell others’ from none; viewers and operators see all', async (t) => {
  const { plane } = await startPlane(t);
  const { queries } = plane;
  const hers = await submit(plane, 1);
  const his = await plane.intake.submit({ ...submission(1), submitter: 'bert' });
  for (const caller of [operator, viewer]) {
    t.equal((await queries.job(his.id, caller)).id, his.id);
    t.same((await queries.list({ status: '', limit: 0, cursor: '' }, caller)).rows.length, 2);
  }
  t.equal((await queries.job(hers.id, anna)).id, hers.id);
  t.same(
    (await queries.list({ status: '', limit: 0, cursor: '' }, bert)).rows.map(({ id }) => id),
    [his.id],
  );
  const messageOf = (promise: Promise<unknown>) =>
    promise.then(
      () => '',
      (error: Error) => error.message,
    );
  t.equal(await messageOf(queries.job(his.id, anna)), `there is no job "${his.id}"`);
  t.equal(await messageOf(queries.job('nope', anna)), 'there is no job "nope"');
});

test('lists come in pages that join without a gap; wrong cursors and statuses say so', async (t) => {
  const { plane } = await startPlane(t);
  const { queries } = plane;
  const ids = [];
  for (let i = 0; i < 7; i++) ids.push((await submit(plane, 1)).id);
  const found: string[] = [];
  for (let cursor = ''; ; ) {
    const page = await queries.list({ status: 'queued', limit: 3, cursor }, operator);
    t.ok(page.rows.length <= 3);
    found.push(...page.rows.map(({ id }) => id));
    cursor = page.next;
    if (cursor === '') break;
  }
  t.same(found, ids.reverse(), 'the latest first');
  const list = (over: object) => queries.list({ status: '', limit: 0, cursor: '', ...over }, operator);
  await t.rejects(list({ status: 'sleepy' }), { code: 'USAGE', hint: /QUEUED, RUNNING/ });
  await t.rejects(list({ cursor: 'x' }), { code: 'USAGE' });
  await t.rejects(list({ cursor: '-1' }), { code: 'USAGE' });
});

test('tasks: pages, one by its index, and numbers no store can hold', async (t) => {
  const { plane } = await startPlane(t);
  const { queries } = plane;
  const job = await submit(plane, 5);
  const all = { status: '', limit: 2, cursor: '' };
  const first = await queries.tasks(job, all);
  t.same([first.rows.map(({ index }) => index), first.next], [[0, 1], '2']);
  const last = await queries.tasks(job, { ...all, cursor: '4' });
  t.same([last.rows.map(({ index }) => index), last.next], [[4], '']);
  t.match(await queries.task(job, 3), { index: 3, status: 'QUEUED' });
  await t.rejects(queries.task(job, 5), { code: 'NOT_FOUND', message: `job ${job.id} has no task 5` });
  await t.rejects(queries.task(job, 4_294_967_295), { code: 'NOT_FOUND' });
  await t.rejects(queries.tasks(job, { ...all, cursor: '99999999999' }), { code: 'USAGE' });
});

test('a watcher gets the job now and after changes, merged, and the end', async (t) => {
  const parts = await startPlane(t);
  const { plane } = parts;
  const agent = new PlayedAgent(plane, 'attic', 4);
  await agent.connect();
  const job = await submit(plane, 40);
  const { seen, done } = follow(plane.queries.watch(job.id, anna, never()));
  let given = 0;
  while (given < 40) {
    const tasks = await agent.assigned();
    given += tasks.length;
    agent.report(tasks);
  }
  await passing(parts, done);
  t.equal(seen.at(-1)?.status, 'COMPLETED');
  t.ok(seen.length < 20, `${seen.length} messages for some eighty changes`);
  const again = follow(plane.queries.watch(job.id, anna, never()));
  await again.done;
  t.match(again.seen, [{ status: 'COMPLETED' }], 'a job that has ended is told once');
  await t.rejects(follow(plane.queries.watch(job.id, bert, never())).done, { code: 'NOT_FOUND' });
});

test('the end of a job is told at once: while the clock stands still', async (t) => {
  const { plane } = await startPlane(t);
  const agent = new PlayedAgent(plane, 'attic', 1);
  await agent.connect();
  const job = await submit(plane, 1);
  const { seen, done } = follow(plane.queries.watch(job.id, anna, never()));
  agent.report(await agent.assigned());
  await done;
  t.match(seen.at(-1), { status: 'COMPLETED' });
});

test('a watcher that leaves is forgotten', async (t) => {
  const parts = await startPlane(t);
  const { plane } = parts;
  const job = await submit(plane, 1);
  const gone = new AbortController();
  const { seen, done } = follow(plane.queries.watch(job.id, anna, gone.signal));
  while (seen.length === 0) await elapse(parts.clock, 250);
  t.ok(plane.changes.jobs.has(job.seq));
  gone.abort();
  await passing(parts, done);
  t.notOk(plane.changes.jobs.has(job.seq));
});

test('results come in index order and follow the job to its end', async (t) => {
  const parts = await startPlane(t);
  const { plane } = parts;
  const agent = new PlayedAgent(plane, 'attic', 3);
  await agent.connect();
  const job = await submit(plane, 3, { retries: 0, onFailure: OnFailure.PARTIAL });
  const [a, b, c] = await agent.assignedAll(3);
  if (!a || !b || !c) throw new Error('three tasks');
  await agent.finish([b], { resultJson: '"b"' });
  const now = follow(plane.queries.results(job, anna, false, never()));
  await now.done;
  t.same(now.seen, [], 'nothing before the first');
  const { seen, done } = follow(plane.queries.results(job, anna, true, never()));
  await agent.finish([a], { resultJson: '"a"' });
  await agent.finish([c], { outcome: Outcome.FAILED, exitCode: 1 });
  await passing(parts, done);
  t.match(seen.flat(), [
    { index: 0, status: 'COMPLETED', resultJson: '"a"' },
    { index: 1, status: 'COMPLETED', resultJson: '"b"' },
    { index: 2, status: 'FAILED' },
  ]);
});

test('what completes while it is followed is not read from the store again, unless it was not heard', async (t) => {
  const store = await withStore(t);
  const asked: number[] = [];
  const tasks: Store['tasks'] = {
    ...store.tasks,
    results: (job, from, limit) => {
      asked.push(from);
      return store.tasks.results(job, from, limit);
    },
  };
  const parts = await startPlane(t, { store: { ...store, tasks } });
  const { plane } = parts;
  const agent = new PlayedAgent(plane, 'attic', 4);
  await agent.connect();
  const job = await submit(plane, 4, { retries: 0, onFailure: OnFailure.PARTIAL });
  const [a, b, c, d] = await agent.assignedAll(4);
  if (!a || !b || !c || !d) throw new Error('four tasks');
  const early = follow(plane.queries.results(job, anna, true, never()));
  await agent.finish([b], { resultJson: '"b"' });
  await agent.finish([a], { resultJson: '"a"' });
  while (early.seen.flat().length < 2) await elapse(parts.clock, 250);
  t.same(asked, [], 'heard, though not in order');
  const late = follow(plane.queries.results(job, anna, true, never()));
  await agent.finish([c], { outcome: Outcome.FAILED, exitCode: 1 });
  await agent.finish([d], { output: OutputTail.fromPartial({ chunks: [{ data: Buffer.from('d') }], totalBytes: 1 }) });
  await passing(parts, Promise.all([early.done, late.done]));
  t.ok(asked.includes(0), 'who came later reads what was before');
  t.ok(asked.includes(2), 'a failure is read');
  t.same(early.seen.flat(), await store.tasks.results(job.seq, 0, 10), 'the same from either');
  t.same(late.seen.flat(), early.seen.flat());
  t.notOk(plane.changes.results.has(job.seq), 'nobody listens any more');
});

test('retry: a new job of what did not complete, under its old MESH_INDEX; twice is once', async (t) => {
  const parts = await startPlane(t);
  const { plane, store } = parts;
  const agent = new PlayedAgent(plane, 'attic', 3);
  await agent.connect();
  const job = await submit(plane, 3, { retries: 0, array: { start: 10, step: 5 }, onFailure: OnFailure.FINISH });
  await t.rejects(plane.resubmission.retry(job, anna, '10.0.0.3'), { code: 'CONFLICT', message: /has not ended/ });
  const [a, b, c] = await agent.assignedAll(3);
  if (!a || !b || !c) throw new Error('three tasks');
  await agent.finish([a]);
  await agent.finish([b, c], { outcome: Outcome.FAILED, exitCode: 1 });
  const ended = (await store.jobs.get(job.id)) as JobRow;
  const retried = await plane.resubmission.retry(ended, anna, '10.0.0.3');
  t.match(retried, { retryOf: job.id, counts: { total: 2 } });
  t.equal((await plane.resubmission.retry(ended, anna, '10.0.0.3')).id, retried.id);
  const tasks = await agent.assignedAll(2);
  const inputs = await store.tasks.inputs(tasks);
  t.same(
    inputs.map((text) => (JSON.parse(text ?? '{}') as { arrayIndex: number }).arrayIndex),
    [15, 20],
  );
  await agent.finish(tasks, { outcome: Outcome.FAILED, exitCode: 1 });
  const second = await plane.resubmission.retry(ended, anna, '10.0.0.3');
  t.not(second.id, retried.id, 'the first retry did not complete: a new one');
  await agent.finish(await agent.assignedAll(2));
  t.equal((await plane.resubmission.retry(ended, anna, '10.0.0.3')).id, second.id, 'this one did');
  const done = (await store.jobs.get(second.id)) as JobRow;
  await t.rejects(plane.resubmission.retry(done, anna, '10.0.0.3'), { code: 'CONFLICT', message: /every task/ });
});
