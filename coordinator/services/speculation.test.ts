import { test } from 'tap';
import { MeshError } from '../../common/errors.js';
import { Outcome } from '../../proto/gen/mesh/v1/agent.js';
import { OnDisconnect } from '../../proto/gen/mesh/v1/common.js';
import { ManualClock } from '../../test/support/manual-clock.js';
import { elapse, jobUntil, PlayedAgent, startPlane, submit } from '../../test/support/plane.js';
import { withStore } from '../../test/support/postgres.js';
import { beats, config, copied, held, outcomes, scene, start, taskOf } from '../../test/support/straggler.js';
import type { JobRow, Store } from '../ports.js';

for (const winner of ['copy', 'original'] as const)
  test(`a straggler gets a second attempt; the ${winner} is first, and the other is killed`, async (t) => {
    const all = await scene(t);
    const { plane, slow, quick, job, original } = all;
    const copy = await copied(all);
    t.match(copy, { job: job.seq, index: original.index, generation: 2 });
    t.same(quick.mailbox.all('assign').at(-1)?.groups[0]?.attempts, [2], 'its own number');
    t.equal(plane.ledger.room(quick.node).free.slots, 0, 'it holds room on its node');
    t.equal(plane.ledger.room(slow.node).free.slots, 0, 'and so does the original');
    const row = await taskOf(all);
    t.match(plane.explain.answer(job, row).summary, /assigned on cellar, as a copy of the attempt on attic/);
    const [first, firstTask, second, secondTask] =
      winner === 'copy' ? ([quick, copy, slow, original] as const) : ([slow, original, quick, copy] as const);
    await first.finish([firstTask], { resultJson: '"first"' });
    const { indexes, generations } = await second.mailbox.next('cancel');
    t.same([indexes, generations], [[original.index], [secondTask.generation]]);
    t.match(await jobUntil(all, job.id, (now) => now.completedAtMs !== undefined), { status: 'COMPLETED' });
    t.match(await taskOf(all), {
      status: 'COMPLETED',
      node: first.name,
      resultJson: '"first"',
      failures: 0,
      losses: 0,
    });
    t.equal(plane.ledger.room(second.node).free.slots, 0, 'what is dying still holds its room');
    await second.finish([secondTask], { outcome: Outcome.CANCELLED });
    t.equal(plane.ledger.size, 0);
    t.equal(plane.ledger.room(second.node).free.slots, 1);
    t.same(await outcomes(all), [`${winner === 'copy' ? 'won' : 'lost'} 1`]);
    t.match(await all.store.jobs.get(job.id), { counts: { completed: 2, failed: 0 } });
  });

test('the loser keeps its room over a new session of its agent, until that says that it is dead', async (t) => {
  for (const heard of [true, false]) {
    const all = await scene(t);
    const { plane, slow, quick, job, original } = all;
    const copy = await copied(all);
    if (!heard) slow.cut();
    await quick.finish([copy]);
    t.match(await jobUntil(all, job.id, (now) => now.completedAtMs !== undefined), { status: 'COMPLETED' });
    t.equal(plane.ledger.room(slow.node).free.slots, 0, 'it is not known to be dead');
    if (heard) slow.cut();
    const welcome = await slow.connect({ running: [original], runningAgeMs: [9000] });
    t.same(welcome.superseded?.indexes, [], 'what is killed without a word would free its room never');
    t.match(await slow.mailbox.next('cancel'), { indexes: [original.index], generations: [original.generation] });
    t.equal(plane.ledger.room(slow.node).free.slots, 0);
    await slow.finish([original], { outcome: Outcome.CANCELLED });
    t.equal(plane.ledger.room(slow.node).free.slots, 1);
    t.equal(plane.ledger.size, 0);
    t.equal((await taskOf(all))?.node, 'cellar');
  }
});

test('a loser that its agent lists no more, or that a former process ran, holds no room after the hello', async (t) => {
  for (const restarted of [true, false]) {
    const all = await scene(t);
    const { plane, slow, quick, original } = all;
    const copy = await copied(all);
    slow.cut();
    await quick.finish([copy]);
    if (restarted) slow.bootId = 'another-boot';
    await slow.connect(restarted ? { running: [original], runningAgeMs: [9000] } : {});
    t.equal(plane.ledger.room(slow.node).free.slots, 1);
    t.same(plane.ledger.condemnedOn(slow.node), []);
  }
});

test('an older attempt that returns while two are under way is superseded, and nothing leaks', async (t) => {
  const all = await scene(t);
  const { plane, clock, slow, quick, original } = all;
  slow.cut();
  await elapse(clock, 16_000, beats(quick));
  await plane.results.settled();
  const second = held(await quick.assigned());
  await start(all, quick, second);
  const third = new PlayedAgent(plane, 'desk', 1);
  await third.connect();
  const copying = third.assigned();
  await elapse(clock, 5000, beats(quick, third));
  const copy = held(await copying);
  t.equal(plane.ledger.ofTask(original.job, original.index).length, 2);
  slow.protocol = 2;
  const welcome = await slow.connect({ running: [original], runningAgeMs: [3_600_000] });
  t.match(welcome, { superseded: { indexes: [original.index], generations: [original.generation] } });
  await third.finish([copy]);
  await quick.mailbox.next('cancel');
  await quick.finish([second], { outcome: Outcome.CANCELLED });
  t.equal(plane.ledger.size, 0);
  for (const agent of [slow, quick, third]) {
    t.equal(plane.ledger.room(agent.node).free.slots, 1, agent.name);
    t.same(plane.ledger.condemnedOn(agent.node), []);
  }
});

test('two results in one batch: one is accepted, both are acknowledged', async (t) => {
  const all = await scene(t);
  const { plane, slow, quick, job, original } = all;
  const copy = await copied(all);
  slow.report([original], { resultJson: '"original"' });
  quick.report([copy], { resultJson: '"copy"' });
  for (const agent of [slow, quick]) t.same((await agent.mailbox.next('finishedAck')).indexes, [original.index]);
  t.match(await taskOf(all), { status: 'COMPLETED', resultJson: '"original"' });
  t.match(await all.store.jobs.get(job.id), { status: 'COMPLETED', counts: { completed: 2 } });
  t.equal(plane.ledger.size, 0);
});

test('both fail: each is counted, within the bound, and the task ends with the last', async (t) => {
  for (const together of [false, true]) {
    const all = await scene(t, { spec: { retries: 1 } });
    const { slow, quick, original } = all;
    const copy = await copied(all);
    const end = { outcome: Outcome.FAILED, exitCode: 1, error: 'exit code 1' };
    if (together) slow.report([original], end);
    else {
      await slow.finish([original], end);
      t.match(await taskOf(all), { status: 'ASSIGNED', failures: 1, node: 'cellar' }, 'the copy goes on');
      t.same(await outcomes(all), ['replaced 1']);
    }
    await quick.finish([copy], end);
    t.match(await taskOf(all), { status: 'FAILED', failures: 2 });
    const ends = await all.store.tasks.attempts(all.job.seq, original.index);
    t.same(
      ends.map(({ generation, attempt, outcome }) => [generation, attempt, outcome]),
      [
        [1, 1, 'failed'],
        [2, 2, 'failed'],
      ],
    );
    t.equal(all.plane.ledger.size, 0);
  }
});

test('the node of one is lost: the other goes on; the lost one is not wanted any more', async (t) => {
  for (const lostOne of ['slow', 'quick'] as const) {
    const all = await scene(t);
    const { plane, slow, quick, job, original, clock } = all;
    const copy = await copied(all);
    await start(all, quick, copy);
    const [gone, stays] = lostOne === 'slow' ? [slow, quick] : [quick, slow];
    const [goneTask, task] = lostOne === 'slow' ? [original, copy] : [copy, original];
    gone.cut();
    await elapse(clock, 16_000, beats(stays));
    await plane.results.settled();
    t.match(await taskOf(all), { status: 'RUNNING', losses: 1, node: stays.name }, `${lostOne} is lost`);
    t.match(await gone.connect({ running: [goneTask] }), { superseded: { indexes: [original.index] } });
    await stays.finish([task]);
    t.match(await taskOf(all), { status: 'COMPLETED', node: stays.name, losses: 1 });
    t.match(await all.store.jobs.get(job.id), { status: 'COMPLETED' });
    t.equal(plane.ledger.size, 0);
  }
});

test('a cancelled job ends both attempts', async (t) => {
  const all = await scene(t);
  const { plane, slow, quick, job, original } = all;
  const copy = await copied(all);
  await plane.cancellation.cancel(job, undefined);
  t.same((await slow.mailbox.next('cancel')).generations, [original.generation]);
  t.same((await quick.mailbox.next('cancel')).generations, [copy.generation]);
  t.match(await all.store.jobs.get(job.id), { status: 'CANCELLED', counts: { completed: 1, cancelled: 1 } });
  for (const [agent, task] of [
    [slow, original],
    [quick, copy],
  ] as const)
    await agent.finish([task], { outcome: Outcome.CANCELLED });
  t.equal(plane.ledger.size, 0);
  t.match(await taskOf(all), { status: 'CANCELLED' });
  t.same(await outcomes(all), ['cancelled 1']);
  t.same(await all.store.copies.live(), []);
});

test('the next leader knows both attempts, or the one that is left', async (t) => {
  for (const alone of [false, true]) {
    const store = await withStore(t);
    const clock = new ManualClock();
    const before = await scene(t, { store, clock });
    const copy = await copied(before);
    const { job, original } = before;
    if (alone) await before.quick.finish([copy], { outcome: Outcome.FAILED, exitCode: 1 });
    else await start(before, before.quick, copy);
    await before.plane.stop();
    const after = await startPlane(t, { store, clock, config });
    const { plane } = after;
    const [slow, quick] = [new PlayedAgent(plane, 'attic', 1), new PlayedAgent(plane, 'cellar', 1)] as const;
    Object.assign(slow, { bootId: before.slow.bootId });
    Object.assign(quick, { bootId: before.quick.bootId });
    t.match(await slow.connect({ running: [original] }), { superseded: { indexes: [] } });
    const welcome = await quick.connect({ running: [copy] });
    t.same(welcome.superseded?.indexes, alone ? [original.index] : []);
    t.equal(plane.ledger.size, alone ? 1 : 2);
    await slow.finish([original]);
    if (!alone) t.same((await quick.mailbox.next('cancel')).generations, [copy.generation]);
    t.match(await store.jobs.get(job.id), { status: 'COMPLETED', counts: { completed: 2 } });
    t.match(await taskOf({ ...before, store }), { status: 'COMPLETED', node: 'attic' });
  }
});

test('a copy whose commit nobody heard of is asked for again, and told once', async (t) => {
  const store = await withStore(t);
  let tries = 0;
  const flaky: Store = {
    ...store,
    copies: {
      ...store.copies,
      make: async (epoch, asked) => {
        const made = await store.copies.make(epoch, asked);
        if (++tries === 1) throw new MeshError('DATABASE_DOWN', 'the answer was lost');
        return made;
      },
    },
  };
  const all = await scene(t, { store: flaky });
  const { slow, quick, original, clock } = all;
  const copy = quick.assigned();
  await elapse(clock, 3000, beats(slow, quick));
  while (tries < 2) await elapse(clock, 1000, beats(slow, quick));
  t.match(await copy, [{ index: original.index, generation: 2 }]);
  t.equal(tries, 2);
  await slow.finish([original]);
  t.match(await quick.mailbox.next('cancel'), { generations: [2] });
  t.match(await taskOf(all), { status: 'COMPLETED', node: 'attic' });
});

test('an end that is on its way while the copy is made is settled all the same', async (t) => {
  const store = await withStore(t);
  let release: () => void = () => undefined;
  let reached: () => void = () => undefined;
  let hold = false;
  const gate = new Promise<void>((resolve) => (release = resolve));
  const underWay = new Promise<void>((resolve) => (reached = resolve));
  const slowly: Store = {
    ...store,
    tasks: {
      ...store.tasks,
      settle: async (epoch, items, runs) => {
        if (hold) {
          reached();
          await gate;
        }
        return store.tasks.settle(epoch, items, runs);
      },
    },
  };
  const all = await scene(t, { store: slowly });
  const { slow, quick, original } = all;
  hold = true;
  slow.report([original], { resultJson: '"original"' });
  await underWay;
  const copy = await copied(all);
  release();
  t.same((await slow.mailbox.next('finishedAck')).indexes, [original.index]);
  t.match(await quick.mailbox.next('cancel'), { generations: [copy.generation] });
  t.match(await taskOf(all), { status: 'COMPLETED', node: 'attic', resultJson: '"original"' });
  t.same(await outcomes(all), ['lost 1']);
});

test('what did not ask for it, and what must not have it, is never copied', async (t) => {
  const store = await withStore(t);
  const asked: number[] = [];
  const counted: Store = {
    ...store,
    copies: {
      ...store.copies,
      make: (epoch, copy) => {
        asked.push(copy.job);
        return store.copies.make(epoch, copy);
      },
    },
  };
  const all = await startPlane(t, { config, store: counted });
  const { plane, clock } = all;
  const [attic, cellar] = [new PlayedAgent(plane, 'attic', 2), new PlayedAgent(plane, 'cellar', 1)] as const;
  for (const agent of [attic, cellar]) await agent.connect();
  await t.rejects(submit(plane, 2, { speculate: true, onDisconnect: OnDisconnect.STOP }), { code: 'BAD_SPEC' });
  const jobs: JobRow[] = [];
  for (const spec of [{}, { speculate: true }]) {
    // Each job has one task on each node; the one on the smaller node is done at once.
    const job = await submit(plane, 2, spec);
    jobs.push(job);
    await start(all, attic, held(await attic.assigned()));
    await cellar.finish(await cellar.assigned());
  }
  while (asked.length === 0) await elapse(clock, 1000, beats(attic, cellar));
  t.same(asked, [jobs[1]?.seq], 'only the one that asked');
});
