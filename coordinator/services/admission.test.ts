import { test } from 'tap';
import { PROTOCOL } from '../../common/package.js';
import { elapse, jobUntil, PlayedAgent, startPlane, submission, submit, tasksOf } from '../../test/support/plane.js';
import { withStore } from '../../test/support/postgres.js';
import type { Store } from '../ports.js';

test('a reconnect of the same process replaces the session; what the agent never heard of is told again', async (t) => {
  const { plane } = await startPlane(t);
  const agent = new PlayedAgent(plane, 'attic', 2);
  t.match(await agent.connect(), { protocol: 1, name: 'attic', leaseMs: 15_000, heartbeatMs: 2000, epoch: 1 });
  await submit(plane, 2);
  const held = await agent.assignedAll(2);
  const former = agent.mailbox;
  const [heard, unheard] = held;
  if (!heard || !unheard) throw new Error('two tasks');
  const welcome = await agent.connect({ prefilled: [heard] });
  t.match(former.heard.at(-1), { $case: 'goodbye', value: { permanent: false } });
  t.ok(former.ended, 'the older stream is closed');
  t.same(welcome.superseded?.indexes, []);
  const again = await agent.mailbox.next('assign');
  t.same(tasksOf(again), [unheard], 'under the same generation');
  t.equal(again.bodies.length, 1, 'a new session needs the body again');
});

test('a second boot id on a living certificate is a clone and refused; after silence it is the restarted agent', async (t) => {
  const { plane, clock } = await startPlane(t);
  const agent = new PlayedAgent(plane, 'attic', 2);
  await agent.connect();
  const clone = new PlayedAgent(plane, 'attic', 2);
  await t.rejects(clone.connect(), { code: 'IN_USE', message: /another agent is connected/ });
  t.notOk(agent.mailbox.ended, 'the one that was here first stays');
  clock.jumpWall(3_600_000);
  await t.rejects(clone.connect(), { code: 'IN_USE' }, 'a jump of the wall clock is no silence');
  clock.jumpWall(-7_200_000);
  await elapse(clock, 3500);
  await clone.connect();
  t.ok(agent.mailbox.ended);
});

test('a restarted agent has lost what it held; nothing of it is sent again under the old generation', async (t) => {
  const parts = await startPlane(t);
  const { plane, store } = parts;
  const agent = new PlayedAgent(plane, 'attic', 1);
  await agent.connect();
  const job = await submit(plane, 1);
  await agent.assigned();
  agent.cut();
  agent.bootId = 'another-boot';
  await agent.connect();
  const [again] = await agent.assigned();
  t.match(again, { index: 0, generation: 2 });
  t.match(await store.tasks.attempts(job.seq, 0), [{ outcome: 'node-lost', error: 'attic restarted without it' }]);
});

test('what was given up and still runs is adopted; what somebody else has started meanwhile is superseded', async (t) => {
  const parts = await startPlane(t, { config: { prefillMax: 0 } });
  const { plane, store, clock } = parts;
  const agent = new PlayedAgent(plane, 'attic', 2);
  await agent.connect();
  const job = await submit(plane, 2);
  const held = await agent.assignedAll(2);
  agent.cut();
  await elapse(clock, 16_000);
  await plane.results.settled();
  t.match((await store.jobs.get(job.id))?.counts, { retrying: 2 });
  const other = new PlayedAgent(plane, 'cellar', 1);
  await other.connect();
  const [taken] = await other.assignedAll(1);
  const rest = held.find(({ index }) => index !== taken?.index);
  const gone = held.find(({ index }) => index === taken?.index);
  const welcome = await agent.connect({ running: held });
  t.same(welcome.superseded?.indexes, [gone?.index], 'kill this one');
  t.match((await store.jobs.get(job.id))?.counts, { running: 1, assigned: 1, retrying: 0 });
  if (!rest) throw new Error('one is left');
  await agent.finish([rest]);
  t.match(await store.tasks.list({ job: job.seq, fromIndex: rest.index, limit: 1 }), [
    { status: 'COMPLETED', generation: 1, losses: 0, node: 'attic' },
  ]);
});

test('a result that was committed and whose acknowledgement was lost is superseded, not run again', async (t) => {
  const { plane } = await startPlane(t);
  const agent = new PlayedAgent(plane, 'attic', 1);
  await agent.connect();
  await submit(plane, 1);
  const tasks = await agent.assigned();
  await agent.finish(tasks);
  agent.cut();
  const { superseded } = await agent.connect({ unacknowledged: tasks });
  t.same(superseded?.indexes, [0], 'the agent forgets it');
});

test('work assigned while an agent is being admitted reaches it', async (t) => {
  const store = await withStore(t);
  let adopting: () => void = () => undefined;
  let release: () => void = () => undefined;
  const asked = new Promise<void>((resolve) => (adopting = resolve));
  const gate = new Promise<void>((resolve) => (release = resolve));
  let hold = false;
  let assign: (() => void) | undefined;
  const slow: Store = {
    ...store,
    tasks: {
      ...store.tasks,
      adopt: async (epoch, items) => {
        adopting();
        await gate;
        return store.tasks.adopt(epoch, items);
      },
      assign: async (epoch, items) => {
        if (hold) await new Promise<void>((resolve) => (assign = resolve));
        return store.tasks.assign(epoch, items);
      },
    },
  };
  const { plane } = await startPlane(t, { store: slow });
  const agent = new PlayedAgent(plane, 'attic', 2);
  await agent.connect();
  await submit(plane, 1);
  const done = await agent.assigned();
  await agent.finish(done);
  // An assignment is under way when the stream breaks and the agent comes back with a result that is committed already.
  hold = true;
  // With its input, so that it waits for a turn of the planner.
  await plane.intake.submit(submission(1, {}, [[{ value: 'x', files: [] }]]));
  while (!assign) await new Promise((resolve) => setImmediate(resolve));
  agent.cut();
  const back = agent.connect({ unacknowledged: done });
  await asked;
  assign();
  while (plane.ledger.size === 0) await new Promise((resolve) => setImmediate(resolve));
  release();
  await back;
  t.equal((await agent.assigned()).length, 1);
});

test('two hellos at once: the later one finds the session of the earlier and ends it', async (t) => {
  const { plane } = await startPlane(t);
  const one = new PlayedAgent(plane, 'attic', 2);
  const two = new PlayedAgent(plane, 'attic', 2);
  two.bootId = one.bootId;
  await Promise.all([one.connect(), two.connect()]);
  const [closed, open] = one.session.open ? [two, one] : [one, two];
  t.notOk(closed.session.open);
  t.ok(open.session.open);
  t.equal(plane.fleet.byName('attic')?.session, open.session);
});

test('a question that was never answered is open no more after a reconnect', async (t) => {
  const { plane } = await startPlane(t);
  const agent = new PlayedAgent(plane, 'attic', 1);
  await agent.connect();
  await submit(plane, 8);
  const held = await agent.assignedAll(2);
  const node = agent.node;
  const job = held[0]?.job ?? 0;
  const asked = plane.ledger.takeBack({ node, job, count: 1 });
  t.equal(asked.length, 1);
  const before = plane.ledger.prefilled().find((row) => row.node === node)?.count ?? 0;
  agent.cut();
  await agent.connect({ prefilled: held });
  t.equal(plane.ledger.prefilled().find((row) => row.node === node)?.count, before + 1);
});

test('who cannot be admitted hears why', async (t) => {
  const { plane, store } = await startPlane(t);
  const agent = new PlayedAgent(plane, 'attic');
  const hello = {
    protocol: { min: 7, max: 9 },
    bootId: 'b',
    version: '',
    capabilities: undefined,
    epoch: 0,
    runningAgeMs: [],
  };
  const empty = { prefilled: undefined, running: undefined, unacknowledged: undefined };
  const admit = (over: object) =>
    plane.admission.admit(
      agent.identity,
      { ...hello, ...empty, ...over },
      () => undefined,
      () => undefined,
    );
  await t.rejects(admit({}), {
    code: 'PROTOCOL',
    message: new RegExp(`speaks protocol 7 to 9, this coordinator ${PROTOCOL.min} to ${PROTOCOL.max}`),
  });
  await t.rejects(admit({ protocol: { min: 1, max: 9 } }), { code: 'PROTOCOL', message: /no capabilities/ });
  await agent.connect();
  await store.nodes.setRevoked('attic', true);
  agent.cut();
  await t.rejects(agent.connect(), { code: 'REVOKED' });
});

test('a coordinator that starts again gives every node a lease of grace and knows what it holds', async (t) => {
  const store = await withStore(t);
  const first = await startPlane(t, { store });
  const agent = new PlayedAgent(first.plane, 'attic', 2);
  await agent.connect();
  const job = await submit(first.plane, 2);
  const held = await agent.assignedAll(2);
  await first.plane.stop();

  const second = await startPlane(t, { store });
  t.equal(second.plane.ledger.size, 2);
  t.equal(second.plane.fleet.byName('attic')?.liveness.state, 'SUSPECT');
  await elapse(second.clock, 14_000);
  t.equal(second.plane.ledger.size, 2, 'grace');
  const back = new PlayedAgent(second.plane, 'attic', 2);
  back.bootId = agent.bootId;
  t.match(await back.connect({ running: held }), { epoch: 2, superseded: { indexes: [] } });
  await back.finish(held);
  t.match(await jobUntil(second, job.id, (row) => row.completedAtMs !== undefined), { status: 'COMPLETED' });
});

test('a node that is here past 80 % of the life of its certificate is renewing it in vain', async (t) => {
  const { plane, clock } = await startPlane(t);
  const nowMs = clock.wallMs();
  const agent = new PlayedAgent(plane, 'attic', 2, { notBeforeMs: nowMs - 300_000, notAfterMs: nowMs + 3_600_000 });
  await agent.connect();
  const overdue = (): boolean => {
    const { fleet } = plane.term ?? {};
    const node = fleet?.byName('attic');
    return node !== undefined && fleet?.isRenewalOverdue(node) === true;
  };
  clock.jumpWall(0.79 * 3_600_000);
  t.notOk(overdue());
  clock.jumpWall(0.02 * 3_600_000);
  t.ok(overdue());
  agent.cut();
  t.notOk(overdue(), 'who is away cannot renew');
});
