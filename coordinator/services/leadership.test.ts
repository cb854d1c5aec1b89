import { test, type Test } from 'tap';
import { silentLogger } from '../../common/log.js';
import { ManualClock } from '../../test/support/manual-clock.js';
import { elapse, PlayedAgent, startPlane, submit } from '../../test/support/plane.js';
import { withStore } from '../../test/support/postgres.js';
import type { LeaderStore } from '../ports.js';
import { Leadership } from './leadership.js';

const LEASE_MS = 6000;

/** One that would lead; what it was told is in `told`. It is stopped when the test ends. */
function candidate(t: Test, store: LeaderStore, holder: string, onLeading = async (): Promise<void> => undefined) {
  const clock = new ManualClock();
  const told: string[] = [];
  const leadership = new Leadership({
    ...{ store, holder, clock, leaseMs: LEASE_MS, log: silentLogger },
    onLeading: async (epoch) => {
      told.push(`leading ${epoch}`);
      await onLeading();
    },
    onLost: async () => void told.push('lost'),
  });
  t.teardown(() => leadership.stop());
  return { leadership, clock, told };
}

/** The same store, which notes when it is asked and does as it is told. */
function flaky(store: LeaderStore) {
  const state = { reads: 0, renewals: 0, down: false };
  const answer = async <T>(run: () => Promise<T>): Promise<T> => {
    if (state.down) throw new Error('gone');
    return run();
  };
  const leader: LeaderStore = {
    ...store,
    read: () => answer(() => store.read()).finally(() => state.reads++),
    renew: (epoch) => answer(() => store.renew(epoch)).finally(() => state.renewals++),
  };
  return { leader, state };
}

const until = async (predicate: () => unknown): Promise<void> => {
  while (!predicate()) await new Promise((resolve) => setImmediate(resolve));
};

/** Lets time pass until it has looked, or renewed, so many more times. */
async function after(clock: ManualClock, stepMs: number, times: number, count: () => number): Promise<void> {
  for (let i = 0; i < times; i++) {
    const before = count();
    await until(() => clock.waiting.length > 0);
    clock.advance(stepMs);
    await until(() => count() > before);
  }
}

test('the first one leads at once, and again at once after a crash on the same data directory', async (t) => {
  const { leader } = await withStore(t);
  const one = candidate(t, leader, 'one');
  await one.leadership.start();
  t.same(one.told, ['leading 1']);
  t.equal(one.leadership.epoch, 1);
  const again = candidate(t, leader, 'one');
  await again.leadership.start();
  t.equal(again.leadership.epoch, 2);
});

test('a coordinator that stops gives the lease back, and the next one to look takes it', async (t) => {
  const { leader } = await withStore(t);
  const one = candidate(t, leader, 'one');
  await one.leadership.start();
  await one.leadership.stop();
  t.same(one.told, ['leading 1', 'lost']);
  t.equal(one.leadership.epoch, 0);
  t.match(await leader.read(), { holder: '' });
  const two = candidate(t, leader, 'two');
  await two.leadership.start();
  t.same(two.told, ['leading 2']);
});

test('a foreign lease is watched for a whole lease on one’s own clock, then taken', async (t) => {
  const { leader } = await withStore(t);
  await leader.take(undefined, 'one');
  const { leader: counted, state } = flaky(leader);
  const two = candidate(t, counted, 'two');
  await two.leadership.start();
  t.equal(two.leadership.epoch, 0, 'it stands by');
  await after(two.clock, LEASE_MS / 4, 3, () => state.reads);
  await until(() => two.clock.waiting.length > 0);
  t.same(two.told, []);
  two.clock.advance(LEASE_MS / 4);
  await until(() => two.leadership.epoch === 2);
  t.same(two.told, ['leading 2']);
});

test('a lease that is renewed meanwhile belongs to somebody who lives', async (t) => {
  const { leader } = await withStore(t);
  const epoch = (await leader.take(undefined, 'one')) ?? 0;
  const { leader: counted, state } = flaky(leader);
  const two = candidate(t, counted, 'two');
  await two.leadership.start();
  for (let i = 0; i < 12; i++) {
    if (i % 3 === 0) await leader.renew(epoch);
    await after(two.clock, LEASE_MS / 4, 1, () => state.reads);
  }
  t.same(two.told, []);
  t.match(await leader.read(), { epoch: 1, holder: 'one' });
});

test('a database that was away for everybody is no reason to take the lead', async (t) => {
  const { leader } = await withStore(t);
  await leader.take(undefined, 'one');
  const { leader: counted, state } = flaky(leader);
  const two = candidate(t, counted, 'two');
  await two.leadership.start();
  await after(two.clock, LEASE_MS / 4, 2, () => state.reads);
  state.down = true;
  await after(two.clock, LEASE_MS, 3, () => state.reads);
  state.down = false;
  await after(two.clock, LEASE_MS / 4, 4, () => state.reads);
  t.same(two.told, [], 'it watches anew');
  await until(() => two.clock.waiting.length > 0);
  two.clock.advance(LEASE_MS / 4);
  await until(() => two.leadership.epoch === 2);
});

test('another epoch rules: it steps down, stands by, and leads again when the other is gone', async (t) => {
  const { leader } = await withStore(t);
  const { leader: counted, state } = flaky(leader);
  const one = candidate(t, counted, 'one');
  await one.leadership.start();
  const epoch = (await leader.take(await leader.read(), 'two')) ?? 0;
  await after(one.clock, LEASE_MS / 3, 1, () => state.renewals);
  await until(() => one.told.includes('lost'));
  t.equal(one.leadership.epoch, 0);
  await leader.release(epoch);
  await after(one.clock, LEASE_MS / 4, 1, () => state.reads);
  await until(() => one.leadership.epoch === 3);
  t.same(one.told, ['leading 1', 'lost', 'leading 3']);
});

test('a pause of the whole process in which nobody took over costs nothing', async (t) => {
  const { leader } = await withStore(t);
  const { leader: counted, state } = flaky(leader);
  const one = candidate(t, counted, 'one');
  await one.leadership.start();
  await after(one.clock, 10 * LEASE_MS, 1, () => state.renewals);
  await after(one.clock, LEASE_MS / 3, 1, () => state.renewals);
  t.same(one.told, ['leading 1']);
});

test('renewals that fail for a whole lease end the term; the next begins when the database answers', async (t) => {
  const { leader } = await withStore(t);
  const { leader: counted, state } = flaky(leader);
  const one = candidate(t, counted, 'one');
  await one.leadership.start();
  state.down = true;
  await after(one.clock, LEASE_MS / 3, 2, () => state.renewals);
  await until(() => one.clock.waiting.length > 0);
  t.same(one.told, ['leading 1'], 'its lease is not over yet');
  await after(one.clock, LEASE_MS / 3, 1, () => state.renewals);
  await until(() => one.told.includes('lost'));
  state.down = false;
  await after(one.clock, LEASE_MS / 4, 1, () => state.reads);
  await until(() => one.leadership.epoch === 2);
  t.same(one.told, ['leading 1', 'lost', 'leading 2']);
});

test('a renewal that is never answered ends the term at the end of the lease', async (t) => {
  const { leader } = await withStore(t);
  const silent: LeaderStore = { ...leader, renew: () => new Promise(() => undefined) };
  const one = candidate(t, silent, 'one');
  await one.leadership.start();
  await until(() => one.clock.waiting.length > 0);
  one.clock.advance(LEASE_MS / 3);
  await until(() => one.clock.waiting.length > 0);
  one.clock.advance((2 * LEASE_MS) / 3 - 1);
  t.same(one.told, ['leading 1']);
  one.clock.advance(1);
  await until(() => one.told.includes('lost'));
});

test('a term that cannot begin gives the lease back, and the start fails', async (t) => {
  const { leader } = await withStore(t);
  const one = candidate(t, leader, 'one', async () => {
    throw new Error('no room');
  });
  await t.rejects(one.leadership.start(), { message: 'no room' });
  await one.leadership.stop();
  t.same(one.told, ['leading 1', 'lost']);
  t.match(await leader.read(), { holder: '' });
});

test('stopped while it watches, it never leads', async (t) => {
  const { leader } = await withStore(t);
  await leader.take(undefined, 'one');
  const two = candidate(t, leader, 'two');
  await two.leadership.start();
  await two.leadership.stop();
  t.equal(two.leadership.epoch, 0);
  t.match(await leader.read(), { epoch: 1, holder: 'one' });
  t.same(two.told, []);
});

test('a control plane that lost the lead: its sessions end, its late writes are refused, and a new term starts from the store', async (t) => {
  const { plane, store, clock } = await startPlane(t, { holder: 'one', config: { leaderLease: LEASE_MS } });
  const agent = new PlayedAgent(plane, 'attic', 1);
  await agent.connect();
  const job = await submit(plane, 1);
  const [held] = await agent.assigned();
  const { term } = plane;
  const epoch = (await store.leader.take(await store.leader.read(), 'two')) ?? 0;
  await t.rejects(store.tasks.assign(1, [{ job: job.seq, node: 1, from: 0, to: 1 }]), { code: 'LEADERSHIP_LOST' });
  await elapse(clock, 2250);
  await until(() => !plane.term);
  t.match(agent.mailbox.all('goodbye'), [{ permanent: false, coordinators: ['127.0.0.1:7443'] }]);
  t.ok(agent.mailbox.ended);
  t.ok(term?.ended.aborted);
  t.equal(await plane.notReady(), 'standby');
  t.throws(() => plane.lead(), { code: 'NOT_LEADER' });
  await store.leader.release(epoch);
  await elapse(clock, 2250);
  await until(() => plane.term);
  t.not(plane.term, term);
  t.same(
    plane.ledger.ofNode(agent.node).map(({ job: seq, index, generation }) => ({ job: seq, index, generation })),
    [held].map((task) => ({ job: task?.job, index: task?.index, generation: task?.generation })),
  );
});

test('it holds the lead for a lease from when the last renewal was asked for, and not after its term', async (t) => {
  const { leader } = await withStore(t);
  const { leader: counted, state } = flaky(leader);
  const { leadership, clock } = candidate(t, counted, 'one');
  t.notOk(leadership.holds(clock.monotonicMs()), 'it stands by');
  await leadership.start();
  const sinceMs = clock.monotonicMs();
  t.ok(leadership.holds(sinceMs + LEASE_MS - 1));
  t.notOk(leadership.holds(sinceMs + LEASE_MS), 'from here on another one may lead');
  await after(clock, LEASE_MS / 3, 1, () => state.renewals);
  await until(() => leadership.holds(sinceMs + LEASE_MS));
  t.notOk(leadership.holds(sinceMs + LEASE_MS / 3 + LEASE_MS));
  state.down = true;
  await after(clock, LEASE_MS / 3, 1, () => state.renewals);
  t.notOk(leadership.holds(sinceMs + LEASE_MS / 3 + LEASE_MS), 'a renewal that failed extends nothing');
  await leadership.stop();
  t.notOk(leadership.holds(clock.monotonicMs()));
});
