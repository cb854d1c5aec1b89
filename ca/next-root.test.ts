import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Test, test } from 'tap';
import { makeKeyPair } from '../common/identity/keys.js';
import { readRoots } from '../common/identity/roots.js';
import { type CaDirectory, initDirectory, openDirectory } from './directory.js';
import { learnNextRoot, makeNextIssuer, makeNextRoot, readNextRoot, takeNextRoot } from './next-root.js';

const NOW_MS = Date.UTC(2026, 10, 28, 12);

function folderFor(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'mesh-ca-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

const rootIn = (directory: string) => readRoots(readFileSync(join(directory, 'ca.crt'), 'utf8')).digests[0];

const make = (ca: CaDirectory) =>
  ca.takeStep((directory, passphrase) => makeNextRoot(directory, ca.authority.meshId, NOW_MS, passphrase));
const makeIssuer = (ca: CaDirectory) =>
  ca.takeStep((directory, passphrase) => makeNextIssuer(directory, NOW_MS, passphrase));
const issues = (ca: CaDirectory, name: string) =>
  ca.issue({ publicKeyDer: makeKeyPair().publicKeyDer, role: 'agent', name, nowMs: NOW_MS }, { sameHolder: false });

/** A directory whose next authority is complete, and copies of it for each test to break. */
async function prepared(t: Test) {
  const folder = folderFor(t);
  const original = join(folder, 'ca');
  const ca = await initDirectory(original, { nowMs: NOW_MS });
  await make(ca);
  await makeIssuer(ca);
  let copies = 0;
  const copy = (): string => {
    const directory = join(folder, `copy-${++copies}`);
    cpSync(original, directory, { recursive: true });
    return directory;
  };
  return { before: rootIn(original), after: rootIn(join(original, 'next')), copy };
}

test('made, certified and taken, the next authority is the present one; nothing of the old one is left', async (t) => {
  const { before, after, copy } = await prepared(t);
  const directory = copy();
  const ca = openDirectory(directory);
  t.same(ca.rootDigests, [before, after], 'the present root first');
  const issued = await issues(ca, 'attic');
  t.equal(issued.root, after, 'everybody else gets certificates of the new chain');
  await ca.takeStep(takeNextRoot);
  t.same(ca.rootDigests, [after]);
  t.notOk(existsSync(join(directory, 'next')));
  t.match(readFileSync(join(directory, 'ca.former'), 'utf8'), before as string);
  t.ok(ca.hasRootKey);
  t.equal((await issues(ca, 'cellar')).root, after);
});

test('each step repeated changes nothing', async (t) => {
  const { after, copy } = await prepared(t);
  const directory = copy();
  const ca = openDirectory(directory);
  const issuer = readFileSync(join(directory, 'next', 'issuer.crt'), 'utf8');
  await make(ca);
  await makeIssuer(ca);
  t.equal(rootIn(join(directory, 'next')), after);
  t.equal(readFileSync(join(directory, 'next', 'issuer.crt'), 'utf8'), issuer);
});

test('interrupted while it was made, the directory opens, and the steps are taken again', async (t) => {
  const { before, after, copy } = await prepared(t);
  // What is there after each file that the steps write, in their order.
  const written: [string[], boolean][] = [
    [[], false],
    [['ca.key'], false],
    [['ca.key', 'ca.crt'], true],
    [['ca.key', 'ca.crt', 'issuer.key.next'], true],
    [['ca.key', 'ca.crt', 'issuer.key.next', 'issuer.crt'], true],
    [['ca.key', 'ca.crt', 'issuer.crt', 'issuer.key'], true],
  ];
  for (const [files, keeps] of written) {
    const directory = copy();
    const next = join(directory, 'next');
    if (files.includes('issuer.key.next')) renameSync(join(next, 'issuer.key'), join(next, 'issuer.key.next'));
    for (const name of readdirSync(next)) if (!files.includes(name)) rmSync(join(next, name));
    const ca = openDirectory(directory);
    t.equal(ca.authority.rootFingerprint, before, files.join());
    await make(ca);
    await makeIssuer(ca);
    t.equal(rootIn(next) === after, keeps, 'a root that may be known to others stays');
    await ca.takeStep(takeNextRoot);
    t.equal((await issues(openDirectory(directory), 'attic')).root, ca.authority.rootFingerprint);
  }
});

test('interrupted while it took over, it is finished when the directory is opened', async (t) => {
  const { after, copy } = await prepared(t);
  const moved = ['ca.key', 'issuer.key', 'issuer.crt', 'ca.crt'];
  for (let count = 0; count <= moved.length; count++) {
    const directory = copy();
    const next = join(directory, 'next');
    writeFileSync(join(next, 'take'), 'key');
    for (const name of moved.slice(0, count)) renameSync(join(next, name), join(directory, name));
    const ca = openDirectory(directory);
    t.equal(ca.authority.rootFingerprint, after, `${count} files were moved`);
    t.equal(ca.nextRoot, undefined);
    t.notOk(existsSync(next));
    t.equal(ca.readRootKey().asymmetricKeyType, 'ec');
  }
});

test('where the key of the next root is elsewhere, that of the old one goes with it', async (t) => {
  const { after, copy } = await prepared(t);
  const directory = copy();
  rmSync(join(directory, 'next', 'ca.key'));
  const ca = openDirectory(directory);
  await ca.takeStep(takeNextRoot);
  t.equal(ca.authority.rootFingerprint, after);
  t.notOk(ca.hasRootKey);
});

test('it does not take over before it has an issuer; one that never took over gives way to another', async (t) => {
  const ca = await initDirectory(join(folderFor(t), 'ca'), { nowMs: NOW_MS });
  const other = await initDirectory(join(folderFor(t), 'ca'), { nowMs: NOW_MS, meshId: ca.authority.meshId });
  await make(ca);
  await t.rejects(ca.takeStep(takeNextRoot), { code: 'DATA_DIR' });
  t.equal(openDirectory(ca.directory).authority.rootFingerprint, ca.authority.rootFingerprint);
  await ca.takeStep((directory) => learnNextRoot(directory, other.authority.root));
  t.equal(rootIn(join(ca.directory, 'next')), other.authority.rootFingerprint);
  t.equal(readNextRoot(ca.directory, undefined)?.authority, undefined);
});
