import { X509Certificate } from 'node:crypto';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Test, test } from 'tap';
import { readCsr } from '../common/identity/csr.js';
import { CredentialStore } from '../link/credential-store.js';
import { ManualClock } from '../test/support/manual-clock.js';
import { makeTestMesh } from '../test/support/test-mesh.js';
import { keepRenewed } from './renewal.js';

const DAY_MS = 86_400_000;

/** A profile whose certificate has `usedDays` of its 30 days behind it, and an authority that renews it. */
function profile(t: Test, usedDays: number) {
  // The timer of a renewal keeps no process alive, so that a command can end; a test must not end before it.
  const alive = setInterval(() => undefined, 60_000);
  t.teardown(() => clearInterval(alive));
  const mesh = makeTestMesh('m', Date.now() - 60 * DAY_MS);
  const directory = t.testdir();
  const store = new CredentialStore(directory, 'client');
  store.save(mesh.credential('operator', 'anna', { nowMs: Date.now() - usedDays * DAY_MS }));
  const before = store.load();
  let asked: () => void = () => undefined;
  const wasAsked = new Promise<void>((resolve) => (asked = resolve));
  const issue = async (csr: Uint8Array) => {
    asked();
    const { publicKeyDer } = readCsr(csr);
    const { pem } = mesh.authority.issue({ publicKeyDer, role: 'operator', name: 'anna', nowMs: Date.now() });
    return { certificateChain: pem, root: mesh.authority.rootPem };
  };
  return { directory, store, before, issue, wasAsked, lock: join(directory, 'renewal.lock') };
}

test('a certificate past its time is replaced, with a new key', async (t) => {
  const { directory, store, before, issue, wasAsked, lock } = profile(t, 29);
  const kept = keepRenewed(directory, issue);
  await wasAsked;
  await kept.stop();
  const after = store.load();
  t.not(after?.privateKey, before?.privateKey);
  t.ok(Date.parse(new X509Certificate(after?.certificateChain ?? '').validTo) > Date.now() + 29 * DAY_MS);
  t.notOk(existsSync(lock));
});

test('a refusal changes nothing and hurts nobody', async (t) => {
  const { directory, store, before, wasAsked, issue, lock } = profile(t, 29);
  const kept = keepRenewed(directory, async (csr) => {
    await issue(csr);
    throw new Error('the coordinator is away');
  });
  await wasAsked;
  await kept.stop();
  t.same(store.load(), before);
  t.notOk(existsSync(lock));
});

test('a young certificate is left alone until its time comes', async (t) => {
  const { directory, store, before, issue, wasAsked } = profile(t, 1);
  const clock = new ManualClock();
  const kept = keepRenewed(directory, issue, clock);
  clock.advance(10 * DAY_MS);
  t.same(store.load(), before);
  clock.advance(18 * DAY_MS);
  await wasAsked;
  await kept.stop();
  t.not(store.load()?.privateKey, before?.privateKey);
});

test('while another command renews, this one does not; a lock that a crash left is broken', async (t) => {
  const { directory, store, before, issue, lock, wasAsked } = profile(t, 29);
  writeFileSync(lock, '');
  let asked = false;
  const clock = new ManualClock();
  const kept = keepRenewed(
    directory,
    (csr) => {
      asked = true;
      return issue(csr);
    },
    clock,
  );
  clock.advance(0);
  await kept.stop();
  t.equal(asked, false);
  t.same(store.load(), before);
  t.ok(existsSync(lock), 'the lock is the other one’s');
  clock.advance(120_000);
  const next = keepRenewed(directory, issue, clock);
  clock.advance(0);
  await wasAsked;
  await next.stop();
  t.not(store.load()?.privateKey, before?.privateKey);
  t.notOk(existsSync(lock));
});
