import { test } from 'tap';
import { fenceMarginMs, LeaseClock } from './lease.js';

test('the lease counts from when the answered heartbeat was sent', async (t) => {
  const lease = new LeaseClock(15_000);
  t.notOk(lease.holds(0));
  lease.sent(1, 1000);
  lease.sent(2, 3000);
  t.equal(lease.answered(1, 1500), 500);
  t.equal(lease.endsAtMs, 16_000);
  t.ok(lease.holds(15_999));
  t.notOk(lease.holds(16_000));
  t.equal(lease.answered(2, 3100), 100);
  t.equal(lease.endsAtMs, 18_000);
});

test('late, repeated and foreign answers prove nothing', async (t) => {
  const lease = new LeaseClock(10);
  lease.sent(1, 0);
  lease.sent(2, 5);
  lease.answered(2, 6);
  t.equal(lease.answered(1, 7), undefined, 'older than what was answered');
  t.equal(lease.answered(2, 7), undefined);
  t.equal(lease.answered(99, 7), undefined);
  t.equal(lease.endsAtMs, 15);
  lease.sent(3, 8);
  lease.disconnected();
  t.equal(lease.answered(3, 9), undefined);
  t.equal(lease.endsAtMs, 15);
});

test('what must not outlive the lease ends before it, by the margin of the lease that was granted', async (t) => {
  const lease = new LeaseClock(15_000);
  t.equal(lease.fenceAtMs, undefined);
  lease.sent(1, 1000);
  lease.answered(1, 1001);
  t.equal(lease.fenceAtMs, 14_000);
  t.equal(lease.provedAtMs, 1000);
  lease.setLease(1000);
  t.equal(lease.fenceAtMs, 14_000, 'what was won stays won');
  lease.sent(2, 20_000);
  lease.answered(2, 20_000);
  t.equal(lease.fenceAtMs, 20_800);
  t.equal(fenceMarginMs(10_000), 2000);
});
