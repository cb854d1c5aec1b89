/** Revocation lists as OpenSSL reads them. */
import { spawnSync } from 'node:child_process';
import { generateKeyPairSync } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Test, test } from 'tap';
import { makeKeyPair } from '../common/identity/keys.js';
import { CRL_LIFETIME_MS } from './crl.js';
import { type CaDirectory, initDirectory, readIndex } from './directory.js';
import { nameDer } from './x509/certificate.js';
import { buildCrl } from './x509/crl.js';

const HOUR_MS = 3_600_000;
const skip = spawnSync('openssl', ['version']).error ? 'openssl is not installed' : false;

function openssl(folder: string, ...args: string[]): { status: number | null; output: string } {
  const { status, stdout, stderr } = spawnSync('openssl', args, { cwd: folder, encoding: 'utf8' });
  return { status, output: stdout + stderr };
}

async function makeCa(t: Test, name = 'ca') {
  const folder = mkdtempSync(join(tmpdir(), 'mesh-crl-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const ca = await initDirectory(join(folder, name), { nowMs: Date.now(), meshId: 'lab' });
  writeFileSync(join(folder, 'root.pem'), ca.authority.rootPem);
  writeFileSync(join(folder, 'issuer.pem'), ca.authority.issuerPem);
  return { folder, ca, dir: join(folder, name) };
}

const issue = (ca: CaDirectory, name: string, lifetimeMs = 24 * HOUR_MS) =>
  ca.issue(
    { publicKeyDer: makeKeyPair().publicKeyDer, role: 'agent', name, nowMs: Date.now(), lifetimeMs },
    { sameHolder: true },
  );

const numberOf = (text: string): number => {
  const found = /X509v3 CRL Number:\s*(0x[0-9A-F]+|\d+)/.exec(text)?.[1] ?? '';
  return Number(found);
};

test('OpenSSL accepts the list, and by it the good certificate and not the revoked one', { skip }, async (t) => {
  const { folder, ca, dir } = await makeCa(t);
  const [good, bad] = [await issue(ca, 'good'), await issue(ca, 'bad')];
  for (const [name, { pem }] of [
    ['good', good],
    ['bad', bad],
  ] as const)
    writeFileSync(join(folder, name), pem);
  const verify = (name: string) =>
    openssl(
      folder,
      'verify',
      '-crl_check',
      '-CAfile',
      'root.pem',
      '-untrusted',
      'issuer.pem',
      '-CRLfile',
      'crl.pem',
      name,
    );
  const publish = async (nowMs = Date.now()) => {
    const crl = await ca.signCrl([], nowMs);
    writeFileSync(join(folder, 'crl.der'), crl.der);
    const { status, output } = openssl(
      folder,
      'crl',
      '-inform',
      'DER',
      '-in',
      'crl.der',
      '-out',
      'crl.pem',
      '-CAfile',
      'issuer.pem',
      '-verify',
    );
    t.equal(status, 0, output);
    t.match(output, /verify OK/);
    return { ...crl, text: openssl(folder, 'crl', '-in', 'crl.pem', '-noout', '-text').output };
  };

  const empty = await publish();
  t.match(empty.text, /Version 2[\s\S]*No Revoked Certificates/);
  t.equal(verify('bad').status, 0, 'until it is revoked');

  await ca.revoke('bad', Date.now());
  const list = await publish();
  t.equal(list.count, 1);
  t.match(list.text, new RegExp(`Serial Number: ${bad.serial}`, 'i'));
  t.match(list.text, /X509v3 Authority Key Identifier/);
  t.notMatch(list.text, /Reason Code/, 'a reason that is not given is no entry (RFC 5280 §5.3.1)');
  t.ok(numberOf(list.text) > numberOf(empty.text), 'the number rises');
  t.equal(verify('good').status, 0, verify('good').output);
  t.match(verify('bad').output, /certificate revoked/);
  t.equal(list.nextUpdateMs - list.thisUpdateMs, CRL_LIFETIME_MS);

  const back = await publish(Date.now() - 24 * HOUR_MS);
  t.ok(numberOf(back.text) > numberOf(list.text), 'also when the clock was set back');
  t.equal(readIndex(dir).length, 2, 'the index has lost nothing');
});

test('a list holds what its issuer has signed, told from outside or not, and what ended a moment ago', async (t) => {
  const { ca, dir } = await makeCa(t);
  const { ca: other } = await makeCa(t, 'other');
  const [known, told, foreign] = [await issue(ca, 'known'), await issue(ca, 'told'), await issue(other, 'foreign')];
  const revokedAtMs = Date.now();
  await ca.revoke('known', revokedAtMs);
  const outside = [told, foreign].map((entry) => ({ ...entry, revokedAtMs }));
  t.equal((await ca.signCrl(outside, Date.now())).count, 2, 'not what another issuer has signed');
  t.match(
    readIndex(dir).map(({ name, revokedAtMs: at }) => [name, at !== undefined]),
    [
      ['known', true],
      ['told', true],
    ],
    'the index remembers',
  );
  t.equal((await ca.signCrl([], Date.now())).count, 2);
  t.equal((await ca.signCrl([], known.notAfterMs + CRL_LIFETIME_MS - 1000)).count, 2, 'on one list after its end');
  t.equal((await ca.signCrl([], told.notAfterMs + CRL_LIFETIME_MS)).count, 0, 'and then no more');
});

test('an issuer of RSA signs lists too, and times from 2050 on have their own form', { skip }, async (t) => {
  const { folder } = await makeCa(t);
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const der = buildCrl(
    {
      number: 255,
      issuerDer: nameDer('lab', 'rsa'),
      thisUpdateMs: Date.UTC(2049, 11, 31, 23, 59, 59),
      nextUpdateMs: Date.UTC(2050, 0, 1),
      revoked: [{ serial: 'ff', revokedAtMs: Date.UTC(2026, 0, 2) }],
    },
    privateKey,
  );
  writeFileSync(join(folder, 'rsa.der'), der);
  const { output } = openssl(folder, 'crl', '-inform', 'DER', '-in', 'rsa.der', '-noout', '-text');
  t.match(output, /sha256WithRSAEncryption[\s\S]*Dec 31 23:59:59 2049 GMT[\s\S]*Jan {2}1 00:00:00 2050 GMT/);
  t.match(output, /Serial Number: 0?FF[\s\S]*Jan {2}2 00:00:00 2026/);
});
