import { test } from 'tap';
import {
  assignTasks,
  assignedJob,
  failed,
  lead,
  madeJob,
  newJob,
  pages,
  retrying,
  settlement,
} from '../support/store-fixtures.js';
import { OnFailure } from '../../proto/gen/mesh/v1/mesh.js';
import type { JobRow } from '../../coordinator/ports.js';
import type { Subject } from './subject.js';

/** What becomes of jobs (JobStore), and what is read of their tasks. */
export function jobsConform({ withStore }: Subject): void {
  test('a job comes back as it was submitted', async (t) => {
    const store = await withStore(t);
    const given = newJob(3, { retryOf: 'elsewhere' });
    given.spec.priority = -5;
    given.spec.array = { start: 10, step: 2 };
    const { job, created } = await store.jobs.create(given, pages());
    t.ok(created);
    t.same(job.spec, given.spec);
    t.match(job, { id: given.id, name: 'work', type: 'process', status: 'QUEUED', priority: -5, retryOf: 'elsewhere' });
    t.match(job, { submitter: 'anna', cursor: 0, cancelling: false, counts: { total: 3, materialised: 0 } });
    t.ok(Math.abs(job.createdAtMs - Date.now()) < 3_600_000);
    t.same(await store.jobs.get(given.id), job);
    t.same(await store.jobs.live(), [job]);
    t.equal(await store.jobs.get('nothing'), undefined);
  });

  test('the same key gives the same job; with another specification it is an error', async (t) => {
    const store = await withStore(t);
    const given = newJob(1, { idempotencyKey: 'k' });
    const first = await store.jobs.create(given, pages());
    const repeat = await store.jobs.create(newJob(1, { idempotencyKey: 'k' }), pages());
    t.same(repeat, { job: first.job, created: false });
    let drained = false;
    async function* inputs() {
      yield ['"a"'];
      drained = true;
    }
    await t.rejects(
      store.jobs.create(
        newJob(1, { idempotencyKey: 'k', hasInputs: true, specDigest: () => (drained ? 'other' : 'early') }),
        inputs(),
      ),
      { code: 'IDEMPOTENCY_CONFLICT' },
    );
    t.ok(drained, 'the digest is asked for after the inputs');
    const other = await store.jobs.create(newJob(1, { idempotencyKey: 'k', submitter: 'ben' }), pages());
    t.ok(other.created, 'keys are per submitter');
  });

  test('the commit that keeps a job assigns its tasks where it is told to, as an assignment of its own would', async (t) => {
    const store = await withStore(t);
    const epoch = await lead(store);
    let asked = 0;
    const place = () => (asked++, 1);
    const given = newJob(3, { idempotencyKey: 'placed', epoch, place });
    const { job, created } = await store.jobs.create(given, pages());
    t.ok(created);
    const assigned = await assignedJob(store, epoch, 3);
    const usual = (await store.jobs.get(assigned.job.id)) as JobRow;
    const { status, counts, cursor } = usual;
    t.match(job, { status, counts, cursor, completedAtMs: undefined });
    t.ok(job.startedAtMs !== undefined);
    t.same(await store.jobs.get(given.id), job);
    const live = await store.tasks.live();
    const ofJob = (seq: number) =>
      live.flatMap((task) => (task.job === seq ? [{ ...task, job: undefined, ageMs: undefined }] : []));
    t.equal(ofJob(job.seq).length, 3);
    t.same(ofJob(job.seq), ofJob(usual.seq));
    const refs = [0, 1, 2].map((index) => ({ job: job.seq, index, generation: 1, node: 1 }));
    const settled = await store.tasks.settle(
      epoch,
      refs.map((ref) => settlement(ref)),
    );
    t.same(settled.accepted, [true, true, true]);
    t.match(settled.jobs, [{ seq: job.seq, status: 'COMPLETED' }]);

    const repeat = await store.jobs.create(newJob(3, { idempotencyKey: 'placed', epoch, place }), pages());
    t.match(repeat, { created: false, job: { id: given.id, status: 'COMPLETED' } });
    t.same((await store.tasks.list({ job: job.seq, fromIndex: 0, limit: 10 })).length, 3, 'nothing is made twice');
    asked = 0;
    const nowhere = await store.jobs.create(newJob(1, { epoch, place: () => (asked++, undefined) }), pages());
    t.match([asked, nowhere.job], [1, { status: 'QUEUED', cursor: 0, counts: { materialised: 0 } }]);
    const late = newJob(1, { epoch: epoch - 1, place });
    await t.rejects(store.jobs.create(late, pages()), { code: 'LEADERSHIP_LOST' });
    t.equal(await store.jobs.get(late.id), undefined, 'of a former leader neither the job nor its tasks');
    t.same((await store.tasks.live()).length, 3);
  });

  test('cancelling marks first, then ends every live row and what was never made', async (t) => {
    const store = await withStore(t);
    const epoch = await lead(store);
    const { job } = await store.jobs.create(newJob(100), pages());
    const { tasks } = await assignTasks(store, epoch, [{ job: job.seq, node: 1, from: 0, to: 6 }]);
    const [a, b, c] = tasks.sort((x, y) => x.index - y.index);
    if (!a || !b || !c) throw new Error('six tasks were assigned');
    await store.tasks.markRunning(epoch, [{ ...b, ageMs: 1 }]);
    await store.tasks.settle(epoch, [settlement(a), retrying(c)]);

    t.same((await store.tasks.cancel(epoch, job.seq, 0, 100)).cancelled, 0, 'not before it is marked');
    t.match(await store.jobs.requestCancel(epoch, job.seq, undefined), { status: 'RUNNING' });
    t.same(await assignTasks(store, epoch, [{ job: job.seq, node: 1, from: 6, to: 10 }]), { tasks: [], jobs: [] });
    t.same(await store.tasks.due([job.seq], 10), [], 'nothing of it is due any more');

    const first = await store.tasks.cancel(epoch, job.seq, 0, 4);
    t.match(first, { nextIndex: 4, cancelled: 3 + 94, job: { status: 'RUNNING', counts: { materialised: 100 } } });
    t.match(first.live, [
      { index: 1, status: 'RUNNING', generation: 1 },
      { index: 3, status: 'ASSIGNED', generation: 1 },
    ]);
    const second = await store.tasks.cancel(epoch, job.seq, 4, 100);
    t.match(second, { nextIndex: undefined, cancelled: 2, job: { status: 'CANCELLED' } });
    t.same(second.job.counts, { ...job.counts, materialised: 100, completed: 1, cancelled: 99 });
    t.same((await store.tasks.settle(epoch, [settlement(b)])).accepted, [false], 'the winner is the cancellation');
    const ended = [...(await store.tasks.results(job.seq, 0, 200)), ...(await store.tasks.results(job.seq, 6, 200))];
    t.same(
      ended.map(({ index, status }) => [index, status]),
      Array.from({ length: 100 }, (_, index) => [index, index === 0 ? 'COMPLETED' : 'CANCELLED']),
      'results name those, too, that never had a row',
    );
    t.match(await store.tasks.attempts(job.seq, 1), [{ outcome: 'cancelled', attempt: 1 }]);
    t.equal(await store.jobs.requestCancel(epoch, job.seq, undefined), undefined, 'it has ended');
    t.match(await store.tasks.cancel(epoch, job.seq, 0, 100), { cancelled: 0, job: { status: 'CANCELLED' } });
    await t.rejects(store.tasks.cancel(epoch, 999, 0, 100), { code: 'NOT_FOUND' });
  });

  test('completion and cancellation race: each task has one winner and the job one outcome', async (t) => {
    const store = await withStore(t);
    const epoch = await lead(store);
    const { job, tasks } = await assignedJob(store, epoch, 400);
    await store.jobs.requestCancel(epoch, job.seq, undefined);
    const halves = [tasks.slice(0, 200), tasks.slice(200)];
    const [one, cancelled, two] = await Promise.all([
      store.tasks.settle(
        epoch,
        (halves[0] ?? []).map((task) => settlement(task)),
      ),
      store.tasks.cancel(epoch, job.seq, 0, 400),
      store.tasks.settle(
        epoch,
        (halves[1] ?? []).map((task) => settlement(task)),
      ),
    ]);
    const completed = [one, two].flatMap(({ accepted }) => accepted).filter(Boolean).length;
    t.equal(completed + cancelled.cancelled, 400);
    t.match(await store.jobs.get(job.id), {
      status: 'CANCELLED',
      counts: { completed, cancelled: cancelled.cancelled },
    });
  });

  test('fail-fast cancels the rest and ends as FAILED with its reason', async (t) => {
    const store = await withStore(t);
    const epoch = await lead(store);
    const { job, tasks } = await assignedJob(store, epoch, 5, OnFailure.FAIL_FAST);
    const [first] = tasks;
    if (!first) throw new Error('five tasks were assigned');
    t.match((await store.tasks.settle(epoch, [failed(first)])).jobs, [{ status: 'RUNNING' }]);
    await store.jobs.requestCancel(epoch, job.seq, 'task 0 failed');
    await store.jobs.requestCancel(epoch, job.seq, undefined);
    t.match(await store.tasks.cancel(epoch, job.seq, 0, 100), { cancelled: 4, job: { status: 'FAILED' } });
    t.match(await store.jobs.get(job.id), { status: 'FAILED', error: 'task 0 failed' });
  });

  test('a job that is cancelled before anything was made ends at once', async (t) => {
    const store = await withStore(t);
    const epoch = await lead(store);
    const { job } = await store.jobs.create(newJob(5, { hasInputs: true }), pages(['1', '2', '3', '4', '5']));
    await store.jobs.requestCancel(epoch, job.seq, undefined);
    t.match(await store.tasks.cancel(epoch, job.seq, 0, 10), { nextIndex: undefined, cancelled: 5, live: [] });
    t.match(await store.jobs.get(job.id), { status: 'CANCELLED', startedAtMs: undefined, counts: { cancelled: 5 } });
    t.same(await store.tasks.unfinishedInputs(job.seq, 1, 3), [
      { index: 1, input: '2' },
      { index: 2, input: '3' },
      { index: 3, input: '4' },
    ]);
  });

  test('what did not complete can be retried, made or not', async (t) => {
    const store = await withStore(t);
    const epoch = await lead(store);
    const { job } = await store.jobs.create(
      newJob(8, { hasInputs: true }),
      pages(['0', '1', '2', '3', '4', '5', '6', '7']),
    );
    const { tasks } = await assignTasks(store, epoch, [{ job: job.seq, node: 1, from: 0, to: 3 }]);
    await store.tasks.settle(
      epoch,
      tasks.map((task) => (task.index === 1 ? failed(task) : settlement(task))),
    );
    await store.jobs.requestCancel(epoch, job.seq, undefined);
    await store.tasks.cancel(epoch, job.seq, 0, 100);
    const left = [1, 3, 4, 5, 6, 7].map((index) => ({ index, input: String(index) }));
    t.same(await store.tasks.unfinishedInputs(job.seq, 0, 100), left);
    t.same(await store.tasks.unfinishedInputs(job.seq, 0, 3), left.slice(0, 3));
    t.same(await store.tasks.unfinishedInputs(job.seq, 5, 2), left.slice(3, 5));
    const bare = await madeJob(store, 3);
    await store.jobs.requestCancel(epoch, bare.seq, undefined);
    await store.tasks.cancel(epoch, bare.seq, 0, 100);
    t.same(
      await store.tasks.unfinishedInputs(bare.seq, 1, 9),
      [1, 2].map((index) => ({ index, input: undefined })),
    );
  });

  test('results stop before the first task that has not ended', async (t) => {
    const store = await withStore(t);
    const epoch = await lead(store);
    const { job, tasks } = await assignedJob(store, epoch, 4);
    const output = Buffer.from('tail');
    await store.tasks.settle(
      epoch,
      tasks.filter(({ index }) => index !== 2).map((task) => settlement(task, { resultJson: `${task.index}`, output })),
    );
    const results = await store.tasks.results(job.seq, 0, 10);
    t.match(results, [
      { index: 0, resultJson: '0' },
      { index: 1, status: 'COMPLETED' },
    ]);
    t.equal(results.length, 2);
    t.same(results[0]?.output, output);
    t.same(await store.tasks.results(job.seq, 2, 10), []);
    t.equal((await store.tasks.results(job.seq, 1, 1)).length, 1);
  });

  test('jobs and tasks are listed page by page', async (t) => {
    const store = await withStore(t);
    const epoch = await lead(store);
    for (let i = 0; i < 6; i++) {
      await store.jobs.create(newJob(1, { submitter: i % 2 ? 'ben' : 'anna' }), pages());
    }
    const { job } = await assignedJob(store, epoch, 25);
    const all = await store.jobs.list({ limit: 100 });
    t.same(
      all.map(({ seq }) => seq),
      [7, 6, 5, 4, 3, 2, 1],
    );
    t.same(
      (await store.jobs.list({ limit: 2, before: 6 })).map(({ seq }) => seq),
      [5, 4],
    );
    t.same(
      (await store.jobs.list({ limit: 9, submitter: 'ben' })).map(({ seq }) => seq),
      [6, 4, 2],
    );
    t.same(
      (await store.jobs.list({ limit: 9, submitter: 'anna', status: 'RUNNING' })).map(({ seq }) => seq),
      [job.seq],
    );
    t.same(
      (await store.tasks.list({ job: job.seq, fromIndex: 10, limit: 3 })).map(({ index }) => index),
      [10, 11, 12],
    );
    t.same(await store.tasks.list({ job: job.seq, fromIndex: 0, limit: 3, status: 'QUEUED' }), []);
  });
}
