import { test } from 'tap';
import { silentLogger } from '../../common/log.js';
import { ManualClock } from '../../test/support/manual-clock.js';
import { elapse, startPlane, submit } from '../../test/support/plane.js';
import { withStore } from '../../test/support/postgres.js';
import type { LeaderStore } from '../ports.js';
import { Leadership } from './leadership.js';

const LEASE_MS = 6000;

function candidate(store: LeaderStore, holder: string, clock = new ManualClock()) {
  let lost = 0;
  const leadership = new Leadership({
    ...{ store, holder, clock, leaseMs: LEASE_MS, log: silentLogger },
    onLost: () => lost++,
  });
  return { leadership, clock, lost: () => lost };
}

/** Resolves when the candidate waits for its clock: it has read the lease and watches it. */
const untilWatching = async (clock: ManualClock): Promise<void> => {
  while (clock.waiting.length === 0) await new Promise((resolve) => setImmediate(resolve));
};

test('the first one leads at once, and again at once after a restart on the same data directory', async (t) => {
  const { leader } = await withStore(t);
  const one = candidate(leader, 'one');
  await one.leadership.start();
  t.equal(one.leadership.epoch, 1);
  await one.leadership.stop();
  const again = candidate(leader, 'one');
  await again.leadership.start();
  t.equal(again.leadership.epoch, 2);
  await again.leadership.stop();
});

test('a foreign lease is watched for a whole lease on one’s own clock, then taken', async (t) => {
  const { leader } = await withStore(t);
  await leader.take(undefined, 'one');
  const two = candidate(leader, 'two');
  const started = two.leadership.start();
  await untilWatching(two.clock);
  t.same(two.clock.waiting, [LEASE_MS]);
  two.clock.advance(LEASE_MS - 1);
  t.equal(two.leadership.epoch, 0);
  two.clock.advance(1);
  await started;
  t.equal(two.leadership.epoch, 2);
  await two.leadership.stop();
});

test('a lease that is renewed meanwhile belongs to somebody who lives', async (t) => {
  const { leader } = await withStore(t);
  const epoch = (await leader.take(undefined, 'one')) ?? 0;
  const two = candidate(leader, 'two');
  const started = two.leadership.start();
  started.catch(() => undefined);
  await untilWatching(two.clock);
  await leader.renew(epoch);
  two.clock.advance(LEASE_MS);
  await t.rejects(started, { code: 'IN_USE', message: 'coordinator one leads on this database' });
  t.match(await leader.read(), { epoch: 1, holder: 'one' });
});

test('a paused leader finds out that it lost, says so once, and none of its writes is accepted', async (t) => {
  const parts = await startPlane(t, { holder: 'one' });
  const { plane, store, clock, fatal } = parts;
  const job = await submit(plane, 1);
  await store.leader.take(await store.leader.read(), 'two');
  await t.rejects(store.tasks.assign(1, [{ job: job.seq, node: 1, from: 0, to: 1 }]), { code: 'LEADERSHIP_LOST' });
  await elapse(clock, 2250);
  while (fatal.length === 0) await new Promise((resolve) => setImmediate(resolve));
  t.match(fatal, [{ code: 'LEADERSHIP_LOST' }]);
  t.equal(await plane.notReady(), 'standby');
  await elapse(clock, 6000);
  t.equal(fatal.length, 1);
});

test('stopped while it watches, it never leads', async (t) => {
  const { leader } = await withStore(t);
  await leader.take(undefined, 'one');
  const two = candidate(leader, 'two');
  const started = two.leadership.start();
  await untilWatching(two.clock);
  await two.leadership.stop();
  await started;
  t.equal(two.leadership.epoch, 0);
  t.match(await leader.read(), { epoch: 1, holder: 'one' });
  t.equal(two.lost(), 0);
});

test('renewals that fail for a while lose nothing', async (t) => {
  const { leader } = await withStore(t);
  let down = true;
  let tries = 0;
  const flaky: LeaderStore = {
    ...leader,
    renew: async (epoch) => {
      tries++;
      if (down) throw new Error('gone');
      return leader.renew(epoch);
    },
  };
  const one = candidate(flaky, 'one');
  await one.leadership.start();
  while (tries < 3) await elapse(one.clock, LEASE_MS / 3);
  down = false;
  await elapse(one.clock, LEASE_MS);
  t.equal(one.leadership.epoch, 1);
  await one.leadership.stop();
  t.ok(((await leader.read())?.renewals ?? 0) > 0);
  t.equal(one.lost(), 0);
});
