import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { spawnSync } from 'node:child_process';
import { type Test, test } from 'tap';
import { systemClock } from '../common/clock.js';
import { chainFromPem, verifyChain } from '../common/identity/chain.js';
import { checkPeer, fieldsOf } from '../common/identity/check.js';
import { makeKeyPair } from '../common/identity/keys.js';
import { type CaDirectory, initDirectory, openDirectory, readIndex } from './directory.js';
import { withLock } from './lock.js';

const NOW_MS = Date.UTC(2026, 10, 20, 12);
const DAY_MS = 86_400_000;

function folderFor(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'mesh-ca-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

const issue = (ca: CaDirectory, name: string, nowMs = NOW_MS, sameHolder = false) =>
  ca.issue({ publicKeyDer: makeKeyPair().publicKeyDer, role: 'agent', name, nowMs }, { sameHolder });

/** A clock on which waiting for the lock takes no time. */
function impatient() {
  let ms = 0;
  return {
    ...systemClock,
    monotonicMs: () => ms,
    after: (delayMs: number, fire: () => void) => {
      ms += Math.max(delayMs, 100);
      return systemClock.after(0, fire);
    },
  };
}

test('init makes everything, keys for the owner only', async (t) => {
  const dir = join(folderFor(t), 'data', 'ca');
  const ca = await initDirectory(dir, { nowMs: NOW_MS });
  t.match(ca.authority.meshId, /^mesh-[0-9a-hjkmnp-tv-z]{12}$/);
  t.same(readdirSync(dir).sort(), ['ca.crt', 'ca.key', 'index.json', 'issuer.crt', 'issuer.key']);
  for (const key of ['ca.key', 'issuer.key', 'index.json']) t.equal(statSync(join(dir, key)).mode & 0o777, 0o600, key);
  t.equal(statSync(dir).mode & 0o777, 0o700);
  t.same(readIndex(dir), []);
  t.equal(openDirectory(dir).authority.rootFingerprint, ca.authority.rootFingerprint);
});

test('init never overwrites and leaves nothing half-made', async (t) => {
  const folder = folderFor(t);
  const dir = join(folder, 'ca');
  await initDirectory(dir, { meshId: 'lab', nowMs: NOW_MS });
  const before = readFileSync(join(dir, 'ca.crt'), 'utf8');
  await t.rejects(initDirectory(dir, { nowMs: NOW_MS }), { code: 'DATA_DIR', message: /already/ });
  t.equal(readFileSync(join(dir, 'ca.crt'), 'utf8'), before);
  t.notOk(existsSync(join(dir, 'index.lock')));

  mkdirSync(join(folder, 'partial'));
  writeFileSync(join(folder, 'partial', 'ca.key'), 'precious');
  await t.rejects(initDirectory(join(folder, 'partial'), { nowMs: NOW_MS }), { code: 'DATA_DIR' });
  t.same(readdirSync(join(folder, 'partial')), ['ca.key'], 'one left-over file is reason enough');

  await t.rejects(initDirectory(join(folder, 'x'), { meshId: 'Not A Name', nowMs: NOW_MS }), { code: 'BAD_NAME' });
  t.notOk(existsSync(join(folder, 'x')));
  writeFileSync(join(folder, 'file'), '');
  await t.rejects(initDirectory(join(folder, 'file', 'ca'), { nowMs: NOW_MS }), { code: 'DATA_DIR' });

  const racing = await Promise.allSettled([1, 2, 3].map(() => initDirectory(join(folder, 'race'), { nowMs: NOW_MS })));
  t.equal(racing.filter(({ status }) => status === 'fulfilled').length, 1, 'one of three at once wins');
  t.equal(openDirectory(join(folder, 'race')).list().length, 0);
});

test('what cannot be used says why', async (t) => {
  const dir = join(folderFor(t), 'ca');
  t.throws(() => openDirectory(dir), { code: 'DATA_DIR', message: /no certificate authority/ });
  const ca = await initDirectory(dir, { meshId: 'lab', nowMs: NOW_MS });
  writeFileSync(join(dir, 'index.json'), '{"version":1');
  t.throws(() => readIndex(dir), { code: 'DATA_DIR', message: /damaged/ });
  await t.rejects(issue(ca, 'n1'), { code: 'DATA_DIR' });
  rmSync(join(dir, 'index.json'));
  t.throws(() => readIndex(dir), { code: 'DATA_DIR', message: /missing/ });
  writeFileSync(join(dir, 'issuer.key'), makeKeyPair().privateKeyPem);
  t.throws(() => openDirectory(dir), { code: 'BAD_CERTIFICATE', message: /not the key/ });
  writeFileSync(join(dir, 'issuer.key'), 'nonsense');
  t.throws(() => openDirectory(dir), { code: 'BAD_CERTIFICATE', message: /no private key/ });
  writeFileSync(join(dir, 'issuer.crt'), 'nonsense');
  t.throws(() => openDirectory(dir), { code: 'DATA_DIR', message: /damaged/ });
});

test('the index remembers what was issued and revoked', async (t) => {
  const dir = join(folderFor(t), 'ca');
  const ca = await initDirectory(dir, { meshId: 'lab', nowMs: NOW_MS });
  const first = await issue(ca, 'n1');
  await t.rejects(issue(ca, 'n1'), { code: 'CONFLICT', hint: /renew/ }, 'the name is taken');
  const renewed = await issue(ca, 'n1', NOW_MS + 1000, true);
  t.not(renewed.serial, first.serial);
  const second = await issue(ca, 'n2');
  const { revokedAtMs, ...entry } = { revokedAtMs: undefined, ...first };
  t.same(readIndex(dir)[0], { ...entry, trusts: ca.rootDigests });
  t.equal(revokedAtMs, undefined);
  t.same(
    ca.holders('n1', NOW_MS).map(({ serial }) => serial),
    [renewed.serial],
  );

  t.same(
    (await ca.revoke('n1', NOW_MS)).map(({ serial }) => serial),
    [first.serial, renewed.serial],
  );
  t.same(await ca.revoke('n1', NOW_MS), [], 'a second time there is nothing left to do');
  const colons = second.serial.toUpperCase().replace(/(..)(?=.)/g, '$1:');
  t.equal((await ca.revoke(colons, NOW_MS)).length, 1, 'a serial as openssl prints it');
  await t.rejects(ca.revoke('n3', NOW_MS), { code: 'NOT_FOUND' });
  t.equal(
    openDirectory(dir)
      .list()
      .every((item) => item.revokedAtMs === NOW_MS),
    true,
  );
  await issue(ca, 'n1');

  const later = NOW_MS + 100 * DAY_MS;
  await issue(ca, 'n9', later);
  t.same(
    readIndex(dir).map(({ name }) => name),
    ['n9'],
    'long expired certificates are forgotten',
  );
});

test('many at once lose nothing', async (t) => {
  const dir = join(folderFor(t), 'ca');
  await initDirectory(dir, { meshId: 'lab', nowMs: NOW_MS });
  const names = Array.from({ length: 12 }, (_, i) => `n${i}`);
  await Promise.all(names.map((name) => issue(openDirectory(dir), name)));
  t.same(
    readIndex(dir)
      .map(({ name }) => name)
      .sort(),
    [...names].sort(),
  );
  const same = await Promise.allSettled([1, 2, 3, 4].map(() => issue(openDirectory(dir), 'one')));
  t.equal(same.filter(({ status }) => status === 'fulfilled').length, 1, 'one name, one holder');
});

test('the issuer renews itself; what the old one signed stays valid', async (t) => {
  const dir = join(folderFor(t), 'ca');
  const ca = await initDirectory(dir, { meshId: 'lab', nowMs: NOW_MS });
  const other = openDirectory(dir);
  const old = await issue(ca, 'n1', ca.issuerRenewalAtMs - 1000);
  t.equal(await ca.renewIssuerIfDue(ca.issuerRenewalAtMs - 1), false);
  const dueMs = ca.issuerRenewalAtMs;
  const before = ca.authority.issuer;
  t.equal(await ca.renewIssuerIfDue(dueMs), true);
  t.not(ca.authority.issuer.fingerprint256, before.fingerprint256);
  t.notOk(ca.authority.issuer.publicKey.equals(before.publicKey), 'with a new key');
  t.equal(await ca.renewIssuerIfDue(dueMs), false, 'once');
  t.equal(await other.renewIssuerIfDue(dueMs), true, 'another process takes over what is there');
  t.equal(other.authority.issuer.fingerprint256, ca.authority.issuer.fingerprint256);
  t.same(readdirSync(dir).sort(), ['ca.crt', 'ca.key', 'index.json', 'issuer.crt', 'issuer.key']);
  for (const { pem } of [old, await issue(ca, 'n2', dueMs)]) {
    const chain = chainFromPem(pem);
    verifyChain(chain, [ca.authority.root], dueMs);
    t.ok(chain[0] && checkPeer(chain[0], { meshId: 'lab', purpose: 'client', nowMs: dueMs }));
  }
  t.ok(fieldsOf(ca.authority.issuer).notAfterMs > dueMs + 364 * DAY_MS);
});

test('an interrupted renewal is finished; without the root key there is none', async (t) => {
  const folder = folderFor(t);
  const dir = join(folder, 'ca');
  const ca = await initDirectory(dir, { meshId: 'lab', nowMs: NOW_MS });
  const oldKey = readFileSync(join(dir, 'issuer.key'));
  await ca.renewIssuerIfDue(ca.issuerRenewalAtMs);
  renameSync(join(dir, 'issuer.key'), join(dir, 'issuer.key.next'));
  writeFileSync(join(dir, 'issuer.key'), oldKey);
  t.equal(openDirectory(dir).authority.issuer.fingerprint256, ca.authority.issuer.fingerprint256);
  t.notOk(existsSync(join(dir, 'issuer.key.next')));

  writeFileSync(join(dir, 'issuer.key.next'), makeKeyPair().privateKeyPem);
  t.ok(openDirectory(dir), 'interrupted before its certificate was written: the old pair holds');

  renameSync(join(dir, 'ca.key'), join(folder, 'ca.key'));
  const without = openDirectory(dir);
  t.equal(without.hasRootKey, false);
  t.equal(await without.renewIssuerIfDue(without.issuerRenewalAtMs), false);
  t.ok(await issue(without, 'n5', fieldsOf(without.authority.issuer).notBeforeMs + DAY_MS), 'the issuer signs on');
});

test('a lock of a live process is respected, one of a dead process is broken', async (t) => {
  const path = join(folderFor(t), 'index.lock');
  writeFileSync(path, `${process.pid} ${hostname()} x`);
  await t.rejects(
    withLock(path, impatient(), () => 'in'),
    {
      code: 'IN_USE',
      message: new RegExp(`held by process ${process.pid}`),
    },
  );
  t.ok(existsSync(path), 'and left alone');
  writeFileSync(path, '999999 some-other-machine x');
  await t.rejects(
    withLock(path, impatient(), () => 'in'),
    { code: 'IN_USE' },
    'another machine cannot be asked',
  );
  const dead = spawnSync(process.execPath, ['-e', '']).pid;
  writeFileSync(path, `${dead} ${hostname()} x`);
  t.equal(await withLock(path, systemClock, () => 'in'), 'in');
  t.notOk(existsSync(path));
  await t.rejects(
    withLock(path, systemClock, () => {
      throw new Error('inside');
    }),
    /inside/,
  );
  t.notOk(existsSync(path), 'released when the work fails');
});

test('a directory that cannot be written', {
  skip: process.getuid?.() === 0 ? 'root can write everywhere' : false,
}, async (t) => {
  const folder = folderFor(t);
  chmodSync(folder, 0o500);
  await t.rejects(initDirectory(join(folder, 'ca'), { nowMs: NOW_MS }), { code: 'DATA_DIR' });
  chmodSync(folder, 0o700);
});
