import { test } from 'tap';
import { MeshError } from '../../common/errors.js';
import { elapse, jobUntil, PlayedAgent, startPlane, submission, submit } from '../../test/support/plane.js';
import { withStore } from '../../test/support/postgres.js';
import type { NewJob, Store } from '../ports.js';

/** Counts assignments that are statements of their own, and plays what may happen to the commit of a job. */
function watched(store: Store, around: (job: NewJob, create: () => ReturnType<Store['jobs']['create']>) => unknown) {
  const counts = { assign: 0, create: 0 };
  const watching: Store = {
    ...store,
    jobs: {
      ...store.jobs,
      create: (job, inputs) => {
        counts.create++;
        return around(job, () => store.jobs.create(job, inputs)) as ReturnType<Store['jobs']['create']>;
      },
    },
    tasks: {
      ...store.tasks,
      assign: (epoch, items) => {
        counts.assign++;
        return store.tasks.assign(epoch, items);
      },
    },
  };
  return { counts, store: watching };
}

const once = () => new Promise((resolve) => setImmediate(resolve));

/** Work that comes in finds a planner that has looked for what came back, and found nothing. */
async function idlePlane(t: Parameters<typeof startPlane>[0], store: Store, slots = 2) {
  const parts = await startPlane(t, { store });
  const agent = new PlayedAgent(parts.plane, 'attic', slots);
  await agent.connect();
  await submit(parts.plane, 1);
  await agent.finish(await agent.assigned());
  return { ...parts, agent };
}

test('a job that finds nothing waiting is assigned by the commit that keeps it, and told after it', async (t) => {
  const { store, counts } = watched(await withStore(t), (_, create) => create());
  const { plane, agent } = await idlePlane(t, store);
  counts.assign = 0;
  const job = await submit(plane, 2);
  t.match(job, { status: 'RUNNING', counts: { total: 2, assigned: 2 }, cursor: 2 });
  const tasks = await agent.assignedAll(2);
  t.same(
    tasks.map(({ job: seq, index, generation }) => [seq, index, generation]),
    [
      [job.seq, 0, 1],
      [job.seq, 1, 1],
    ],
  );
  t.match(plane.ledger.ofNode(agent.node), [{ holding: true }, { holding: true }], 'both have their room');
  t.equal(counts.assign, 0);
  const { nodes } = plane.explain.answer(job, undefined);
  t.match(nodes, [{ name: 'attic', feasible: true }], 'why is known');
  await agent.finish(tasks);
  t.match(await store.jobs.get(job.id), { status: 'COMPLETED' });
});

test('what has inputs or secrets, does not fit, or comes while others wait, goes by the planner’s turns', async (t) => {
  const { store, counts } = watched(await withStore(t), (_, create) => create());
  const { plane, agent } = await idlePlane(t, store);
  counts.assign = 0;
  const items = [{ value: '"a"', files: [] }];
  t.match(await plane.intake.submit(submission(1, {}, [items])), { status: 'QUEUED' });
  const described = await agent.assigned();
  await agent.finish(described);
  const elsewhere = await submit(plane, 1, { where: 'zone=moon' });
  t.equal(elsewhere.status, 'QUEUED');
  t.match(await submit(plane, 1), { status: 'QUEUED' }, 'another waits');
  await agent.finish(await agent.assigned());
  await plane.cancellation.cancel(elsewhere, undefined);
  t.match(await submit(plane, 16), { status: 'QUEUED' }, 'too many');
  t.ok(counts.assign > 1);
});

test('of jobs that come together each is given once', async (t) => {
  const { store } = watched(await withStore(t), (_, create) => create());
  const { plane, agent, ...parts } = await idlePlane(t, store, 4);
  const jobs = await Promise.all(Array.from({ length: 20 }, () => submit(plane, 1)));
  const seen = new Set<number>();
  while (seen.size < 20) {
    const tasks = await agent.assigned();
    for (const { job } of tasks) {
      t.notOk(seen.has(job), `${job}`);
      seen.add(job);
    }
    agent.report(tasks);
  }
  for (const { id } of jobs)
    t.match(await jobUntil({ plane, ...parts, store }, id, (row) => row.completedAtMs !== undefined), {
      status: 'COMPLETED',
    });
});

test('nobody else plans until the commit is answered, and a refused one holds nobody up', async (t) => {
  let hold: Promise<void> | undefined;
  let fail = false;
  const { store, counts } = watched(await withStore(t), async (_, create) => {
    const made = await create();
    await hold;
    if (fail) throw new MeshError('BAD_SPEC', 'refused after all');
    return made;
  });
  const { plane, agent } = await idlePlane(t, store, 4);
  let release: () => void = () => undefined;
  hold = new Promise((resolve) => (release = resolve));
  counts.create = counts.assign = 0;
  const first = submit(plane, 1);
  while (counts.create === 0) await once();
  const second = submit(plane, 1);
  plane.dispatch.wake();
  for (let i = 0; i < 20; i++) await once();
  t.equal(counts.assign, 0);
  hold = undefined;
  release();
  const [a, b] = await Promise.all([first, second]);
  const tasks = await agent.assignedAll(2);
  t.same(new Set(tasks.map(({ job }) => job)), new Set([a.seq, b.seq]));
  await agent.finish(tasks);
  fail = true;
  await t.rejects(submit(plane, 1), { code: 'BAD_SPEC' });
  fail = false;
  const next = await submit(plane, 1);
  t.match(await agent.assigned(), [{ job: next.seq }]);
});

test('a commit whose answer is lost is found out about, and its tasks are told; the same key finds the job', async (t) => {
  let lose = 0;
  const { store, counts } = watched(await withStore(t), async (_, create) => {
    const made = await create();
    if (lose-- > 0) throw new MeshError('DATABASE_DOWN', 'the connection broke');
    return made;
  });
  const parts = await idlePlane(t, store);
  const { plane, agent, clock } = parts;
  counts.assign = 0;
  lose = 1;
  const given = submission(2);
  await t.rejects(plane.intake.submit(given), { code: 'DATABASE_DOWN' });
  t.equal(plane.ledger.size, 0, 'nobody knows');
  const job = await plane.intake.submit(given);
  t.match(job, { status: 'RUNNING', counts: { assigned: 2 } });
  const tasks = agent.assignedAll(2);
  let isTold = false;
  void tasks.then(() => (isTold = true));
  while (!isTold) {
    await elapse(clock, 250, () => void agent.beat());
    await store.ping();
  }
  t.same(
    (await tasks).map(({ job: seq, index, generation }) => [seq, index, generation]),
    [
      [job.seq, 0, 1],
      [job.seq, 1, 1],
    ],
    'as they were committed',
  );
  t.equal(counts.assign, 0);
  await agent.finish(await tasks);
  t.match(await jobUntil(parts, job.id, (row) => row.completedAtMs !== undefined), { status: 'COMPLETED' });
});

test('a node that leaves before the commit is answered gives the work back', async (t) => {
  let isHeld = false;
  let release: () => void = () => undefined;
  const held = new Promise<void>((resolve) => (release = resolve));
  const { store, counts } = watched(await withStore(t), async (_, create) => {
    const made = await create();
    if (isHeld) await held;
    return made;
  });
  const { plane, agent, clock } = await idlePlane(t, store);
  isHeld = true;
  counts.create = 0;
  const submitted = submit(plane, 1);
  while (counts.create === 0) await once();
  const node = plane.fleet.get(agent.node);
  if (!node) throw new Error('the node is known');
  agent.cut();
  plane.fleet.left(node);
  plane.results.gone(node);
  await plane.results.settled();
  release();
  const job = await submitted;
  t.equal(plane.ledger.size, 1);
  await elapse(clock, 1000);
  await plane.results.settled();
  t.equal(plane.ledger.size, 0);
  t.match((await store.jobs.get(job.id))?.counts, { retrying: 1, assigned: 0 });
});
