import { test } from 'tap';
import { assignTasks } from '../../test/support/store-fixtures.js';
import { MeshError } from '../../common/errors.js';
import { elapse, jobUntil, PlayedAgent, startPlane, submit } from '../../test/support/plane.js';
import { withStore } from '../../test/support/postgres.js';
import { Outcome } from '../../proto/gen/mesh/v1/agent.js';
import { OnFailure } from '../../proto/gen/mesh/v1/mesh.js';
import type { Store } from '../ports.js';

const withCancel = (store: Store, cancel: Store['tasks']['cancel']): Store => ({
  ...store,
  tasks: { ...store.tasks, cancel },
});

test('a cancelled job ends; its agents are told; room falls free when they say the attempt is dead', async (t) => {
  const { plane, store } = await startPlane(t);
  const agent = new PlayedAgent(plane, 'attic', 1);
  await agent.connect();
  const job = await submit(plane, 100);
  const held = await agent.assigned();
  t.equal(await plane.cancellation.cancel(job, undefined), 100);
  t.match(await store.jobs.get(job.id), { status: 'CANCELLED', counts: { cancelled: 100 } });
  const { indexes } = await agent.mailbox.next('cancel');
  t.same(
    indexes,
    held.map(({ index }) => index),
  );
  const freeSlots = () => plane.ledger.room(agent.node).free.slots;
  t.equal(freeSlots(), 0, 'they may still be dying');
  await agent.finish(held, { outcome: Outcome.CANCELLED });
  t.equal(freeSlots(), 1);
  t.equal(plane.ledger.size, 0);
  await t.rejects(plane.cancellation.cancel(job, undefined), {
    code: 'CONFLICT',
    message: /ended already \(CANCELLED\)/,
  });
});

test('a cancellation that its agent never heard of leaves no room taken', async (t) => {
  const { plane } = await startPlane(t);
  const agent = new PlayedAgent(plane, 'attic', 1);
  await agent.connect();
  const job = await submit(plane, 100);
  const held = await agent.assigned();
  await plane.cancellation.cancel(job, undefined);
  agent.cut();
  const running = held.slice(0, 1);
  await agent.connect({ running, prefilled: held.slice(1) });
  await agent.finish(running, { outcome: Outcome.CANCELLED });
  t.equal(plane.ledger.room(agent.node).free.slots, 1, 'it is told again to kill what it lists');

  const second = await submit(plane, 100);
  await agent.assigned();
  await plane.cancellation.cancel(second, undefined);
  agent.cut();
  await agent.connect();
  t.equal(plane.ledger.room(agent.node).free.slots, 1, 'what it lists no more is dead');
  await submit(plane, 1);
  t.equal((await agent.assigned()).length, 1);
});

test('cancel races completion: one wins, and whoever asked hears which', async (t) => {
  const { plane, store } = await startPlane(t);
  const agent = new PlayedAgent(plane, 'attic', 1);
  await agent.connect();
  const job = await submit(plane, 1);
  const before = { ...job };
  await agent.finish(await agent.assigned());
  await t.rejects(plane.cancellation.cancel(before, undefined), {
    code: 'CONFLICT',
    message: `job ${job.id} has ended already (COMPLETED)`,
  });
  t.equal((await store.jobs.get(job.id))?.status, 'COMPLETED');
});

test('an attempt of a node that is away leaves the ledger at once; its late result is stale', async (t) => {
  const { plane, store } = await startPlane(t);
  const agent = new PlayedAgent(plane, 'attic', 1);
  await agent.connect();
  const job = await submit(plane, 1);
  const held = await agent.assigned();
  agent.cut();
  await plane.cancellation.cancel(job, undefined);
  t.equal(plane.ledger.size, 0);
  t.match(await agent.connect({ running: held }), { superseded: { indexes: [0] } }, 'it is told to kill it');
  await agent.finish(held);
  t.equal((await store.jobs.get(job.id))?.status, 'CANCELLED');
});

test('a cancellation that a failure cut off goes on by itself', async (t) => {
  const store = await withStore(t);
  let failures = 1;
  const parts = await startPlane(t, {
    store: withCancel(store, async (...call) => {
      if (failures-- > 0) throw new MeshError('DATABASE_DOWN', 'gone');
      return store.tasks.cancel(...call);
    }),
  });
  const { plane, clock } = parts;
  const agent = new PlayedAgent(plane, 'attic', 1);
  await agent.connect();
  const job = await submit(plane, 5);
  await agent.assigned();
  await t.rejects(plane.cancellation.cancel(job, undefined), { code: 'DATABASE_DOWN' });
  t.match(await store.jobs.get(job.id), { status: 'RUNNING', cancelling: true });
  await elapse(clock, 2250, () => void agent.beat());
  t.match(await jobUntil(parts, job.id, (row) => row.completedAtMs !== undefined), { status: 'CANCELLED' });
  await agent.mailbox.next('cancel');
});

test('when the answer to a cancelling statement is lost, the agents are told nevertheless', async (t) => {
  const store = await withStore(t);
  let lose = true;
  const parts = await startPlane(t, {
    store: withCancel(store, async (...call) => {
      const batch = await store.tasks.cancel(...call);
      if (!lose) return batch;
      lose = false;
      throw new MeshError('DATABASE_DOWN', 'the connection broke');
    }),
  });
  const { plane, clock } = parts;
  const agent = new PlayedAgent(plane, 'attic', 1);
  await agent.connect();
  const job = await submit(plane, 1);
  const held = await agent.assigned();
  await t.rejects(plane.cancellation.cancel(job, undefined), { code: 'DATABASE_DOWN' });
  t.equal((await store.jobs.get(job.id))?.status, 'CANCELLED', 'it took effect');
  t.same(agent.mailbox.all('cancel'), []);
  await elapse(clock, 2250, () => void agent.beat());
  t.same(
    (await agent.mailbox.next('cancel')).indexes,
    held.map(({ index }) => index),
  );
  t.equal(plane.jobs.get(job.seq), undefined);
});

test('a coordinator that starts again finishes what was being cancelled, and does what fail-fast had not yet done', async (t) => {
  const store = await withStore(t);
  const first = await startPlane(t, { store });
  const agent = new PlayedAgent(first.plane, 'attic', 1);
  await agent.connect();
  const marked = await submit(first.plane, 3);
  const [task] = await agent.assignedAll(1);
  const failing = await submit(first.plane, 3, { onFailure: OnFailure.FAIL_FAST, retries: 0 });
  await first.plane.stop();
  await store.jobs.requestCancel(1, marked.seq, undefined);
  const { tasks } = await assignTasks(store, 1, [{ job: failing.seq, node: agent.node, from: 0, to: 1 }]);
  await store.tasks.settle(
    1,
    tasks.map((held) => ({
      ...held,
      ...{ to: 'FAILED', outcome: 'failed', failure: 1, loss: 0, exitCode: 1, error: 'exit code 1' },
      ...{ dueInMs: undefined, signal: undefined, resultJson: undefined, output: undefined, runUs: 1 },
      ...{ finishedAgeMs: 0, peakMemoryBytes: undefined },
    })),
  );
  const second = await startPlane(t, { store });
  const ended = (id: string) => jobUntil(second, id, (row) => row.completedAtMs !== undefined);
  t.match(await ended(marked.id), { status: 'CANCELLED', counts: { cancelled: 3 } });
  t.match(await ended(failing.id), { status: 'FAILED', counts: { failed: 1, cancelled: 2 } });
  t.ok(task);
});
