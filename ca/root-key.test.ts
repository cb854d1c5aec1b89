import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Test, test } from 'tap';
import { systemClock } from '../common/clock.js';
import { writeFileAtomic } from '../common/files.js';
import { makeCsr } from '../common/identity/csr.js';
import { makeKeyPair } from '../common/identity/keys.js';
import { PROFILES } from '../common/identity/profile.js';
import { Passphrase } from '../common/passphrase.js';
import { initDirectory, openDirectory } from './directory.js';
import { isSealed } from './keys.js';
import { filesOf } from './layout.js';
import { exportRootKey, importRootKey, readRootFile, signRequest } from './root-key.js';
import { toPem } from './x509/certificate.js';

const NOW_MS = Date.UTC(2026, 10, 20, 12);
const WORDS = new Passphrase('correct horse battery');
const OTHER = new Passphrase('another few words');

function folderFor(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'mesh-ca-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

const open = (directory: string, passphrase?: Passphrase) => openDirectory(directory, systemClock, passphrase);
const leaf = () => ({ publicKeyDer: makeKeyPair().publicKeyDer, role: 'agent', name: 'a1', nowMs: NOW_MS }) as const;

test("the root's key leaves when its copy was read back, and the intermediate carries on", async (t) => {
  const folder = folderFor(t);
  const directory = join(folder, 'ca');
  const file = join(folder, 'root.pem');
  const ca = await initDirectory(directory, { nowMs: NOW_MS });
  const { rootKey } = filesOf(directory);
  await exportRootKey(ca, file, WORDS, { keep: true });
  t.ok(existsSync(rootKey));
  await t.rejects(exportRootKey(ca, file, WORDS, { keep: false }), { code: 'CONFLICT', message: /exists/ });
  await t.rejects(exportRootKey(ca, join(folder, 'no', 'such'), WORDS, { keep: false }), { code: 'DATA_DIR' });
  t.ok(existsSync(rootKey), 'what could not be written takes nothing away');
  rmSync(file);
  await exportRootKey(ca, file, WORDS, { keep: false });
  t.notOk(existsSync(rootKey));
  t.equal(statSync(file).mode & 0o777, 0o600);
  t.notMatch(readFileSync(file, 'utf8'), /BEGIN PRIVATE KEY/);
  await t.rejects(exportRootKey(ca, `${file}.2`, WORDS, { keep: false }), { code: 'CONFLICT', message: /not in/ });

  const alone = open(directory);
  t.notOk(alone.hasRootKey);
  t.match(await alone.issue(leaf(), { sameHolder: false }), { name: 'a1' });
  const dueMs = NOW_MS + PROFILES.issuer.lifetimeMs * 0.85;
  t.notOk(await alone.renewIssuerIfDue(dueMs));

  t.throws(() => readRootFile(file, OTHER), { code: 'PASSPHRASE' });
  const stranger = await initDirectory(join(folder, 'stranger'), { nowMs: NOW_MS });
  await t.rejects(importRootKey(stranger, readRootFile(file, WORDS)), { code: 'CONFLICT', message: /not that of/ });
  await alone.setPassphrase(OTHER);
  await importRootKey(alone, readRootFile(file, WORDS));
  t.ok(isSealed(readFileSync(rootKey, 'utf8')), 'encrypted as the keys beside it');
  t.ok(await alone.renewIssuerIfDue(dueMs));
});

test('an intermediate is signed where the root key is, for a key that never leaves the coordinator', async (t) => {
  const folder = folderFor(t);
  const directory = join(folder, 'ca');
  const file = join(folder, 'root.pem');
  const ca = await initDirectory(directory, { nowMs: NOW_MS });
  await exportRootKey(ca, file, undefined, { keep: false });
  const { issuerPem } = ca.authority;
  const request = toPem(makeCsr(ca.keyForNextIssuer(), 'issuer'), 'CERTIFICATE REQUEST');
  const { certificate } = signRequest(readRootFile(file, undefined), request, NOW_MS);
  t.throws(() => signRequest(readRootFile(file, undefined), toPem(certificate.raw), NOW_MS), {
    code: 'BAD_CERTIFICATE',
  });
  const running = open(directory);
  await ca.adoptIssuer(toPem(certificate.raw));
  t.not(ca.authority.issuerPem, issuerPem);
  running.reload();
  t.equal(running.authority.issuerPem, ca.authority.issuerPem, 'a running coordinator finds it');
  t.same(readdirSync(directory).sort(), ['ca.crt', 'index.json', 'issuer.crt', 'issuer.key']);
});

test('a root file that was changed is not taken', async (t) => {
  const folder = folderFor(t);
  const file = join(folder, 'root.pem');
  await exportRootKey(await initDirectory(join(folder, 'ca'), { nowMs: NOW_MS }), file, undefined, { keep: true });
  const [, key = ''] = readFileSync(file, 'utf8').split('-----END CERTIFICATE-----\n');
  const other = await initDirectory(join(folder, 'other'), { nowMs: NOW_MS });
  writeFileAtomic(file, other.authority.rootPem + key);
  t.throws(() => readRootFile(file, undefined), { code: 'BAD_CERTIFICATE', message: /not the key/ });
  writeFileAtomic(file, key);
  t.throws(() => readRootFile(file, undefined), { code: 'BAD_CERTIFICATE', message: /no root certificate/ });
});
