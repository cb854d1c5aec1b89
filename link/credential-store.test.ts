import { readdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'tap';
import { makeTestMesh } from '../test/support/test-mesh.js';
import { CredentialStore } from './credential-store.js';

const mesh = makeTestMesh();
const first = mesh.credential('agent', 'box');
const second = mesh.credential('agent', 'box');

test('what is saved is loaded, and the key is private', async (t) => {
  const folder = join(t.testdir(), 'new', 'folder');
  const store = new CredentialStore(folder, 'agent');
  t.equal(store.load(), undefined);
  store.save(first);
  t.same(store.load(), first);
  t.same(readdirSync(folder).sort(), ['agent.crt', 'agent.key', 'ca.crt']);
  t.equal(statSync(join(folder, 'agent.key')).mode & 0o777, 0o600);
  store.save(second);
  t.same(store.load(), second);
  t.same(readdirSync(folder).sort(), ['agent.crt', 'agent.key', 'ca.crt'], 'nothing is left behind');
  t.throws(() => store.save({ ...first, privateKey: second.privateKey }), { code: 'BAD_CERTIFICATE' });
});

/** Every state a crash can leave while `second` replaces what was there, in order. */
const steps: ((path: (name: string) => string) => void)[] = [
  () => undefined,
  (path) => writeFileSync(path('agent.key.next'), second.privateKey),
  (path) => writeFileSync(path('agent.crt.next'), second.certificateChain),
  (path) => renameSync(path('agent.key.next'), path('agent.key')),
  (path) => renameSync(path('agent.crt.next'), path('agent.crt')),
];

for (const before of [first, undefined]) {
  for (let crash = 0; crash < steps.length; crash++) {
    test(`a crash after step ${crash}, ${before ? 'replacing a pair' : 'at the first save'}`, async (t) => {
      const folder = t.testdir();
      const path = (name: string) => join(folder, name);
      const store = new CredentialStore(folder, 'agent');
      if (before) store.save(before);
      else writeFileSync(path('ca.crt'), mesh.authority.rootPem);
      for (const step of steps.slice(0, crash + 1)) step(path);
      const expected = crash >= 3 ? second : before;
      t.same(store.load(), expected);
      t.same(store.load(), expected, 'and again');
      store.save(first);
      t.same(store.load(), first, 'and it can be replaced');
      t.notOk(readdirSync(folder).some((name) => name.endsWith('.crt.next')));
    });
  }
}

test('files that do not belong together are refused with what to do', async (t) => {
  const folder = t.testdir();
  const store = new CredentialStore(folder, 'client');
  store.save(first);
  writeFileSync(join(folder, 'client.key'), second.privateKey);
  t.throws(() => store.load(), { code: 'BAD_CERTIFICATE', message: /client\.key is not the key/, hint: /join again/ });
  store.save(second);
  t.same(store.load(), second);
  renameSync(join(folder, 'ca.crt'), join(folder, 'elsewhere'));
  t.throws(() => store.load(), { code: 'BAD_CERTIFICATE', message: /ca\.crt is missing/ });
});

test('the key to join with survives until its certificate is there', async (t) => {
  const folder = t.testdir();
  const key = new CredentialStore(folder, 'agent').keyForJoining();
  t.equal(new CredentialStore(folder, 'agent').keyForJoining(), key);
  t.equal(statSync(join(folder, 'agent.key.next')).mode & 0o777, 0o600);
  t.equal(new CredentialStore(folder, 'agent').load(), undefined, 'a key alone is no credential');
  const store = new CredentialStore(folder, 'agent');
  store.save(first);
  t.not(store.keyForJoining(), key);
  t.same(store.load(), first, 'a waiting key does not disturb what is stored');
  t.match(readFileSync(join(folder, 'agent.key'), 'utf8'), 'PRIVATE KEY');
});
