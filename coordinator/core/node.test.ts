import { test } from 'tap';
import {
  LIVENESS_DEFAULTS,
  NodeLiveness,
  type RoundTrip,
  smoothRoundTrip,
  spoiledByNode,
  updateReliability,
} from './node.js';

test('silence makes a node suspect, then offline; a heartbeat heals it', async (t) => {
  const node = NodeLiveness.connected(LIVENESS_DEFAULTS, 1000);
  t.equal(node.tick(7000), undefined, 'three heartbeats are not missed yet');
  t.equal(node.nextChangeMs(), 7000);
  t.match(node.tick(7001), { from: 'HEALTHY', to: 'SUSPECT', reason: 'no heartbeat for 6.0 s' });
  t.equal(node.tick(7500), undefined, 'said once');
  t.match(node.heard(8000), { from: 'SUSPECT', to: 'HEALTHY' });
  t.equal(node.heard(8100), undefined);
  t.match(node.tick(23_100), { from: 'HEALTHY', to: 'OFFLINE', reason: 'no heartbeat for 15.0 s' });
  t.equal(node.nextChangeMs(), undefined);
  t.equal(node.tick(99_000), undefined);
  t.match(node.heard(100_000), { from: 'OFFLINE', to: 'HEALTHY' });
});

test('a node of before the start gets one lease of grace, and nothing new', async (t) => {
  const node = NodeLiveness.recovered(LIVENESS_DEFAULTS, 500);
  t.equal(node.state, 'SUSPECT');
  t.equal(node.lastHeartbeatMs, undefined);
  t.equal(node.tick(15_499), undefined);
  t.match(node.tick(15_500), { from: 'SUSPECT', to: 'OFFLINE', reason: /since the coordinator started/ });
});

test('a goodbye ends the lease; a late clock or a stall of our own does not', async (t) => {
  const node = NodeLiveness.connected(LIVENESS_DEFAULTS, 0);
  node.heard(5000);
  node.heard(3000);
  t.equal(node.lastHeartbeatMs, 5000, 'heartbeats do not turn time back');
  node.excuse(60_000);
  t.equal(node.tick(66_000), undefined);
  t.match(node.left('the agent stopped'), { to: 'OFFLINE', reason: 'the agent stopped' });
});

test('reliability follows what the node caused, and only that', async (t) => {
  t.same(
    (
      ['succeeded', 'failed', 'timed-out', 'node-lost', 'node-fault', 'cancelled', 'shutdown', 'retracted'] as const
    ).map(spoiledByNode),
    [false, false, false, true, true, undefined, undefined, undefined],
  );
  t.equal(updateReliability(1, true), 0.95);
  t.ok(Math.abs(updateReliability(1, true, 2) - updateReliability(updateReliability(1, true), true)) < 1e-12);
  t.ok(updateReliability(0.2, false, 100) > 0.99);
  t.equal(updateReliability(0.5, true, 0), 0.5);
});

test('round trips are smoothed as RFC 6298 says', async (t) => {
  let rtt: RoundTrip | undefined = smoothRoundTrip(undefined, 100);
  t.same(rtt, { smoothedMs: 100, variationMs: 50 });
  rtt = smoothRoundTrip(rtt, 180);
  t.same(rtt, { smoothedMs: 110, variationMs: 57.5 });
  t.same(smoothRoundTrip(rtt, -3), rtt);
  t.same(smoothRoundTrip(rtt, Number.NaN), rtt);
});
