import { test } from 'tap';
import { MeshError } from '../../common/errors.js';
import { elapse, jobUntil, PlayedAgent, startPlane, submit } from '../../test/support/plane.js';
import { withStore } from '../../test/support/postgres.js';
import { Outcome } from '../../proto/gen/mesh/v1/agent.js';
import { OnFailure } from '../../proto/gen/mesh/v1/mesh.js';
import type { JobRow, Store } from '../ports.js';

/** The same store with some calls of its task statements replaced. */
const withTasks = (store: Store, tasks: Partial<Store['tasks']>): Store => ({
  ...store,
  tasks: { ...store.tasks, ...tasks },
});

test('a result is acknowledged once its commit is visible; the job ends with the last one', async (t) => {
  const parts = await startPlane(t);
  const { plane, store } = parts;
  const agent = new PlayedAgent(plane, 'attic');
  await agent.connect();
  const job = await submit(plane, 2);
  const [first, second] = await agent.assignedAll(2);
  if (!first || !second) throw new Error('two tasks');
  t.strictSame(await agent.finish([first]), { jobs: [job.seq], indexes: [first.index], generations: [1] });
  t.match((await store.jobs.get(job.id))?.counts, { completed: 1 }, 'committed before the acknowledgement');
  await agent.finish([second], { outcome: Outcome.FAILED, exitCode: 3, error: 'exit code 3' });
  t.match(await store.tasks.attempts(job.seq, second.index), [
    { attempt: 1, node: 'attic', outcome: 'failed', error: 'exit code 3' },
  ]);
  const [again] = await agent.assigned();
  t.match(again, { index: second.index, generation: 2 });
  await agent.finish([again ?? second]);
  t.match(await jobUntil(parts, job.id, (row) => row.completedAtMs !== undefined), { status: 'COMPLETED' });
  t.equal(plane.jobs.get(job.seq), undefined, 'memory follows');
  t.equal(plane.ledger.size, 0);
});

test('results of several sessions that arrive during a commit go together in the next', async (t) => {
  const store = await withStore(t);
  const sizes: number[] = [];
  let release: () => void = () => undefined;
  const gate = new Promise<void>((resolve) => (release = resolve));
  const slow = withTasks(store, {
    settle: async (epoch, items, runs) => {
      sizes.push(items.length);
      if (sizes.length === 1) await gate;
      return store.tasks.settle(epoch, items, runs);
    },
  });
  const { plane } = await startPlane(t, { store: slow });
  const agents = [new PlayedAgent(plane, 'attic', 3), new PlayedAgent(plane, 'cellar', 3)];
  for (const agent of agents) await agent.connect();
  await submit(plane, 6);
  const [here, there] = agents as [PlayedAgent, PlayedAgent];
  const held = [await here.assigned(), await there.assigned()] as const;
  t.same([held[0].length, held[1].length], [3, 3]);
  here.report(held[0].slice(0, 1));
  await new Promise((resolve) => setImmediate(resolve));
  here.report(held[0].slice(1));
  there.report(held[1]);
  release();
  t.equal((await there.mailbox.next('finishedAck')).indexes.length, 3);
  t.same(sizes, [1, 5]);
  t.equal(here.mailbox.all('finishedAck').flatMap(({ indexes }) => indexes).length, 3, 'each session hears of its own');
});

test('what is not live is acknowledged as stale and changes nothing', async (t) => {
  const { plane, store } = await startPlane(t);
  const agent = new PlayedAgent(plane, 'attic');
  await agent.connect();
  const job = await submit(plane, 1);
  const [task] = await agent.assigned();
  if (!task) throw new Error('one task');
  const stale = [
    { ...task, generation: 9 },
    { ...task, index: 77 },
    { ...task, job: 999_999 },
  ];
  t.strictSame((await agent.finish(stale)).indexes, [task.index, 77, task.index], 'so that the agent forgets them');
  t.match((await store.jobs.get(job.id))?.counts, { assigned: 1, completed: 0 });
  await agent.finish([task]);
  t.strictSame((await agent.finish([task])).indexes, [task.index], 'a repeated result has the same answer');
  t.match(await plane.metrics.registry.getSingleMetricAsString('mesh_stale_results_total'), / 4$/m);
});

test('A19: an agent that reports, starts or drops what another holds changes nothing', async (t) => {
  const { plane, store } = await startPlane(t);
  const victim = new PlayedAgent(plane, 'attic', 1);
  await victim.connect();
  const job = await submit(plane, 1);
  const tasks = await victim.assigned();
  const mallory = new PlayedAgent(plane, 'mallory', 1);
  await mallory.connect();
  await mallory.finish(tasks, { resultJson: '"forged"' });
  plane.results.retracted(mallory.session, tasks, []);
  plane.results.started(mallory.session, [{ ...(tasks[0] as (typeof tasks)[0]), ageMs: 1000 }]);
  await mallory.finish(tasks);
  t.match(await store.tasks.list({ job: job.seq, fromIndex: 0, limit: 1 }), [
    { status: 'ASSIGNED', node: 'attic', resultJson: undefined },
  ]);
  t.equal(plane.ledger.get(tasks[0] as (typeof tasks)[0])?.startedAtMs, undefined);
  await victim.finish(tasks, { resultJson: '"real"' });
  t.match(await store.tasks.list({ job: job.seq, fromIndex: 0, limit: 1 }), [{ resultJson: '"real"' }]);
});

test('while the database is away results are kept, not acknowledged, and committed later as old as they are', async (t) => {
  const store = await withStore(t);
  let down = false;
  const flaky = withTasks(store, {
    settle: async (epoch, items, runs) => {
      if (down) throw new MeshError('DATABASE_DOWN', 'gone');
      return store.tasks.settle(epoch, items, runs);
    },
  });
  const { plane, clock } = await startPlane(t, { store: flaky });
  const agent = new PlayedAgent(plane, 'attic');
  await agent.connect();
  const job = await submit(plane, 1);
  const tasks = await agent.assigned();
  down = true;
  agent.report(tasks);
  for (let tries = 0; tries < 3; tries++) {
    await plane.results.settled();
    t.same(agent.mailbox.all('finishedAck'), []);
    clock.advance(500);
  }
  down = false;
  await plane.results.settled();
  clock.advance(500);
  await agent.mailbox.next('finishedAck');
  const [row] = await store.tasks.list({ job: job.seq, fromIndex: 0, limit: 1 });
  t.equal(row?.status, 'COMPLETED');
  t.ok((row?.finishedAtMs ?? Infinity) < Date.now() - 1500, 'the outage is no part of its age');
});

test('a commit whose answer is lost is found out about: the job ends here too', async (t) => {
  const store = await withStore(t);
  let lose = true;
  const lossy = withTasks(store, {
    settle: async (epoch, items, runs) => {
      const settled = await store.tasks.settle(epoch, items, runs);
      if (!lose) return settled;
      lose = false;
      throw new MeshError('DATABASE_DOWN', 'the connection broke');
    },
  });
  const { plane, clock } = await startPlane(t, { store: lossy });
  const agent = new PlayedAgent(plane, 'attic');
  await agent.connect();
  const job = await submit(plane, 1);
  agent.report(await agent.assigned());
  await plane.results.settled();
  t.equal((await store.jobs.get(job.id))?.status, 'COMPLETED');
  t.ok(plane.jobs.get(job.seq), 'nobody here knows');
  clock.advance(500);
  await agent.mailbox.next('finishedAck');
  t.equal(plane.jobs.get(job.seq), undefined);
  t.equal(plane.ledger.size, 0);
});

test('fail-fast: the first task out of attempts cancels the rest', async (t) => {
  const parts = await startPlane(t);
  const { plane } = parts;
  const agent = new PlayedAgent(plane, 'attic', 1);
  await agent.connect();
  const job = await submit(plane, 50, { retries: 0, onFailure: OnFailure.FAIL_FAST });
  const [first] = await agent.assigned();
  if (!first) throw new Error('a task');
  await agent.finish([first], { outcome: Outcome.FAILED, exitCode: 1, error: 'exit code 1' });
  const row = await jobUntil(parts, job.id, ({ completedAtMs }) => completedAtMs !== undefined);
  t.match(row, { status: 'FAILED', error: `task ${first.index} failed: exit code 1` });
  t.match(row.counts, { failed: 1, cancelled: 49 });
});

test('a lost node is one mark against it, however many attempts it held; what it had begun counts as a loss', async (t) => {
  const { plane, store, clock } = await startPlane(t, { config: { prefillMax: 4096 } });
  const agent = new PlayedAgent(plane, 'attic', 2);
  await agent.connect();
  const job = await submit(plane, 3000);
  const held = () => plane.ledger.ofNode(agent.node);
  // No-ops make a deep queue.
  let tasks = await agent.assigned();
  for (let round = 0; round < 6 && held().length < 1500; round++) {
    await agent.finish(tasks, { runUs: 10 });
    tasks = await agent.assigned();
  }
  t.ok(held().length > 1000, `${held().length} attempts are more than one batch`);
  agent.cut();
  await elapse(clock, 16_000);
  await plane.results.settled();
  t.equal(held().length, 0);
  const reliability = plane.fleet.get(agent.node)?.reliability ?? 0;
  t.ok(reliability >= 0.95 - 1e-9 && reliability < 1, `${reliability} is one step of five percent`);
  const lost = (await store.tasks.list({ job: job.seq, status: 'RETRYING', fromIndex: 0, limit: 3000 })).length;
  t.ok(lost > 1000);
});

test('only distinct nodes that were lost while they ran a task condemn it', async (t) => {
  const parts = await startPlane(t);
  const { plane, store, clock } = parts;
  const flaky = new PlayedAgent(plane, 'laptop', 1);
  await flaky.connect();
  const other = new PlayedAgent(plane, 'tower', 1);
  await other.connect();
  await plane.vitals.setDraining('tower', true);
  const job = await submit(plane, 1);
  for (const losses of [1, 2, 3]) {
    const tasks = await flaky.assigned();
    flaky.cut();
    await elapse(clock, 16_000, () => void other.beat());
    await plane.results.settled();
    t.match(
      await store.tasks.list({ job: job.seq, fromIndex: 0, limit: 1 }),
      [{ status: 'RETRYING', losses }],
      'the same laptop again is no second node',
    );
    await flaky.connect();
    t.equal(tasks.length, 1);
  }
  const again = await flaky.assigned();
  await plane.vitals.setDraining('laptop', true);
  await plane.vitals.setDraining('tower', false);
  plane.results.retracted(flaky.session, again, []);
  await other.assigned();
  other.cut();
  await elapse(clock, 16_000, () => void flaky.beat());
  const row = await jobUntil(parts, job.id, ({ completedAtMs }) => completedAtMs !== undefined);
  t.equal(row.status, 'FAILED');
  t.match(await store.tasks.list({ job: job.seq, fromIndex: 0, limit: 1 }), [
    { lastError: /^quarantined: 2 different nodes/ },
  ]);
});

test('RUNNING is marked for attempts that say so, and again when the database was away', async (t) => {
  const store = await withStore(t);
  let down = false;
  const flaky = withTasks(store, {
    markRunning: async (epoch, items) => {
      if (down) throw new MeshError('DATABASE_DOWN', 'gone');
      return store.tasks.markRunning(epoch, items);
    },
  });
  const parts = await startPlane(t, { store: flaky });
  const { plane, clock } = parts;
  const agent = new PlayedAgent(plane, 'attic', 1);
  await agent.connect();
  const job = await submit(plane, 1);
  const [task] = await agent.assigned();
  if (!task) throw new Error('a task');
  down = true;
  plane.results.started(agent.session, [{ ...task, ageMs: 400 }]);
  await plane.results.settled();
  t.equal(plane.ledger.get(task)?.startedAtMs, -400, 'the ledger follows the agent at once, past its own clock’s zero');
  t.match((await store.jobs.get(job.id))?.counts, { assigned: 1, running: 0 });
  down = false;
  clock.advance(500);
  t.match(await jobUntil(parts, job.id, (row) => row.counts.running === 1), { counts: { assigned: 0 } });
});

test('a node that could not run three attempts of a job gets no more of it', async (t) => {
  const parts = await startPlane(t);
  const { plane, clock } = parts;
  const broken = new PlayedAgent(plane, 'broken', 1);
  await broken.connect();
  const job = await submit(plane, 10);
  for (let faults = 0; faults < 3; faults++) {
    const tasks = await broken.assignedAll(1);
    await broken.finish(tasks.slice(0, 1), { outcome: Outcome.NODE_FAULT, exitCode: undefined, error: 'no space' });
    for (const task of tasks.slice(1)) plane.results.retracted(broken.session, [task], []);
  }
  t.same([...(plane.jobs.get(job.seq)?.blockedNodes ?? [])], [broken.node]);
  clock.advance(31_000);
  t.ok((plane.fleet.get(broken.node)?.reliability ?? 1) < 0.9);
});

test('a flood of stale results makes one row of the audit a minute', async (t) => {
  const store = await withStore(t);
  const { plane, clock } = await startPlane(t, { store });
  const rows = async () => {
    await plane.audit.idle();
    const found = await store.audit.from(1, 100);
    const stale = found.filter(({ action }) => action === 'result.stale');
    return stale.map(({ actor, action, target, detail }) => ({ actor, action, target, detail }));
  };
  const stale = (times: number) => ({
    ...{ actor: 'agent/attic', action: 'result.stale', target: 'attic', detail: `{"times":${times}}` },
  });
  const agent = new PlayedAgent(plane, 'attic');
  await agent.connect();
  await submit(plane, 1);
  const [task] = await agent.assigned();
  if (!task) throw new Error('one task');
  for (let round = 0; round < 20; round++)
    await agent.finish(Array.from({ length: 500 }, (_, i) => ({ ...task, generation: 2 + round * 500 + i })));
  t.same(await rows(), [stale(1)], 'the first at once');
  await elapse(clock, 61_000, () => void agent.beat());
  t.same(await rows(), [stale(1), stale(9999)]);
  await elapse(clock, 120_000, () => void agent.beat());
  t.equal((await rows()).length, 2, 'and none while there is nothing to tell');
  await agent.finish([3, 4, 5].map((generation) => ({ ...task, generation })));
  await plane.stop();
  t.same((await rows()).slice(2), [stale(1), stale(2)], 'what is not written yet is written at the end');
});

test('a node that fails what others do not is blocked for the job, suspended, tried again, and trusted again', async (t) => {
  const { plane, clock } = await startPlane(t, { config: { prefillMax: 0 } });
  const broken = new PlayedAgent(plane, 'broken', 1);
  const whole = new PlayedAgent(plane, 'whole', 1);
  await whole.connect();
  await broken.connect();
  const beats = () => [broken, whole].forEach((agent) => agent.beat());
  const fault = { outcome: Outcome.NODE_FAULT, exitCode: undefined, error: 'no space' };
  const jobs: JobRow[] = [];
  for (let n = 0; n < 3; n++) {
    const job = await submit(plane, 1000);
    jobs.push(job);
    for (let faults = 0; faults < 3; faults++) broken.report(await broken.assigned(), fault);
    await plane.results.settled();
    t.ok(plane.jobs.get(job.seq)?.blockedNodes.has(broken.node), `blocked for job ${n + 1}`);
  }
  const trust = plane.fleet.get(broken.node)?.trust;
  t.equal(trust?.state(clock.monotonicMs()), 'suspended');
  const why = () => plane.explain.answer(jobs[2] as JobRow, undefined).nodes;
  whole.report(await whole.assigned());
  await plane.results.settled();
  await elapse(clock, 2000, beats);
  t.match(
    why().find(({ name }) => name === 'broken'),
    { feasible: false, reason: /failed what others did not; it is tried again in \d+ s/ },
  );
  await elapse(clock, 60_000, beats);
  t.equal(trust?.state(clock.monotonicMs()), 'on-trial');
  await submit(plane, 1000, { priority: 50 });
  const trial = await broken.assigned();
  t.equal(trial.length, 1, 'one task');
  broken.report(trial);
  await plane.results.settled();
  t.equal(trust?.state(clock.monotonicMs()), 'trusted');
  t.notOk(plane.jobs.get(jobs[0]?.seq ?? 0)?.blockedNodes.has(broken.node), 'and its blocks are forgotten');
});

test('a quarantine outlives a restart of the coordinator', async (t) => {
  const store = await withStore(t);
  const first = await startPlane(t, { store });
  const spare = new PlayedAgent(first.plane, 'spare', 1);
  const one = new PlayedAgent(first.plane, 'laptop', 1);
  await one.connect();
  const job = await submit(first.plane, 1);
  await one.assigned();
  await spare.connect();
  one.cut();
  await elapse(first.clock, 16_000);
  await first.plane.results.settled();
  await first.plane.stop();

  const second = await startPlane(t, { store });
  const two = new PlayedAgent(second.plane, 'tower', 1);
  await two.connect();
  await two.assigned();
  two.cut();
  await second.plane.stop();

  const third = await startPlane(t, { store });
  await elapse(third.clock, 16_000);
  await third.plane.results.settled();
  t.match(await store.tasks.list({ job: job.seq, fromIndex: 0, limit: 1 }), [{ status: 'RETRYING', losses: 2 }]);
  const last = new PlayedAgent(third.plane, 'desk', 1);
  await last.connect();
  await last.assigned();
  last.cut();
  await elapse(third.clock, 16_000);
  await third.plane.results.settled();
  t.match(await store.tasks.list({ job: job.seq, fromIndex: 0, limit: 1 }), [
    { status: 'FAILED', lastError: /^quarantined: 3 different nodes/ },
  ]);
});
