import { test } from 'tap';
import {
  assignedJob,
  countsOf,
  failed,
  lead,
  lost,
  newNode,
  retracted,
  retrying,
  settlement,
} from '../support/store-fixtures.js';
import type { AssignedTask, JobRow, Store } from '../../coordinator/ports.js';
import type { Subject } from './subject.js';

const OTHER = 2;

/** Task 0 of a job of two runs on node 1 and has a copy on node 2. */
export async function copied(store: Store, given?: number) {
  const epoch = given ?? (await lead(store));
  if (given === undefined) for (const name of ['attic', 'cellar']) await store.nodes.upsert(newNode(name));
  const { job, tasks } = await assignedJob(store, epoch, 2);
  const original = tasks[0] as AssignedTask;
  await store.tasks.markRunning(epoch, [{ ...original, ageMs: 5000 }]);
  const { task } = await store.copies.make(epoch, { ...original, to: OTHER });
  if (!task) throw new Error('the task runs on node 1');
  return { epoch, job, original, copy: task };
}

export const rowOf = async (store: Store, job: JobRow) =>
  (await store.tasks.list({ job: job.seq, fromIndex: 0, limit: 1 }))[0];

const refOf = ({ job, index, generation, node }: AssignedTask) => ({ job, index, generation, node });

/** Tasks with two live attempts (CopyStore). */
export function copiesConform({ withStore, originals }: Subject): void {
  test('a copy is the task’s next generation on another node; the original goes on beside it', async (t) => {
    const store = await withStore(t);
    const { epoch, job, original, copy } = await copied(store);
    t.match(copy, { index: 0, generation: 2, node: OTHER, failures: 0, losses: 0 });
    t.match(await rowOf(store, job), { status: 'ASSIGNED', node: 'cellar', generation: 2, startedAtMs: undefined });
    t.match(await countsOf(store, job.id), { assigned: 2, running: 0 });
    t.match(await store.copies.live(), [{ ...refOf(original), alone: false }]);
    const again = await store.copies.make(epoch, { ...original, to: OTHER });
    t.same(again, { task: copy, jobs: [] }, 'asked again after a lost answer it is the same copy');
    t.match(await countsOf(store, job.id), { assigned: 2, running: 0 });
    await store.tasks.markRunning(epoch, [{ ...copy, ageMs: 300 }]);
    t.match(await rowOf(store, job), { status: 'RUNNING', node: 'cellar' });
    t.match(await store.copies.make(epoch, { ...original, to: OTHER }), { task: copy }, 'also when the copy runs');
    t.match(await store.copies.make(epoch, { ...copy, to: 3 }), { task: undefined }, 'a copy is not copied');
  });

  test('a copy is refused where the guard does not match', async (t) => {
    const store = await withStore(t);
    const epoch = await lead(store);
    const { job, tasks } = await assignedJob(store, epoch, 3);
    const [first, second, third] = tasks as [AssignedTask, AssignedTask, AssignedTask];
    const make = async (task: AssignedTask, to = OTHER) => (await store.copies.make(epoch, { ...task, to })).task;
    t.equal(await make(first), undefined, 'it does not run yet');
    await store.tasks.markRunning(
      epoch,
      tasks.map((task) => ({ ...task, ageMs: 1 })),
    );
    t.equal(await make(first, 1), undefined, 'the same node');
    t.equal(await make({ ...first, generation: 9 }), undefined, 'another generation');
    t.equal(await make({ ...first, node: 7 }), undefined, 'another node');
    await store.tasks.settle(epoch, [settlement(first), retrying(second)]);
    t.equal(await make(first), undefined, 'it has ended');
    const { tasks: again } = await store.tasks.assign(epoch, [{ job: job.seq, node: 3, indexes: [1] }]);
    await store.tasks.markRunning(epoch, [{ ...(again[0] as AssignedTask), ageMs: 1 }]);
    t.match(again, [{ failedNodes: [1] }]);
    await store.jobs.requestCancel(epoch, job.seq, undefined);
    t.equal(await make(third), undefined, 'its job is being cancelled');
    t.equal(await originals(store), 0);
  });

  test('a copy may go to a node the task failed on; where it failed is told with all that is known of it', async (t) => {
    const store = await withStore(t);
    const epoch = await lead(store);
    const { job, tasks } = await assignedJob(store, epoch, 1);
    await store.tasks.settle(epoch, [retrying(tasks[0] as AssignedTask)]);
    const { tasks: again } = await store.tasks.assign(epoch, [{ job: job.seq, node: 3, indexes: [0] }]);
    const original = again[0] as AssignedTask;
    await store.tasks.markRunning(epoch, [{ ...original, ageMs: 1 }]);
    const asked = { ...original, to: 1 };
    for (const time of ['made', 'asked again'])
      t.match(await store.copies.make(epoch, asked), { task: { node: 1, failures: 1, failedNodes: [1] } }, time);
    t.match(await store.copies.live(), [{ generation: 2, node: 3, failedNodes: [1] }]);
    t.match(await store.tasks.live(), [{ generation: 3, node: 1, failedNodes: [1] }]);
    const copy = { ...original, generation: 3, node: 1 };
    const ended = await store.copies.settle(epoch, retrying(original));
    t.match(ended, { accepted: true, live: [refOf(copy)], failures: 2, failedNodes: [1, 3] }, 'the original fails');
    t.match(await store.copies.settle(epoch, retrying(original)), { accepted: false, failedNodes: [1, 3] });
    t.match(await store.copies.settle(epoch, settlement(copy)), { accepted: true, live: [], failedNodes: [1, 3] });
  });

  test('the first result wins, whichever it is', async (t) => {
    const store = await withStore(t);
    const epoch = await lead(store);
    for (const name of ['attic', 'cellar']) await store.nodes.upsert(newNode(name));
    for (const winner of ['original', 'copy'] as const) {
      const { job, original, copy } = await copied(store, epoch);
      await store.tasks.markRunning(epoch, [{ ...copy, ageMs: 300 }]);
      const [first, second] = winner === 'original' ? [original, copy] : [copy, original];
      const won = await store.copies.settle(epoch, settlement(first, { resultJson: '"first"' }));
      t.match(won, { accepted: true, live: [] }, winner);
      const after = await store.copies.settle(epoch, settlement(second, { resultJson: '"second"' }));
      t.match(after, { accepted: false, live: [], jobs: [] });
      const late = await store.tasks.settle(epoch, [settlement(second), failed(second), lost(second)]);
      t.same(late, { accepted: [false, false, false], jobs: [] }, 'the ordinary way is closed too');
      const node = winner === 'original' ? 'attic' : 'cellar';
      const row = await rowOf(store, job);
      t.match(row, { status: 'COMPLETED', node, resultJson: '"first"', generation: first.generation, failures: 0 });
      t.match(await countsOf(store, job.id), { completed: 1, assigned: 1, running: 0 });
      t.match(await store.tasks.attempts(job.seq, 0), [{ generation: second.generation, outcome: 'cancelled' }]);
      t.equal((await store.tasks.attempts(job.seq, 0)).length, 1);
    }
    t.equal(await originals(store), 0);
  });

  test('the same through the ordinary statement: the copy’s end ends its original, the original’s is stale', async (t) => {
    const store = await withStore(t);
    const { epoch, job, original, copy } = await copied(store);
    t.same(
      (await store.tasks.settle(epoch, [settlement(original)])).accepted,
      [false],
      'nothing is lost: ask the copies',
    );
    t.same((await store.tasks.settle(epoch, [settlement(copy)])).accepted, [true]);
    t.match(await store.copies.settle(epoch, settlement(original)), { accepted: false, live: [] });
    t.same(await store.copies.live(), [], 'what is left of the original counts for nothing');
    t.match(await countsOf(store, job.id), { completed: 1 });
  });

  type Ends = 'failed' | 'lost' | 'retracted';
  const ENDS: Record<Ends, (task: AssignedTask) => ReturnType<typeof failed>> = { failed: retrying, lost, retracted };

  for (const end of ['failed', 'lost', 'retracted'] as const) {
    const counted = { failures: end === 'failed' ? 1 : 0, losses: end === 'lost' ? 1 : 0 };

    test(`the original is ${end}: it is counted and the copy goes on`, async (t) => {
      const store = await withStore(t);
      const { epoch, job, original, copy } = await copied(store);
      const settled = await store.copies.settle(epoch, ENDS[end](original));
      t.match(settled, { accepted: true, live: [refOf(copy)], ...counted });
      t.match(await rowOf(store, job), { status: 'ASSIGNED', node: 'cellar', generation: 2, ...counted });
      t.match(await countsOf(store, job.id), { assigned: 2, retrying: 0, queued: 0 });
      t.equal(await originals(store), 0);
      t.match(await store.copies.settle(epoch, ENDS[end](original)), { accepted: false, live: [refOf(copy)] }, 'once');
      t.same((await store.tasks.adopt(epoch, [original])).changed, [], 'it is not adopted any more');
      t.same((await store.tasks.settle(epoch, [settlement(copy)])).accepted, [true], 'an ordinary task from here on');
    });

    test(`the copy is ${end}: it is counted and the original goes on alone`, async (t) => {
      const store = await withStore(t);
      const { epoch, job, original, copy } = await copied(store);
      const settled = await store.copies.settle(epoch, ENDS[end](copy));
      t.match(settled, { accepted: true, live: [refOf(original)], ...counted });
      t.match(await rowOf(store, job), { status: 'RUNNING', node: 'attic', generation: 2, ...counted });
      t.match(await countsOf(store, job.id), { assigned: 1, running: 1 });
      t.match(await store.copies.live(), [{ ...refOf(original), alone: true, ...counted }]);
      const made = { ...original, generation: 2 };
      for (const stale of [copy, made])
        t.match(await store.copies.settle(epoch, settlement(stale)), { accepted: false, live: [refOf(original)] });
      t.same((await store.tasks.adopt(epoch, [copy])).changed, [], 'the copy is not adopted any more');
      t.match(await store.copies.settle(epoch, settlement(original)), { accepted: true, live: [] });
      t.match(await rowOf(store, job), { status: 'COMPLETED', node: 'attic', generation: 1 });
      t.equal(await originals(store), 0);
    });

    test(`both are ${end}, in either order: the task waits, and its next generation is a new one`, async (t) => {
      const store = await withStore(t);
      const epoch = await lead(store);
      for (const name of ['attic', 'cellar']) await store.nodes.upsert(newNode(name));
      for (const first of ['original', 'copy'] as const) {
        const { job, original, copy } = await copied(store, epoch);
        const order = first === 'original' ? [original, copy] : [copy, original];
        for (const task of order) t.match(await store.copies.settle(epoch, ENDS[end](task)), { accepted: true });
        const status = end === 'retracted' ? 'QUEUED' : 'RETRYING';
        t.match(await rowOf(store, job), { status, failures: counted.failures * 2, losses: counted.losses * 2 });
        t.match(await countsOf(store, job.id), { assigned: 1, running: 0, [status.toLowerCase()]: 1 });
        const numbers = (await store.tasks.attempts(job.seq, 0)).map(({ generation, attempt }) => [
          generation,
          attempt,
        ]);
        t.same(
          numbers,
          end === 'retracted'
            ? []
            : [
                [1, 1],
                [2, 2],
              ],
          `${first} first`,
        );
        t.equal(await originals(store), 0);
        if (end === 'lost') continue;
        const { tasks } = await store.tasks.assign(epoch, [{ job: job.seq, node: 3, indexes: [0] }]);
        t.match(tasks, [{ generation: 3 }]);
      }
    });
  }

  test('an original that is alone may have another copy, with the next generation and number', async (t) => {
    const store = await withStore(t);
    const epoch = await lead(store);
    for (const name of ['attic', 'cellar']) await store.nodes.upsert(newNode(name));
    for (const end of ['copy', 'original', 'won'] as const) {
      const { job, original, copy } = await copied(store, epoch);
      t.match(await store.copies.make(epoch, { ...copy, to: 3 }), { task: undefined }, 'not while it has one');
      await store.copies.settle(epoch, retrying(copy));
      for (const wrong of [copy, { ...original, generation: 2 }, { ...original, node: 3 }])
        t.match(await store.copies.make(epoch, { ...wrong, to: 4 }), { task: undefined }, 'not of another attempt');
      t.match(await store.copies.make(epoch, { ...original, to: 1 }), { task: undefined }, 'not beside itself');
      const { task: next, jobs } = await store.copies.make(epoch, { ...original, to: OTHER });
      const second = next as AssignedTask;
      t.match(second, { generation: 3, node: OTHER, failures: 1, failedNodes: [OTHER] });
      t.match(jobs, [{ counts: { assigned: 2, running: 0 } }]);
      t.same(await store.copies.make(epoch, { ...original, to: OTHER }), { task: second, jobs: [] }, 'asked again');
      t.match(await store.copies.settle(epoch, retrying(copy)), { accepted: false }, 'the first one has ended');
      if (end === 'won') {
        await store.tasks.markRunning(epoch, [{ ...second, ageMs: 1 }]);
        t.match(await store.copies.settle(epoch, settlement(original)), { accepted: true, live: [] });
        t.match(await rowOf(store, job), { status: 'COMPLETED', generation: 1, node: 'attic' });
      } else {
        const [first, last] = end === 'copy' ? [second, original] : [original, second];
        t.match(await store.copies.settle(epoch, retrying(first)), { accepted: true, live: [refOf(last)] });
        t.match(await store.copies.settle(epoch, retrying(last)), { accepted: true, live: [], failures: 3 });
        t.match(await rowOf(store, job), { status: 'RETRYING', generation: 3 });
      }
      const attempts = await store.tasks.attempts(job.seq, 0);
      t.same(attempts.map(({ generation, attempt }) => `${generation}: ${attempt}`).sort(), [
        ...(end === 'won' ? [] : ['1: 1']),
        ...['2: 2', '3: 3'],
      ]);
      t.equal(await originals(store), 0);
      t.match(await countsOf(store, job.id), { assigned: 1, running: 0 });
    }
  });

  test('an attempt that exhausts the task ends it, and the other with it', async (t) => {
    const store = await withStore(t);
    const epoch = await lead(store);
    for (const name of ['attic', 'cellar']) await store.nodes.upsert(newNode(name));
    for (const part of ['original', 'copy'] as const) {
      const made = await copied(store, epoch);
      t.match(await store.copies.settle(epoch, failed(made[part])), { accepted: true, live: [], failures: 1 });
      t.match(await rowOf(store, made.job), { status: 'FAILED', failures: 1, lastError: 'exit code 1' });
      const other = part === 'original' ? made.copy : made.original;
      t.match(await store.copies.settle(epoch, settlement(other)), { accepted: false });
      t.match(await countsOf(store, made.job.id), { failed: 1, completed: 0 });
    }
  });

  test('without an original it is an ordinary settlement', async (t) => {
    const store = await withStore(t);
    const epoch = await lead(store);
    await store.nodes.upsert(newNode('attic'));
    const { job, tasks } = await assignedJob(store, epoch, 2);
    const [first, second] = tasks as [AssignedTask, AssignedTask];
    t.match(await store.copies.settle(epoch, settlement({ ...first, generation: 7 })), {
      accepted: false,
      live: [refOf(first)],
    });
    t.match(await store.copies.settle(epoch, retrying(first)), { accepted: true, live: [], failures: 1 });
    t.match(await store.copies.settle(epoch, settlement(second)), {
      accepted: true,
      jobs: [{ counts: { completed: 1 } }],
    });
    t.match(await countsOf(store, job.id), { retrying: 1, completed: 1 });
    t.match(await store.tasks.attempts(job.seq, 0), [{ generation: 1, attempt: 1, outcome: 'failed' }]);
  });

  test('a cancelled job ends both; retention removes what is left', async (t) => {
    const store = await withStore(t);
    const { epoch, job, original, copy } = await copied(store);
    await store.copies.cancel(epoch, job.seq);
    t.equal((await store.copies.live()).length, 1, 'nobody asked to cancel it');
    await store.jobs.requestCancel(epoch, job.seq, undefined);
    await store.copies.cancel(epoch, job.seq);
    await store.copies.cancel(epoch, job.seq);
    t.match(await store.tasks.attempts(job.seq, 0), [{ generation: 1, attempt: 1, outcome: 'cancelled' }]);
    await store.tasks.cancel(epoch, job.seq, 0, 10);
    for (const task of [original, copy])
      t.match(await store.copies.settle(epoch, settlement(task)), { accepted: false, live: [] });
    t.match(await store.jobs.get(job.id), { status: 'CANCELLED', counts: { cancelled: 2 } });

    const second = await copied(store, epoch);
    await store.tasks.settle(epoch, [settlement(second.copy), settlement({ ...second.original, index: 1 })]);
    t.equal(await originals(store), 1, 'the ordinary way leaves it, without effect');
    await store.jobs.remove([second.job.seq]);
    t.equal(await originals(store), 0);
  });

  test('a former leader makes, settles and cancels no copy', async (t) => {
    const store = await withStore(t);
    const { epoch, job, original, copy } = await copied(store);
    await lead(store);
    const refused = { code: 'LEADERSHIP_LOST' };
    await t.rejects(store.copies.make(epoch, { ...copy, to: 3 }), refused);
    await t.rejects(store.copies.settle(epoch, settlement(original)), refused);
    await t.rejects(store.copies.cancel(epoch, job.seq), refused);
    t.match(await store.copies.live(), [refOf(original)]);
  });

  test('running times come from the latest tasks by index', async (t) => {
    const store = await withStore(t);
    const epoch = await lead(store);
    const { job, tasks } = await assignedJob(store, epoch, 6);
    await store.tasks.settle(
      epoch,
      tasks.slice(0, 5).map((task) => settlement(task, { runUs: (6 - task.index) * 1000 })),
    );
    t.same(await store.copies.runTimesMs(job.seq, 100), [2, 3, 4, 5, 6]);
    t.same(await store.copies.runTimesMs(job.seq, 3), [2, 3]);
    t.same(await store.copies.runTimesMs(job.seq + 99, 3), []);
  });
}
