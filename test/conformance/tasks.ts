import { test } from 'tap';
import {
  assignTasks,
  assignedJob,
  countsOf,
  failed,
  lead,
  lost,
  madeJob,
  newJob,
  newNode,
  pages,
  retracted,
  retrying,
  settlement,
} from '../support/store-fixtures.js';
import { OnFailure } from '../../proto/gen/mesh/v1/mesh.js';
import type { AssignedTask } from '../../coordinator/ports.js';
import type { Subject } from './subject.js';

const outcomes: [string, OnFailure, ('ok' | 'bad')[], string][] = [
  ['finish, all well', OnFailure.FINISH, ['ok', 'ok'], 'COMPLETED'],
  ['finish, one failed', OnFailure.FINISH, ['ok', 'bad'], 'FAILED'],
  ['partial, one failed', OnFailure.PARTIAL, ['ok', 'bad'], 'PARTIALLY_COMPLETED'],
  ['partial, all failed', OnFailure.PARTIAL, ['bad', 'bad'], 'FAILED'],
  ['partial, all well', OnFailure.PARTIAL, ['ok', 'ok'], 'COMPLETED'],
];

/** How tasks move (TaskStore). */
export function tasksConform({ withStore }: Subject): void {
  test('a task runs through: queued, assigned, running, completed; the job ends with it', async (t) => {
    const store = await withStore(t);
    const epoch = await lead(store);
    const node = await store.nodes.upsert(newNode('anna'));
    const job = await madeJob(store, 2);

    const assigned = await assignTasks(store, epoch, [{ job: job.seq, node: node.seq, from: 0, to: 2 }]);
    t.same(
      assigned.tasks.map((task) => [task.index, task.generation, task.node, task.failures, task.losses, task.input]),
      [
        [0, 1, node.seq, 0, 0, undefined],
        [1, 1, node.seq, 0, 0, undefined],
      ],
    );
    t.match(assigned.jobs, [{ seq: job.seq, status: 'RUNNING', cursor: 2, counts: { queued: 0, assigned: 2 } }]);
    t.type(assigned.jobs[0]?.startedAtMs, 'number');

    const [first, second] = assigned.tasks;
    if (!first || !second) throw new Error('two tasks were assigned');
    const started = await store.tasks.markRunning(epoch, [{ ...first, ageMs: 5000 }]);
    t.same(started.changed, [{ job: job.seq, index: 0, generation: 1 }]);
    t.match(started.jobs, [{ counts: { assigned: 1, running: 1 } }]);
    t.match(await store.tasks.live(), [
      { index: 0, status: 'RUNNING', node: node.seq },
      { index: 1, status: 'ASSIGNED', node: node.seq },
    ]);

    const output = Buffer.from([0, 1, 2, 255]);
    const settled = await store.tasks.settle(epoch, [
      settlement(first, { resultJson: '{"ok":"\\"\\\\ü"}', output, peakMemoryBytes: 2 ** 40 }),
      settlement(second, { runUs: 2_000_000, finishedAgeMs: 1000 }),
    ]);
    t.same(settled.accepted, [true, true]);
    t.match(settled.jobs, [{ status: 'COMPLETED', counts: { assigned: 0, running: 0, completed: 2 } }]);
    t.type(settled.jobs[0]?.completedAtMs, 'number');
    const rows = await store.tasks.list({ job: job.seq, fromIndex: 0, limit: 10 });
    t.match(rows, [
      { status: 'COMPLETED', node: 'anna', exitCode: 0, resultJson: '{"ok":"\\"\\\\ü"}', peakMemoryBytes: 2 ** 40 },
      { status: 'COMPLETED', node: 'anna', runUs: 2_000_000 },
    ]);
    t.same(rows[0]?.output, output);
    const { startedAtMs = 0, finishedAtMs = 0 } = rows[1] ?? {};
    t.equal(finishedAtMs - startedAtMs, 2000, 'the start of a short attempt follows from its end and its length');
    t.same(await store.tasks.attempts(job.seq, 0), [], 'a success leaves no attempt row');
    t.same(await store.tasks.live(), []);
  });

  test('what does not match its guard is stale and changes nothing', async (t) => {
    const store = await withStore(t);
    const epoch = await lead(store);
    const { job, tasks } = await assignedJob(store, epoch, 4);
    const [a, b, c, d] = tasks;
    if (!a || !b || !c || !d) throw new Error('four tasks were assigned');
    const before = await countsOf(store, job.id);
    const stale = await store.tasks.settle(epoch, [
      settlement({ ...a, generation: 0 }),
      settlement({ ...b, generation: 2 }),
      settlement({ ...c, node: 2 }),
      settlement({ ...d, job: job.seq + 1 }),
      settlement({ ...d, index: 99 }),
    ]);
    t.same(stale, { accepted: [false, false, false, false, false], jobs: [] });
    t.same(await countsOf(store, job.id), before);
    t.same(await store.tasks.markRunning(epoch, [{ ...a, node: 2, ageMs: 1 }]), { changed: [], jobs: [] });

    const mixed = await store.tasks.settle(epoch, [settlement({ ...a, node: 7 }), settlement(b), settlement(c)]);
    t.same(mixed.accepted, [false, true, true]);
    const repeated = await store.tasks.settle(epoch, [settlement(b), settlement(a)]);
    t.same(repeated.accepted, [false, true], 'a repeated result is stale');
    t.same((await store.tasks.markRunning(epoch, [{ ...a, ageMs: 1 }])).changed, [], 'an ended task does not start');
    t.same(await store.tasks.settle(epoch, []), { accepted: [], jobs: [] });
    t.match(await countsOf(store, job.id), { assigned: 1, completed: 3 });
  });

  test('returned work is found job by job, whatever another has too much of', async (t) => {
    const store = await withStore(t);
    const epoch = await lead(store);
    const jobs: number[] = [];
    for (const count of [40, 3, 2]) {
      const { job, tasks } = await assignedJob(store, epoch, count);
      jobs.push(job.seq);
      // Of the last one nothing is due yet.
      const dueInMs = count === 2 ? 3_600_000 : 0;
      await store.tasks.settle(
        epoch,
        tasks.map((task) => retrying(task, { dueInMs })),
      );
    }
    const [many, few, none] = jobs as [number, number, number];
    t.same(await store.tasks.returned(0, 10), [many, few, none]);
    t.same(await store.tasks.returned(0, 2), [many, few]);
    t.same(await store.tasks.returned(many, 2), [few, none]);
    t.same(await store.tasks.returned(none, 2), []);
    const due = await store.tasks.due([none, few, many], 4);
    t.same(
      due.map(({ job }) => job),
      [few, few, few, many, many, many, many],
    );
    t.same(await store.tasks.due([], 4), []);
    await store.jobs.requestCancel(epoch, many, undefined);
    t.equal((await store.tasks.due([many, few], 1000)).length, 3, 'of what is being cancelled nothing is due');
  });

  test('a failed attempt waits, comes due in order, and runs again under a new generation', async (t) => {
    const store = await withStore(t);
    const epoch = await lead(store);
    const node = await store.nodes.upsert(newNode('anna'));
    const { job, tasks } = await assignedJob(store, epoch, 4);
    const [a, b, c, d] = tasks;
    if (!a || !b || !c || !d) throw new Error('four tasks were assigned');
    await store.tasks.markRunning(epoch, [{ ...a, ageMs: 10 }]);
    const output = Buffer.from('boom');
    await store.tasks.settle(epoch, [
      retrying(a, { dueInMs: 3_600_000, output, signal: 'SIGSEGV', exitCode: undefined }),
    ]);
    t.equal(((await store.tasks.nextDueInMs([job.seq])) ?? 0) > 3_500_000, true);
    t.same(await store.tasks.due([job.seq], 10), [], 'its time has not come');
    // Two statements, so that c's due time is the earlier one.
    await store.tasks.settle(epoch, [retrying(c)]);
    const { jobs } = await store.tasks.settle(epoch, [retrying(b, { outcome: 'node-fault', failure: 0, loss: 1 })]);
    await store.tasks.settle(epoch, [retracted(d)]);
    t.match(jobs, [{ status: 'RUNNING', counts: { assigned: 1, running: 0, retrying: 3 } }]);
    t.ok(((await store.tasks.nextDueInMs([job.seq])) ?? 0) > 3_500_000, 'the next one whose time has not come');
    const due = await store.tasks.due([job.seq], 10);
    t.same(due, [
      { job: job.seq, index: 2, failedNodes: [1], failures: 1, losses: 0 },
      { job: job.seq, index: 1, failedNodes: [1], failures: 0, losses: 1 },
      { job: job.seq, index: 3, failedNodes: [], failures: 0, losses: 0 },
    ]);
    t.equal((await store.tasks.due([job.seq], 1)).length, 1);

    const again = await assignTasks(store, epoch, [{ job: job.seq, node: node.seq, indexes: [0, 1, 2, 3, 9] }]);
    t.same(
      again.tasks
        .sort((x, y) => x.index - y.index)
        .map((task) => [task.index, task.generation, task.failures, task.losses]),
      [
        [1, 2, 0, 1],
        [2, 2, 1, 0],
        [3, 2, 0, 0],
      ],
      'the one that is not due stays',
    );
    t.match(again.jobs, [{ counts: { queued: 0, assigned: 3, retrying: 1 } }]);
    const task2 = again.tasks.find((task) => task.index === 2);
    if (!task2) throw new Error('task 2 was assigned again');
    t.same((await store.tasks.settle(epoch, [settlement(c)])).accepted, [false], 'the old generation is fenced off');
    t.same((await store.tasks.settle(epoch, [failed(task2)])).accepted, [true]);
    t.match(await store.tasks.attempts(job.seq, 2), [
      { generation: 1, attempt: 1, outcome: 'failed', error: 'exit code 1' },
      { generation: 2, attempt: 2, outcome: 'failed', node: 'anna' },
    ]);
    t.same((await store.tasks.attempts(job.seq, 0))[0]?.output, output);
    t.same(await store.tasks.attempts(job.seq, 3), [], 'a retraction is no attempt');
    t.match(await store.tasks.list({ job: job.seq, status: 'FAILED', fromIndex: 0, limit: 5 }), [
      { index: 2, failures: 2, lastError: 'exit code 1' },
    ]);
  });

  test('a fresh range never takes a retracted task, and the cursor stops at what was assigned', async (t) => {
    const store = await withStore(t);
    const epoch = await lead(store);
    const { job } = await store.jobs.create(newJob(6), pages());
    const nothing = { tasks: [], jobs: [] };
    for (const [from, to] of [
      [1, 3],
      [0, 7],
    ] as const)
      t.same(await assignTasks(store, epoch, [{ job: job.seq, node: 1, from, to }]), nothing, `not ${from} to ${to}`);
    const first = await assignTasks(store, epoch, [
      { job: job.seq, node: 1, from: 0, to: 4 },
      { job: job.seq, node: 2, from: 4, to: 6 },
    ]);
    t.same(
      first.tasks.map(({ index, node }) => [index, node]),
      [0, 1, 2, 3, 4, 5].map((index) => [index, index < 4 ? 1 : 2]),
    );
    t.match(first.jobs, [{ cursor: 6, counts: { materialised: 6, assigned: 6, queued: 0 } }]);
    const task = first.tasks.find(({ index }) => index === 3);
    if (!task) throw new Error('task 3 was assigned');
    await store.tasks.settle(epoch, [retracted(task)]);
    t.same(await assignTasks(store, epoch, [{ job: job.seq, node: 1, from: 0, to: 6 }]), nothing);
    const again = await assignTasks(store, epoch, [{ job: job.seq, node: 2, indexes: [3] }]);
    t.match(again, { tasks: [{ index: 3, generation: 2, node: 2 }], jobs: [{ cursor: 6, counts: { assigned: 6 } }] });
  });

  test('one batch over several jobs and nodes moves each job by its own part', async (t) => {
    const store = await withStore(t);
    const epoch = await lead(store);
    const one = await madeJob(store, 5);
    const two = await madeJob(store, 5);
    const { tasks, jobs } = await assignTasks(store, epoch, [
      { job: two.seq, node: 2, from: 0, to: 3 },
      { job: one.seq, node: 1, from: 0, to: 2 },
      { job: one.seq, node: 2, from: 2, to: 5 },
    ]);
    t.equal(tasks.length, 8);
    t.match(jobs, [
      { seq: one.seq, counts: { assigned: 5 } },
      { seq: two.seq, counts: { assigned: 3, materialised: 3 } },
    ]);
    const settled = await store.tasks.settle(
      epoch,
      tasks.map((task) => settlement(task)),
    );
    t.match(settled.jobs, [
      { seq: one.seq, status: 'COMPLETED' },
      { seq: two.seq, status: 'RUNNING', counts: { completed: 3, materialised: 3 } },
    ]);
  });

  test('the outcome of a job follows its policy', async (t) => {
    const store = await withStore(t);
    const epoch = await lead(store);
    for (const [name, policy, ends, status] of outcomes) {
      const { job, tasks } = await assignedJob(store, epoch, ends.length, policy);
      const settlements = tasks.map((task, i) => (ends[i] === 'ok' ? settlement(task) : failed(task)));
      const { jobs } = await store.tasks.settle(epoch, settlements);
      t.equal(jobs[0]?.status, status, name);
      t.equal((await store.jobs.get(job.id))?.status, status, name);
    }
    t.same(await store.jobs.live(), []);
    t.same(
      await store.jobs.countByStatus(),
      new Map([
        ['COMPLETED', 2],
        ['FAILED', 2],
        ['PARTIALLY_COMPLETED', 1],
      ]),
    );
  });

  test('an attempt that was given up is adopted where it still runs, and its loss is taken back', async (t) => {
    const store = await withStore(t);
    const epoch = await lead(store);
    const { job, tasks } = await assignedJob(store, epoch, 4);
    const [a, b, c, d] = tasks;
    if (!a || !b || !c || !d) throw new Error('four tasks were assigned');
    await store.tasks.markRunning(epoch, [{ ...a, ageMs: 100 }]);
    await store.tasks.settle(epoch, [lost(a), lost(b), lost(c, { dueInMs: 0 }), retracted(d)]);
    const elsewhere = (task: AssignedTask) => ({ ...task, node: 2 });
    t.same(await store.tasks.nodesLost([a, d, c].map(elsewhere)), [1, 0, 0], 'one of them had begun');
    t.same(await store.tasks.nodesLost([a]), [0], 'the node itself is not another one');
    await assignTasks(store, epoch, [{ job: job.seq, node: 2, indexes: [2] }]);
    const { changed, jobs } = await store.tasks.adopt(epoch, [a, { ...b, node: 2 }, c, d, { ...a, generation: 9 }]);
    t.ok((changed.find(({ index }) => index === 0)?.ageMs ?? 0) >= 100, 'it is as old as it was');
    t.same(
      changed.map(({ ageMs: _age, ...task }) => task).sort((x, y) => x.index - y.index),
      [0, 3].map((index) => ({
        ...{ job: job.seq, index, generation: 1, node: 1, status: 'RUNNING', failures: 0, losses: 0, failedNodes: [] },
      })),
      'not from another node, not in another generation, not when a replacement was assigned',
    );
    t.match(jobs, [{ counts: { queued: 0, assigned: 1, running: 2, retrying: 1 } }]);
    t.same(await store.tasks.attempts(job.seq, 0), []);
    t.same(await store.tasks.nodesLost([a, b].map(elsewhere)), [0, 0]);
    t.same((await store.tasks.settle(epoch, [lost(a)])).accepted, [true], 'it may be lost a second time');
    t.match(await store.tasks.attempts(job.seq, 0), [{ generation: 1, attempt: 1, outcome: 'node-lost' }]);
  });

  test('what comes back brings along where its task failed before', async (t) => {
    const store = await withStore(t);
    const epoch = await lead(store);
    const { job, tasks } = await assignedJob(store, epoch, 2);
    await store.tasks.settle(
      epoch,
      tasks.map((task) => retrying(task)),
    );
    const { tasks: again } = await assignTasks(store, epoch, [{ job: job.seq, node: 3, indexes: [0, 1] }]);
    const [first, second] = again.sort((a, b) => a.index - b.index) as [AssignedTask, AssignedTask];
    await store.tasks.markRunning(
      epoch,
      [first, second].map((task) => ({ ...task, ageMs: 100 })),
    );
    await store.tasks.settle(epoch, [lost(first, { dueInMs: 0 }), lost(second, { dueInMs: 0 })]);
    for (const time of ['adopted', 'asked again'])
      t.match((await store.tasks.adopt(epoch, [first])).changed, [{ index: 0, failures: 1, failedNodes: [1] }], time);
    const { tasks: moved } = await assignTasks(store, epoch, [{ job: job.seq, node: 4, indexes: [1] }]);
    t.match(moved, [{ failures: 1, losses: 1, failedNodes: [1] }]);
    const back = { ...second, ageMs: 5000, replacement: { generation: 3, node: 4 } };
    for (const time of ['adopted anew', 'asked again'])
      t.match((await store.tasks.readopt(epoch, [back])).changed, [{ index: 1, node: 3, failedNodes: [1] }], time);
  });

  test('statements that overlap on the same jobs neither deadlock nor lose a count', async (t) => {
    const store = await withStore(t);
    const epoch = await lead(store);
    const jobs = await Promise.all([1, 2, 3].map(() => assignedJob(store, epoch, 300)));
    const all = jobs.flatMap(({ tasks }) => tasks);
    const slices = Array.from({ length: 20 }, (_, i) => all.filter((_task, at) => at % 20 === i));
    const results = await Promise.all(
      slices.map((slice, i) =>
        store.tasks.settle(
          epoch,
          (i % 2 ? slice : [...slice].reverse()).map((task) => settlement(task)),
        ),
      ),
    );
    t.equal(results.flatMap(({ accepted }) => accepted).filter(Boolean).length, 900);
    for (const { job } of jobs)
      t.match(await store.jobs.get(job.id), { status: 'COMPLETED', counts: { completed: 300, assigned: 0 } });
    t.match(await store.jobs.taskTotals(), { total: 900, completed: 900 });
  });

  test('the same result delivered twice at once is accepted once', async (t) => {
    const store = await withStore(t);
    const epoch = await lead(store);
    const { job, tasks } = await assignedJob(store, epoch, 50);
    const tries = await Promise.all(
      Array.from({ length: 6 }, () =>
        store.tasks.settle(
          epoch,
          tasks.map((task) => settlement(task)),
        ),
      ),
    );
    t.equal(tries.flatMap(({ accepted }) => accepted).filter(Boolean).length, 50);
    t.match(await store.jobs.get(job.id), { status: 'COMPLETED', counts: { completed: 50 } });
  });

  test('odd values from far away do not spoil the batch', async (t) => {
    const store = await withStore(t);
    const epoch = await lead(store);
    const { job, tasks } = await assignedJob(store, epoch, 3);
    const [a, b, c] = tasks;
    if (!a || !b || !c) throw new Error('three tasks were assigned');
    const { accepted } = await store.tasks.settle(epoch, [
      failed(a, { error: 'nul \0, "quotes", \\back{slash}, ünï', signal: 'NULL' }),
      settlement(b, { runUs: 2 ** 60, finishedAgeMs: Number.MAX_VALUE, peakMemoryBytes: 2 ** 64 }),
      settlement(c, { finishedAgeMs: -5, output: new Uint8Array() }),
    ]);
    t.same(accepted, [true, true, true]);
    t.equal((await store.tasks.attempts(job.seq, 0))[0]?.error, 'nul , "quotes", \\back{slash}, ünï');
    t.match(await store.tasks.results(job.seq, 0, 10), [{ status: 'FAILED' }, { status: 'COMPLETED' }, { index: 2 }]);
  });

  test('an attempt whose end is known is not adopted, nor is its loss counted twice', async (t) => {
    const store = await withStore(t);
    const epoch = await lead(store);
    const { job, tasks } = await assignedJob(store, epoch, 3);
    const [a, b, c] = tasks;
    if (!a || !b || !c) throw new Error('three tasks were assigned');
    await store.tasks.settle(epoch, [
      retrying(a),
      lost(b),
      retrying(c, { outcome: 'node-fault', failure: 0, loss: 1 }),
    ]);
    const { changed } = await store.tasks.adopt(epoch, [a, b, c]);
    t.match(changed, [{ index: 1, losses: 0 }], 'a failure that was not acknowledged is still committed');
    t.equal(changed.length, 1);
    t.match(await countsOf(store, job.id), { running: 1, retrying: 2 });
    t.same((await store.tasks.settle(epoch, [retrying(a), lost(a), lost(c)])).accepted, [false, false, false]);
    t.match((await store.tasks.adopt(epoch, [b])).changed, [{ index: 1, losses: 0 }], 'asked again it says the same');
    t.same((await store.tasks.settle(epoch, [lost(b)])).accepted, [true]);
    t.match(await store.tasks.list({ job: job.seq, fromIndex: 0, limit: 3 }), [
      { status: 'RETRYING', failures: 1, losses: 0 },
      { status: 'RETRYING', failures: 0, losses: 1 },
      { status: 'RETRYING', failures: 0, losses: 1 },
    ]);
  });
}
