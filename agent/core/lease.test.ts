import { test } from 'tap';
import { LeaseClock } from './lease.js';

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
