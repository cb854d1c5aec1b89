import { test } from 'tap';
import { MeshError } from '../../common/errors.js';
import { elapse, jobUntil, PlayedAgent, startPlane, submission, submit } from '../../test/support/plane.js';
import { withStore } from '../../test/support/postgres.js';
import { assignTasks, lost, newJob, pages } from '../../test/support/store-fixtures.js';
import { Outcome } from '../../proto/gen/mesh/v1/agent.js';
import type { ControlPlane } from '../control-plane.js';
import type { AssignItem, JobRow, Store } from '../ports.js';

const watched = (store: Store, seen: (items: AssignItem[]) => Promise<void> | void): Store => ({
  ...store,
  tasks: {
    ...store.tasks,
    assign: async (epoch, items) => {
      await seen(items);
      return store.tasks.assign(epoch, items);
    },
  },
});

/** With inputs, so that they wait for a turn of the planner. */
const submitDescribed = (plane: ControlPlane, count: number): Promise<JobRow> => {
  const items = Array.from({ length: count }, (_, index) => ({ value: String(index), files: [] }));
  return plane.intake.submit(submission(count, {}, [items]));
};

test('fresh ranges follow each other: no task is given twice, none is left out', async (t) => {
  const store = await withStore(t);
  const ranges: { job: number; from: number; to: number }[] = [];
  const parts = await startPlane(t, {
    store: watched(store, (items) => {
      for (const item of items) if ('from' in item) ranges.push(item);
    }),
  });
  const { plane } = parts;
  const agents = ['attic', 'cellar', 'desk'].map((name) => new PlayedAgent(plane, name, 3));
  for (const agent of agents) await agent.connect();
  const jobs = await Promise.all([submitDescribed(plane, 40), submitDescribed(plane, 25)]);
  const ended = jobs.map(({ id }) => jobUntil(parts, id, (row) => row.completedAtMs !== undefined));
  let open = true;
  void Promise.all(ended).then(() => (open = false));
  const given = new Set<string>();
  for (const agent of agents)
    void (async () => {
      while (open)
        for (const task of await agent.assigned()) {
          const key = `${task.job}.${task.index}`;
          t.notOk(given.has(key), `${key} is given once`);
          given.add(key);
          agent.report([task]);
        }
    })();
  for (const row of await Promise.all(ended)) t.equal(row.status, 'COMPLETED');
  t.equal(given.size, 65);
  for (const { seq, counts } of jobs) {
    const own = ranges.filter(({ job }) => job === seq).sort((a, b) => a.from - b.from);
    let next = 0;
    for (const { from, to } of own) {
      t.equal(from, next, 'a range begins where the last one ended');
      next = to;
    }
    t.equal(next, counts.total);
  }
});

test('returned work is found when it is due, and not before', async (t) => {
  const { plane, store } = await startPlane(t);
  const agent = new PlayedAgent(plane, 'attic', 1);
  await agent.connect();
  const job = await submit(plane, 1, { retries: 5 });
  await agent.finish(await agent.assigned(), { outcome: Outcome.FAILED, exitCode: 1 });
  const again = await agent.assigned();
  t.match(again, [{ generation: 2 }], 'without backoff at once');
  // A long attempt of a lost node waits for the node.
  plane.results.started(agent.session, [{ ...(again[0] as (typeof again)[0]), ageMs: 3_600_000 }]);
  await plane.results.settled();
  plane.results.lost(plane.ledger.ofNode(agent.node), 'node-lost', 'a cable');
  await plane.results.settled();
  plane.dispatch.wake();
  const due = await store.tasks.nextDueInMs([job.seq]);
  t.ok(due !== undefined && due > 300_000 && due <= 360_000, `${due} ms are a tenth of an hour`);
  t.equal(plane.ledger.heldByJob(job.seq), 0, 'it waits');
});

test('six thousand returned tasks that no node can take delay nobody else’s', async (t) => {
  const store = await withStore(t);
  // The coordinator that starts below goes by the same name, and takes its own lease over at once.
  const epoch = (await store.leader.take(await store.leader.read(), 'one')) as number;
  const hopeless = newJob(6000);
  hopeless.spec.resources = { cpuMillis: 1_000_000, memoryBytes: 0, gpus: 0, custom: {} };
  const jobs: number[] = [];
  // Those of the hopeless one came back first.
  for (const job of [hopeless, newJob(2)]) {
    const { seq } = (await store.jobs.create(job, pages())).job;
    const { tasks } = await assignTasks(store, epoch, [{ job: seq, node: 1, from: 0, to: job.total }]);
    await store.tasks.settle(
      epoch,
      tasks.map((task) => lost(task, { dueInMs: 0 })),
    );
    jobs.push(seq);
  }
  const { plane } = await startPlane(t, { store });
  const agent = new PlayedAgent(plane, 'attic', 2);
  await agent.connect();
  const given = await agent.assignedAll(2);
  t.same(
    given.map((task) => task.job),
    [jobs[1], jobs[1]],
  );
  t.match(plane.jobs.get(jobs[0] as number)?.row.counts, { retrying: 6000 }, 'the others still wait');
});

test('ASSIGNED is committed before the agent hears of it', async (t) => {
  const { plane, store } = await startPlane(t);
  const agent = new PlayedAgent(plane, 'attic', 1);
  await agent.connect();
  const job = await submit(plane, 1);
  await agent.assigned();
  t.match(await store.tasks.list({ job: job.seq, fromIndex: 0, limit: 1 }), [{ status: 'ASSIGNED', node: 'attic' }]);
});

test('an assignment whose answer is lost is found out about and told', async (t) => {
  const store = await withStore(t);
  let lose = 0;
  const lossy: Store = {
    ...store,
    tasks: {
      ...store.tasks,
      assign: async (epoch, items) => {
        const result = await store.tasks.assign(epoch, items);
        if (lose-- > 0) throw new MeshError('DATABASE_DOWN', 'the connection broke');
        return result;
      },
    },
  };
  const parts = await startPlane(t, { store: lossy });
  const { plane, clock } = parts;
  const agent = new PlayedAgent(plane, 'attic', 2);
  await agent.connect();
  lose = 1;
  const job = await submitDescribed(plane, 2);
  await jobUntilAssigned(store, job.id);
  t.equal(plane.ledger.size, 0, 'the ledger does not know');
  await elapse(clock, 1250, () => void agent.beat());
  const tasks = await agent.assignedAll(2);
  t.same(
    tasks.map(({ index, generation }) => [index, generation]),
    [
      [0, 1],
      [1, 1],
    ],
    'under the committed generation',
  );
  await agent.finish(tasks);
  t.match(await jobUntil(parts, job.id, (row) => row.completedAtMs !== undefined), { status: 'COMPLETED' });

  lose = 1;
  const broken = await submitDescribed(plane, 1);
  await jobUntilAssigned(store, broken.id);
  await plane.cancellation.cancel(broken, undefined);
  await elapse(clock, 1250, () => void agent.beat());
  t.same(agent.mailbox.all('assign').length, 1, 'what was cancelled meanwhile is not told');
});

async function jobUntilAssigned(store: Store, id: string): Promise<void> {
  while (((await store.jobs.get(id))?.counts.assigned ?? 0) === 0);
}

test('work that waits in a queue is asked back for a node that is free, and goes there', async (t) => {
  const { plane, store } = await startPlane(t);
  const busy = new PlayedAgent(plane, 'busy', 3);
  await busy.connect();
  const job = await submit(plane, 6);
  const held = await busy.assignedAll(6);
  const free = new PlayedAgent(plane, 'free', 3);
  await free.connect();
  const { indexes } = await busy.mailbox.next('retract');
  t.same(indexes, [5, 4], 'the last of those that wait; one is as good as started');
  const [dropped, kept] = [held.filter(({ index }) => index === 5), held.filter(({ index }) => index === 4)];
  plane.results.retracted(busy.session, dropped, kept);
  t.same(await free.assigned(), [{ job: job.seq, index: 5, generation: 2 }]);
  t.match(await store.tasks.list({ job: job.seq, fromIndex: 4, limit: 2 }), [
    { node: 'busy', generation: 1 },
    { node: 'free', failures: 0, losses: 0 },
  ]);
});

test('work that was committed for a node which left meanwhile is given away again', async (t) => {
  const store = await withStore(t);
  let hold: Promise<void> | undefined;
  let held: () => void = () => undefined;
  const { plane, clock } = await startPlane(t, {
    store: watched(store, async () => {
      held();
      await hold;
    }),
  });
  const agent = new PlayedAgent(plane, 'attic', 1);
  await agent.connect();
  let release: () => void = () => undefined;
  hold = new Promise((resolve) => (release = resolve));
  const asked = new Promise<void>((resolve) => (held = resolve));
  const job = await submitDescribed(plane, 1);
  // Time stands still here, so that the lease does not end; the turns that time would bring are asked for.
  let reached = false;
  void asked.then(() => (reached = true));
  while (!reached) {
    plane.dispatch.wake();
    await new Promise((resolve) => setImmediate(resolve));
  }
  const node = plane.fleet.get(agent.node);
  if (!node) throw new Error('the node is known');
  agent.cut();
  plane.fleet.left(node);
  plane.results.gone(node);
  await plane.results.settled();
  release();
  hold = undefined;
  while (plane.ledger.size === 0) await new Promise((resolve) => setImmediate(resolve));
  await elapse(clock, 1000);
  await plane.results.settled();
  t.equal(plane.ledger.size, 0);
  t.match((await store.jobs.get(job.id))?.counts, { retrying: 1, assigned: 0 });
});

test('why: the reasons of the last plan, and a sentence about the job', async (t) => {
  const { plane, store } = await startPlane(t);
  const job = await submit(plane, 1, { where: 'zone=moon' });
  t.match(plane.explain.answer(job, undefined), { summary: /^no node has joined yet/, nodes: [] });
  const agent = new PlayedAgent(plane, 'attic', 1);
  await agent.connect();
  while (plane.explain.answer(job, undefined).nodes.length === 0) await new Promise((r) => setImmediate(r));
  t.match(plane.explain.answer(job, undefined), {
    chosen: '',
    nodes: [{ name: 'attic', feasible: false, reason: /zone/ }],
    summary: '1 task is not done; 1 of 1 nodes take work',
  });
  const other = await submit(plane, 1);
  await agent.assigned();
  const [row] = await store.tasks.list({ job: other.seq, fromIndex: 0, limit: 1 });
  t.match(plane.explain.answer(other, row), { chosen: 'attic', status: 'ASSIGNED', summary: 'assigned on attic' });
  const { nodes } = plane.explain.answer(other, row);
  t.ok(nodes[0]?.feasible);
  t.match(Object.keys(nodes[0]?.terms ?? {}), ['rtt', 'load', 'queue', 'reliability'], 'term by term');
  agent.cut();
  t.match(plane.explain.answer(job, undefined), { summary: /^none of 1 nodes is connected/ });
  await plane.cancellation.cancel(job, undefined);
  const ended = await store.jobs.get(job.id);
  t.match(ended && plane.explain.answer(ended, undefined), { summary: 'the job has ended: CANCELLED', nodes: [] });
});

test('an assignment that is committed after its answer was given up, and after that was looked into, is found', async (t) => {
  const store = await withStore(t);
  let given: Parameters<typeof store.tasks.assign> | undefined;
  let looked = false;
  const slow: typeof store = {
    ...store,
    tasks: {
      ...store.tasks,
      assign: async (...call) => {
        if (!given) {
          given = call;
          throw new MeshError('DATABASE_DOWN', 'no answer in 30 s');
        }
        return store.tasks.assign(...call);
      },
      live: async () => {
        const live = await store.tasks.live();
        // The statement was under way all the time.
        if (given && !looked) {
          looked = true;
          await store.tasks.assign(...given);
        }
        return live;
      },
    },
  };
  const { plane, clock } = await startPlane(t, { store: slow });
  const agent = new PlayedAgent(plane, 'attic', 3);
  await agent.connect();
  await submitDescribed(plane, 3);
  const told = agent.assignedAll(3);
  let isTold = false;
  void told.then(() => (isTold = true));
  const sinceMs = clock.monotonicMs();
  while (!isTold) {
    await elapse(clock, 250, () => void agent.beat());
    // No faster than the database answers, or the leader's lease would end between two answers.
    await store.ping();
  }
  t.same(
    (await told).map(({ index, generation }) => [index, generation]),
    [
      [0, 1],
      [1, 1],
      [2, 1],
    ],
  );
  t.ok(clock.monotonicMs() - sinceMs < 60_000, 'by the range that was refused, not by a last look after five minutes');
});
