import { test, type Test } from 'tap';
import { MeshError } from '../../common/errors.js';
import { OnDisconnect } from '../../proto/gen/mesh/v1/common.js';
import { Outcome } from '../../proto/gen/mesh/v1/agent.js';
import type { JobSpec } from '../../proto/gen/mesh/v1/mesh.js';
import { elapse, jobUntil, PlayedAgent, startPlane, submit, type TestPlane } from '../../test/support/plane.js';
import { withStore } from '../../test/support/postgres.js';
import type { Store } from '../ports.js';

const ended = ({ completedAtMs }: { completedAtMs: number | undefined }) => completedAtMs !== undefined;

/** One task: it was given to `attic`, lost with it, and, unless it is `free`, given to `cellar`, where it runs since `ranMs`. */
async function replaced(
  t: Test,
  options: { spec?: Partial<JobSpec>; ranMs?: number; store?: Store; protocol?: number; free?: boolean } = {},
) {
  const store = options.store ?? (await withStore(t));
  const parts = await startPlane(t, { store, config: { prefillMax: 0 } });
  const { plane, clock } = parts;
  const attic = new PlayedAgent(plane, 'attic', 1);
  const cellar = new PlayedAgent(plane, 'cellar', 1);
  attic.protocol = options.protocol ?? 2;
  cellar.protocol = 2;
  await attic.connect();
  const job = await submit(plane, 1, options.spec);
  const [lost] = await attic.assigned();
  attic.cut();
  await elapse(clock, 16_000);
  await plane.results.settled();
  if (!lost) throw new Error('one task');
  if (options.free) return { ...parts, attic, cellar, job, lost, replacement: lost };
  await cellar.connect();
  const [replacement] = await cellar.assigned();
  if (!replacement) throw new Error('the same task');
  if (options.ranMs !== undefined) plane.results.started(cellar.session, [{ ...replacement, ageMs: options.ranMs }]);
  await plane.results.settled();
  return { ...parts, attic, cellar, job, lost, replacement };
}

const rowOf = async ({ store }: Pick<TestPlane, 'store'>, job: number) =>
  (await store.tasks.list({ job, fromIndex: 0, limit: 1 }))[0];

test('a running attempt that comes back further ahead than its replacement goes on; the replacement is cancelled', async (t) => {
  const all = await replaced(t, { ranMs: 5000 });
  const { plane, store, attic, cellar, job, lost, replacement } = all;
  const welcome = await attic.connect({ running: [lost], runningAgeMs: [60_000] });
  t.same(welcome.superseded?.indexes, []);
  t.match(welcome.readopted, { attempts: { jobs: [job.seq], indexes: [0], generations: [1] }, generations: [3] });
  t.same(await cellar.mailbox.next('cancel'), { jobs: [job.seq], indexes: [0], generations: [2] });
  const row = await rowOf(all, job.seq);
  t.match(row, { status: 'RUNNING', generation: 3, node: 'attic', losses: 0, failures: 0 }, 'and it was no loss');
  const ageMs = Date.now() - (row?.startedAtMs ?? 0);
  t.ok(ageMs > 59_000 && ageMs < 90_000, `the row knows when it began: ${ageMs} ms ago`);
  t.match((await store.jobs.get(job.id))?.counts, { running: 1, assigned: 0, retrying: 0 });
  t.match(await store.tasks.attempts(job.seq, 0), [{ generation: 2, node: 'cellar', outcome: 'cancelled' }]);

  t.equal(plane.ledger.room(cellar.node).free.slots, 0, 'its room is taken until it is dead');
  await cellar.finish([replacement], { resultJson: '"late"' });
  t.equal(plane.ledger.room(cellar.node).free.slots, 1);
  t.match(await rowOf(all, job.seq), { status: 'RUNNING', generation: 3 }, 'its result changes nothing');
  const [mine] = [{ ...lost, generation: 3 }];
  t.equal((plane.ledger.get(mine)?.startedAtMs ?? 0) <= all.clock.monotonicMs() - 60_000, true);
  await attic.finish([mine], { resultJson: '"first"' });
  t.match(await jobUntil(all, job.id, ended), { status: 'COMPLETED' });
  t.match(await rowOf(all, job.seq), { resultJson: '"first"', node: 'attic', generation: 3 });
});

test('what has run for less than its replacement is superseded', async (t) => {
  const all = await replaced(t, { ranMs: 90_000 });
  const welcome = await all.attic.connect({ running: [all.lost], runningAgeMs: [60_000] });
  t.same(welcome.superseded?.generations, [1]);
  t.equal(welcome.readopted, undefined);
  t.match(await rowOf(all, all.job.seq), { generation: 2, node: 'cellar' });
});

test('what has ended is ahead of every replacement; its result is the one', async (t) => {
  const all = await replaced(t, { ranMs: 3_600_000, spec: { onDisconnect: OnDisconnect.KEEP } });
  const welcome = await all.attic.connect({ unacknowledged: [all.lost] });
  t.same(welcome.readopted?.generations, [3]);
  await all.attic.finish([{ ...all.lost, generation: 3 }], { resultJson: '"done"' });
  await all.cellar.finish([all.replacement], { resultJson: '"again"' });
  t.match(await rowOf(all, all.job.seq), { status: 'COMPLETED', resultJson: '"done"', node: 'attic' });
});

test('a fenced attempt that should have been killed is superseded, however far it is', async (t) => {
  const all = await replaced(t, { spec: { onDisconnect: OnDisconnect.STOP }, ranMs: 10 });
  t.match(
    await all.attic.connect({ running: [all.lost], runningAgeMs: [3_600_000] }),
    { superseded: { generations: [1] }, readopted: undefined },
    'two must not run',
  );
  all.attic.cut();
  const welcome = await all.attic.connect({ unacknowledged: [all.lost] });
  t.same(welcome.superseded?.generations, [1], 'the fence may have ended it: that must not end its replacement');
  t.equal(welcome.readopted, undefined);
});

test('an agent that cannot be told of another generation is superseded', async (t) => {
  const all = await replaced(t, { ranMs: 10, protocol: 1 });
  t.match(await all.attic.connect({ unacknowledged: [all.lost] }), { superseded: { generations: [1] } });
});

test('who claims an attempt that was never lost with it gets nothing', async (t) => {
  const all = await replaced(t, { ranMs: 10 });
  const mallory = new PlayedAgent(all.plane, 'mallory', 1);
  mallory.protocol = 2;
  const welcome = await mallory.connect({ unacknowledged: [all.lost] });
  t.match(welcome, { superseded: { generations: [1] }, readopted: undefined });
  t.match(await rowOf(all, all.job.seq), { generation: 2, node: 'cellar' });
});

test('when the welcome is lost the agent hears of its generation again; nothing is counted twice', async (t) => {
  const all = await replaced(t, { ranMs: 10 });
  const { attic, store, job, lost } = all;
  t.same((await attic.connect({ running: [lost], runningAgeMs: [60_000] })).readopted?.generations, [3]);
  attic.cut();
  const again = await attic.connect({ running: [lost], runningAgeMs: [61_000] });
  t.match(again, { readopted: { generations: [3] }, superseded: { indexes: [] } });
  t.match(await rowOf(all, job.seq), { generation: 3, losses: 0 });
  attic.cut();
  const known = { ...lost, generation: 3 };
  const third = await attic.connect({ running: [known], runningAgeMs: [62_000] });
  t.match(third, { readopted: undefined, superseded: { indexes: [] } });
  await attic.finish([known]);
  t.match(await jobUntil(all, job.id, ended), { status: 'COMPLETED' });
  t.match(await store.tasks.attempts(job.seq, 0), [{ outcome: 'cancelled' }]);
});

/** A store that commits the statement and loses its answer, once, when told to. */
async function lossyStore(t: Test, statement: 'adopt' | 'readopt'): Promise<{ store: Store; loseNext: () => void }> {
  const store = await withStore(t);
  let lose = false;
  const ask = async (epoch: number, items: never[]) => {
    const result = await store.tasks[statement](epoch, items);
    if (!lose || items.length === 0) return result;
    lose = false;
    throw new MeshError('DATABASE_DOWN', 'the connection broke');
  };
  return { store: { ...store, tasks: { ...store.tasks, [statement]: ask } }, loseNext: () => void (lose = true) };
}

test('what was adopted by an answer that was lost waits for its agent for a whole lease', async (t) => {
  const { store, loseNext } = await lossyStore(t, 'adopt');
  const all = await replaced(t, { store, free: true });
  const { plane, clock, attic, job, lost } = all;
  loseNext();
  await t.rejects(attic.connect({ running: [lost], runningAgeMs: [5000] }), { code: 'DATABASE_DOWN' });
  while (plane.ledger.size === 0) await elapse(clock, 250);
  await elapse(clock, 10_000);
  await plane.results.settled();
  const welcome = await attic.connect({ running: [lost], runningAgeMs: [15_000] });
  t.same(welcome.superseded?.indexes, []);
  t.match(await rowOf(all, job.seq), { status: 'RUNNING', generation: 1, losses: 0 });
});

for (const statement of ['adopt', 'readopt'] as const)
  test(`when the answer of ${statement} is lost the task is nobody else's, and no result is lost`, async (t) => {
    const { store, loseNext } = await lossyStore(t, statement);
    const all = await replaced(t, { ranMs: 10, store, free: statement === 'adopt' });
    const { plane, clock, attic, cellar, job, lost, replacement } = all;
    loseNext();
    await t.rejects(attic.connect({ running: [lost], runningAgeMs: [5000] }), { code: 'DATABASE_DOWN' });
    // The agent is not heard of again: what was adopted for it is given away once more when that is known.
    const beats = () => void (statement === 'readopt' ? cellar.beat() : undefined);
    while ((await rowOf(all, job.seq))?.status !== 'RUNNING') await elapse(clock, 250, beats);
    while ((await rowOf(all, job.seq))?.status !== 'RETRYING') await elapse(clock, 250, beats);
    const next = new PlayedAgent(plane, 'desk', 1);
    next.protocol = 2;
    await next.connect();
    if (statement === 'readopt') await cellar.finish([replacement], { outcome: Outcome.CANCELLED });
    while ((await rowOf(all, job.seq))?.status !== 'ASSIGNED') await elapse(clock, 250, beats);
    t.equal(plane.ledger.heldByJob(job.seq), 1, 'and given to somebody, once');
  });

test('a coordinator that restarts amid a thousand running tasks re-runs none of them', async (t) => {
  const store = await withStore(t);
  const count = 1000;
  const first = await startPlane(t, { store });
  const agents = [0, 1, 2, 3].map((n) => {
    const agent = new PlayedAgent(first.plane, `node-${n}`, 250);
    agent.protocol = 2;
    return agent;
  });
  for (const agent of agents) await agent.connect();
  const job = await submit(first.plane, count);
  const held = await Promise.all(agents.map((agent) => agent.assignedAll(250)));
  for (const [n, agent] of agents.entries())
    first.plane.results.started(agent.session, held[n]?.map((task) => ({ ...task, ageMs: 400 })) ?? []);
  await first.plane.results.settled();
  await first.plane.stop();

  const second = await startPlane(t, { store });
  const back = agents.map(({ name, bootId }) => {
    const agent = new PlayedAgent(second.plane, name, 250);
    return Object.assign(agent, { bootId, protocol: 2 });
  });
  await elapse(second.clock, 5000);
  for (const [n, agent] of back.entries()) {
    const tasks = held[n] ?? [];
    const [running, done] = [tasks.slice(0, 200), tasks.slice(200)];
    const welcome = await agent.connect({ running, unacknowledged: done, runningAgeMs: running.map(() => 9000) });
    t.same(welcome.superseded?.indexes, []);
    await agent.finish(done);
    await agent.finish(running);
  }
  t.match(await jobUntil(second, job.id, ended), { status: 'COMPLETED', counts: { completed: count } });
  const rows = await store.tasks.list({ job: job.seq, fromIndex: 0, limit: count });
  t.ok(
    rows.every(({ generation, losses, failures }) => generation === 1 && losses === 0 && failures === 0),
    'each in its first generation',
  );
});

test('a restarted agent delivers what it had finished; only the rest of what it held is lost', async (t) => {
  const parts = await startPlane(t);
  const { plane, store } = parts;
  const agent = new PlayedAgent(plane, 'attic', 2);
  await agent.connect();
  const job = await submit(plane, 2);
  const [done, lost] = await agent.assignedAll(2);
  if (!done || !lost) throw new Error('two tasks');
  agent.cut();
  agent.bootId = 'another-boot';
  const welcome = await agent.connect({ unacknowledged: [done] });
  t.same(welcome.superseded?.indexes, []);
  agent.report([done], { resultJson: '"kept"' });
  const [again] = await agent.assigned();
  await plane.results.settled();
  t.match(again, { index: lost.index, generation: 2 });
  t.match(await store.tasks.list({ job: job.seq, fromIndex: done.index, limit: 1 }), [
    { status: 'COMPLETED', generation: 1, resultJson: '"kept"' },
  ]);
});

test('a long attempt is not taken for a young one after a restart of the coordinator', async (t) => {
  const store = await withStore(t);
  const first = await startPlane(t, { store });
  const agent = new PlayedAgent(first.plane, 'attic', 1);
  await agent.connect();
  const job = await submit(first.plane, 1);
  const [task] = await agent.assigned();
  if (!task) throw new Error('one task');
  first.plane.results.started(agent.session, [{ ...task, ageMs: 3_600_000 }]);
  await first.plane.results.settled();
  await first.plane.stop();
  const second = await startPlane(t, { store });
  const ageMs = second.clock.monotonicMs() - (second.plane.ledger.get(task)?.startedAtMs ?? 0);
  t.ok(ageMs >= 3_600_000 && ageMs < 3_700_000, `${ageMs} ms`);
  await elapse(second.clock, 16_000);
  await second.plane.results.settled();
  const dueInMs = (await store.tasks.nextDueInMs([job.seq])) ?? 0;
  t.ok(dueInMs > 300_000 && dueInMs <= 400_000, `${dueInMs} ms: its node may come back for a tenth of its time`);
  t.match((await store.jobs.get(job.id))?.counts, { retrying: 1 });
});

test('a fenced task is due at the end of the lease, and no sooner when its agent restarts', async (t) => {
  const parts = await startPlane(t, { config: { prefillMax: 0 } });
  const { plane, clock, store } = parts;
  const agent = new PlayedAgent(plane, 'attic', 1);
  agent.protocol = 2;
  await agent.connect();
  await submit(plane, 1, { onDisconnect: OnDisconnect.STOP });
  const [task] = await agent.assigned();
  if (!task) throw new Error('one task');
  plane.results.started(agent.session, [{ ...task, ageMs: 3_600_000 }]);
  await plane.results.settled();
  agent.cut();
  await elapse(clock, 5000);
  agent.bootId = 'another-boot';
  await agent.connect();
  await plane.results.settled();
  const soon = (await store.tasks.nextDueInMs([task.job])) ?? -1;
  t.ok(soon > 8000 && soon <= 10_000, `${soon} ms: the former process may believe in its lease for so long`);
});

test('a fenced task of a silent node is given away when the lease ends, whatever it had done', async (t) => {
  const parts = await startPlane(t, { config: { prefillMax: 0 } });
  const { plane, clock } = parts;
  const old = new PlayedAgent(plane, 'old', 1);
  await old.connect();
  const agent = new PlayedAgent(plane, 'attic', 1);
  agent.protocol = 2;
  await agent.connect();
  const job = await submit(plane, 1, { onDisconnect: OnDisconnect.STOP });
  const [task] = await agent.assigned();
  if (!task) throw new Error('one task');
  const { nodes } = plane.explain.answer(job, undefined);
  t.match(
    nodes.find(({ name }) => name === 'old'),
    { feasible: false, reason: /too old to stop attempts/ },
  );
  plane.results.started(agent.session, [{ ...task, ageMs: 3_600_000 }]);
  await plane.results.settled();
  const other = new PlayedAgent(plane, 'cellar', 1);
  other.protocol = 2;
  await other.connect();
  agent.cut();
  const others = () => [old, other].forEach((peer) => peer.beat());
  await elapse(clock, 14_000, others);
  await plane.results.settled();
  t.equal(plane.ledger.get(task)?.node, agent.node, 'never before');
  await elapse(clock, 2000, others);
  t.match(await other.assigned(), [{ index: 0, generation: 2 }]);
});

test('an agent that returns while its work is being given away waits until that is committed', async (t) => {
  const store = await withStore(t);
  let release: () => void = () => undefined;
  const hold = new Promise<void>((resolve) => (release = resolve));
  const slow: Store = {
    ...store,
    tasks: {
      ...store.tasks,
      settle: async (epoch, items, runs) => {
        await hold;
        return store.tasks.settle(epoch, items, runs);
      },
    },
  };
  const parts = await startPlane(t, { store: slow });
  const { plane, clock } = parts;
  const agent = new PlayedAgent(plane, 'attic', 1);
  agent.protocol = 2;
  await agent.connect();
  const job = await submit(plane, 1, { onDisconnect: OnDisconnect.STOP });
  const [task] = await agent.assigned();
  if (!task) throw new Error('one task');
  agent.cut();
  await elapse(clock, 16_000);
  let isBack = false;
  const back = agent.connect({ running: [task], runningAgeMs: [1000] }).then((welcome) => {
    isBack = true;
    return welcome;
  });
  await elapse(clock, 1000);
  t.notOk(isBack);
  release();
  const { superseded } = await back;
  t.same(superseded?.indexes, [], 'it was given to nobody yet, so it is its again');
  t.match(await rowOf(parts, job.seq), { status: 'RUNNING', generation: 1, losses: 0 });
});

test('an agent that obeys a later leader is not let in', async (t) => {
  const { plane } = await startPlane(t);
  const agent = new PlayedAgent(plane, 'attic', 1);
  await t.rejects(agent.connect({ epoch: 7 }), { code: 'LEADERSHIP_LOST', message: /epoch 7/ });
  t.equal(plane.ledger.size, 0);
});
