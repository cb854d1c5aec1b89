import { execFileSync } from 'node:child_process';
import { generateKeyPairSync, type KeyObject, sign } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'tap';
import { makeCsr, readCsr } from './csr.js';
import { contextTag, readChildren, readDer, TAG, writeBitString, writeDer, writeSequence } from './der.js';
import { makeKeyPair, publicKeyDigest } from './keys.js';

const openssl = ((): boolean => {
  try {
    execFileSync('openssl', ['version'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
})();

test('a request proves possession of its key', async (t) => {
  const pair = makeKeyPair();
  const proven = readCsr(makeCsr(pair.privateKey, 'render-1'));
  t.same(proven.publicKeyDer, pair.publicKeyDer);
  t.equal(proven.digest, publicKeyDigest(pair.publicKeyDer));
});

test('other kinds of key', async (t) => {
  const accepted: [string, KeyObject][] = [
    ['P-384', generateKeyPairSync('ec', { namedCurve: 'secp384r1' }).privateKey],
    ['RSA 2048', generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey],
  ];
  for (const [what, key] of accepted) t.equal(readCsr(makeCsr(key, 'a')).publicKey.type, 'public', what);
  const refused: [string, KeyObject, RegExp][] = [
    ['P-521', generateKeyPairSync('ec', { namedCurve: 'secp521r1' }).privateKey, /curve secp521r1/],
    ['secp256k1', generateKeyPairSync('ec', { namedCurve: 'secp256k1' }).privateKey, /curve secp256k1/],
    ['RSA 1024', generateKeyPairSync('rsa', { modulusLength: 1024 }).privateKey, /1024 bits/],
    ['RSA e=3', generateKeyPairSync('rsa', { modulusLength: 2048, publicExponent: 3 }).privateKey, /exponent/],
  ];
  for (const [what, key, reason] of refused)
    t.throws(() => readCsr(makeCsr(key, 'a')), { code: 'BAD_CERTIFICATE', message: reason }, what);
  t.throws(() => makeCsr(generateKeyPairSync('ed25519').privateKey, 'a'), { code: 'BAD_CERTIFICATE' });
});

test('a request signed by another key, or damaged, is refused', async (t) => {
  const mine = makeKeyPair();
  const other = makeKeyPair();
  const csr = makeCsr(mine.privateKey, 'a');
  const [information, algorithm] = readChildren(readDer(csr, TAG.sequence));
  if (!information || !algorithm) throw new Error('a request has three parts');
  const forged = writeSequence(
    information.raw,
    algorithm.raw,
    writeBitString(sign('sha256', information.raw, other.privateKey)),
  );
  t.throws(() => readCsr(forged), { code: 'BAD_CERTIFICATE', message: /not signed by its own key/ });

  const [version, subject, , attributes] = readChildren(information);
  if (!version || !subject || !attributes) throw new Error('a request names four things');
  const swapped = writeSequence(version.raw, subject.raw, other.publicKeyDer, attributes.raw);
  const stolen = writeSequence(swapped, algorithm.raw, writeBitString(sign('sha256', swapped, mine.privateKey)));
  t.throws(() => readCsr(stolen), { message: /not signed by its own key/ }, 'the public key of somebody else');

  t.throws(() => readCsr(Buffer.concat([csr, Buffer.of(0)])), { message: /bytes follow the end/ });
  t.throws(() => readCsr(csr.subarray(0, -1)), { message: /cut off/ });
  t.throws(() => readCsr(Buffer.alloc(20_000)), { message: /larger than/ });
  t.throws(() => readCsr(Buffer.from('hello')), { code: 'BAD_CERTIFICATE' });
  const extra = writeSequence(information.raw, algorithm.raw, writeBitString(Buffer.alloc(8)), writeDer(contextTag(1)));
  t.throws(() => readCsr(extra), { message: /do not belong there/ });
});

test('openssl reads our request, and we read one of openssl', {
  skip: openssl ? false : 'openssl is not installed',
}, async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'mesh-csr-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const pair = makeKeyPair();
  writeFileSync(join(folder, 'ours.der'), makeCsr(pair.privateKey, 'render-1'));
  const said = execFileSync(
    'openssl',
    ['req', '-verify', '-inform', 'DER', '-in', join(folder, 'ours.der'), '-noout', '-subject'],
    { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] },
  );
  t.match(said, /CN = render-1/);
  writeFileSync(join(folder, 'key.pem'), pair.privateKeyPem);
  execFileSync('openssl', [
    ...['req', '-new', '-key', join(folder, 'key.pem'), '-outform', 'DER', '-out', join(folder, 'theirs.der')],
    ...['-subj', '/CN=coordinator', '-addext', 'basicConstraints=critical,CA:TRUE'],
  ]);
  t.same(readCsr(readFileSync(join(folder, 'theirs.der'))).publicKeyDer, pair.publicKeyDer);
});
