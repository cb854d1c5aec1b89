import { test } from 'tap';
import { makeCsr } from '../../common/identity/csr.js';
import type { Identity } from '../../common/identity/identity.js';
import { makeKeyPair } from '../../common/identity/keys.js';
import { silentLogger } from '../../common/log.js';
import { ManualClock } from '../../test/support/manual-clock.js';
import { identityOf, OPERATOR, signerOf, startPlane } from '../../test/support/plane.js';
import { withStore } from '../../test/support/postgres.js';
import { makeTestMesh } from '../../test/support/test-mesh.js';
import type { CertificateRow } from '../ports.js';
import { Denylist } from './denylist.js';

const DAY_MS = 86_400_000;
const newCsr = () => makeCsr(makeKeyPair().privateKey, 'x');
const callerOf = (row: CertificateRow): Identity => identityOf(row.role, row.name, { ...row });

test('renewed twenty times, a certificate lives as long each time as it was given', async (t) => {
  const { plane, clock } = await startPlane(t);
  let row = await plane.issuance.issue(OPERATOR, { csr: newCsr(), role: 'viewer', name: 'wall', days: 90 });
  const endsAfter = () => Math.round((row.notAfterMs - clock.wallMs()) / 60_000);
  t.equal(endsAfter(), 90 * 24 * 60);
  for (let times = 0; times < 20; times++) {
    clock.advance(3_600_000);
    row = await plane.issuance.renew(callerOf(row), newCsr(), '10.0.0.1');
  }
  t.equal(endsAfter(), 90 * 24 * 60, 'the backdated start does not add up');
});

test('a revocation that races a renewal covers the renewed certificate', async (t) => {
  const { plane, store } = await startPlane(t);
  const row = await plane.issuance.issue(OPERATOR, { csr: newCsr(), role: 'agent', name: 'attic', days: 1 });
  // Revoked in the database after the gate let the call in.
  await store.certificates.revoke('attic');
  await t.rejects(plane.issuance.renew(callerOf(row), newCsr(), '10.0.0.1'), { code: 'REVOKED' });
  t.same(await store.certificates.holders('agent', 'attic'), []);
});

test('issuing: unknown roles, bad names and taken names are refused', async (t) => {
  const { plane } = await startPlane(t);
  const issue = (role: string, name: string) => plane.issuance.issue(OPERATOR, { csr: newCsr(), role, name, days: 0 });
  await t.rejects(issue('king', 'attic'), { code: 'USAGE' });
  await t.rejects(issue('agent', 'No Name'), { code: 'BAD_NAME' });
  await issue('agent', 'attic');
  await t.rejects(issue('agent', 'attic'), { code: 'CONFLICT' });
  await t.rejects(plane.issuance.revoke(OPERATOR, 'nobody'), { code: 'NOT_FOUND' });
  t.equal((await plane.issuance.list()).length, 1);
});

test('revoking an older serial leaves the node and its present certificate alone', async (t) => {
  const { plane, store } = await startPlane(t);
  const old = await plane.issuance.issue(OPERATOR, { csr: newCsr(), role: 'agent', name: 'attic', days: 1 });
  const renewed = await plane.issuance.renew(callerOf(old), newCsr(), '10.0.0.1');
  await plane.issuance.revoke(OPERATOR, old.serial);
  t.same(
    (await store.certificates.holders('agent', 'attic')).map(({ serial }) => serial),
    [renewed.serial],
  );
});

test('the denylist: known at start, at once here, within a second from elsewhere; an expired certificate too', async (t) => {
  const store = await withStore(t);
  const clock = new ManualClock();
  const mesh = makeTestMesh('test-mesh', clock.wallMs());
  const record = async (name: string) => {
    const issued = signerOf(mesh).sign({
      ...{ csr: newCsr(), role: 'agent', name, lifetimeMs: DAY_MS, nowMs: clock.wallMs() },
    });
    const { chainPem: pem, ...rest } = issued;
    const row: CertificateRow = { ...rest, pem, role: 'agent', name, revokedAtMs: undefined, tokenId: undefined };
    await store.certificates.record(row, { sameHolder: false });
    return callerOf(row);
  };
  const [before, elsewhere, fine] = [await record('before'), await record('elsewhere'), await record('fine')];
  await store.certificates.revoke('before');
  let closed: string[] = [];
  const fenced: string[][] = [];
  let fails = true;
  const denylist = new Denylist({
    ...{ certificates: store.certificates, clock, log: silentLogger },
    cut: (isRevoked) => {
      closed = [before, elsewhere, fine].filter(isRevoked).map(({ name }) => name);
    },
    fence: async (names) => {
      if (fails) throw new Error('the database is away');
      fenced.push([...names]);
    },
  });
  await denylist.start();
  t.teardown(() => denylist.stop());
  t.throws(() => denylist.check(before), { code: 'REVOKED' });
  denylist.check(elsewhere);
  await store.certificates.revoke('elsewhere');
  const looked = async (until: () => boolean) => {
    while (!until()) {
      clock.advance(1000);
      await new Promise((resolve) => setImmediate(resolve));
    }
  };
  await looked(() => closed.length === 2);
  t.same(closed, ['before', 'elsewhere'], 'their sockets are closed, nobody else’s');
  t.same(fenced, []);
  fails = false;
  await looked(() => fenced.length > 0);
  t.same(fenced, [['before', 'elsewhere']], 'what could not be done at once is done at a later look');
  t.throws(() => denylist.check(elsewhere), { code: 'REVOKED' });
  denylist.check(fine);
  clock.jumpWall(2 * DAY_MS);
  t.throws(() => denylist.check(fine), { code: 'EXPIRED', message: /expired at .*; here it is/ });
  t.equal(denylist.size, 2);
  await looked(() => denylist.size === 0);
  t.throws(() => denylist.check(before), { code: 'EXPIRED' }, 'what has expired is forgotten, and refused for that');
});
