import { createPublicKey, type KeyObject, X509Certificate } from 'node:crypto';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'tap';
import { chainFromPem, verifyChain } from '../common/identity/chain.js';
import { makeKeyPair } from '../common/identity/keys.js';
import { initAdopted, initDirectory, keyForIssuer, openDirectory } from './directory.js';

const publicKeyOf = (privateKey: KeyObject): Buffer =>
  createPublicKey(privateKey).export({ type: 'spki', format: 'der' });

test('a directory whose issuer was signed elsewhere certifies, renews, and cannot admit others', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'mesh-ca-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const nowMs = Date.now();
  const first = await initDirectory(join(folder, 'first'), { nowMs });
  const directory = join(folder, 'second');
  const key = keyForIssuer(directory, undefined);
  t.ok(keyForIssuer(directory, undefined).equals(key), 'the same one after a crash');
  const { rootPem } = first.authority;
  const issuerPem = first.signIssuer(publicKeyOf(key), nowMs);
  await initAdopted(directory, { rootPem, issuerPem, nowMs, passphrase: undefined });
  const second = openDirectory(directory);
  t.notOk(second.hasRootKey);
  t.not(second.authority.issuerPem, first.authority.issuerPem);
  const { publicKeyDer } = makeKeyPair();
  const leaf = { publicKeyDer, role: 'agent', name: 'attic', nowMs } as const;
  const before = await second.issue(leaf, { sameHolder: false });
  const root = new X509Certificate(rootPem);
  t.doesNotThrow(() => verifyChain(chainFromPem(before.pem), [root], nowMs));
  t.throws(() => second.signIssuer(publicKeyDer, nowMs), { code: 'DATA_DIR' });

  const next = second.keyForNextIssuer();
  await t.rejects(second.adoptIssuer(first.signIssuer(publicKeyDer, nowMs)), { code: 'BAD_CERTIFICATE' });
  await second.adoptIssuer(first.signIssuer(publicKeyOf(next), nowMs));
  t.notOk(existsSync(join(directory, 'issuer.key.next')));
  const after = await openDirectory(directory).issue(leaf, { sameHolder: true });
  t.doesNotThrow(() => verifyChain(chainFromPem(after.pem), [root], nowMs));
  t.doesNotThrow(() => verifyChain(chainFromPem(before.pem), [root], nowMs), 'what the old one signed stays valid');
});
