import { test } from 'tap';
import { silentLogger } from '../../common/log.js';
import { checkLeases } from './leases.js';
import { coordinatorSettings } from './settings.js';

/** What is warned about. */
function warnings(heartbeat: number, nodeLease: number, leaderLease: number): unknown[] {
  const said: unknown[] = [];
  const log = Object.assign(Object.create(silentLogger), { warn: (fields: unknown) => void said.push(fields) });
  checkLeases({ heartbeat, nodeLease, leaderLease }, log);
  return said;
}

test('the defaults let agents outlast a takeover', async (t) => {
  const { heartbeat, nodeLease, leaderLease } = coordinatorSettings;
  t.same(warnings(heartbeat.fallback, nodeLease.fallback, leaderLease.fallback), []);
});

test('a lease of nodes that a takeover outlasts is warned about, one no node could keep is refused', async (t) => {
  t.match(warnings(2000, 11_999, 6000), [{ event: 'leases.short', nodeLeaseMs: 11_999 }]);
  t.same(warnings(2000, 12_000, 6000), []);
  t.throws(() => warnings(2000, 2000, 500), { code: 'BAD_CONFIG', message: /--node-lease .* --heartbeat/ });
});
