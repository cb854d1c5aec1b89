import { spawnSync } from 'node:child_process';
import { createPublicKey } from 'node:crypto';
import { cpSync, existsSync, mkdtempSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Test, test } from 'tap';
import { systemClock } from '../common/clock.js';
import { makeKeyPair } from '../common/identity/keys.js';
import { Passphrase } from '../common/passphrase.js';
import { PROFILES } from '../common/identity/profile.js';
import { type CaDirectory, initAdopted, initDirectory, keyForIssuer, openDirectory } from './directory.js';
import { isSealed } from './keys.js';
import { filesOf } from './layout.js';
import { makeNextRoot } from './next-root.js';
import { keyFilesIn } from './reseal.js';

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
const areSealed = (directory: string) => keyFilesIn(directory).map((path) => isSealed(readFileSync(path, 'utf8')));

test('keys made under a passphrase are opened by it alone, by openssl too', async (t) => {
  const directory = join(folderFor(t), 'ca');
  const ca = await initDirectory(directory, { nowMs: NOW_MS, passphrase: WORDS });
  const { rootKey, issuerKey } = filesOf(directory);
  t.same(areSealed(directory), [true, true]);
  for (const path of [rootKey, issuerKey]) t.equal(statSync(path).mode & 0o777, 0o600);
  t.equal(open(directory, WORDS).authority.rootFingerprint, ca.authority.rootFingerprint);
  t.throws(() => open(directory, OTHER), { code: 'PASSPHRASE', message: /does not open .*issuer\.key/ });

  const closed = open(directory);
  t.same(closed.list(), [], 'what was issued can be read without it');
  await t.rejects(closed.issue(leaf(), { sameHolder: false }), { code: 'PASSPHRASE', message: /no passphrase/ });

  const { status, error } = spawnSync('openssl', ['version']);
  if (error || status !== 0) return t.comment('there is no openssl here');
  const read = (words: Passphrase) =>
    spawnSync('openssl', ['pkey', '-in', rootKey, '-passin', 'stdin', '-pubout', '-outform', 'DER'], {
      input: `${words.reveal()}\n`,
    });
  t.same(read(WORDS).stdout, ca.authority.root.publicKey.export({ type: 'spki', format: 'der' }));
  t.not(read(OTHER).status, 0);
});

test('whoever opened the directory before its passphrase was set or changed writes no key into it any more', async (t) => {
  const directory = join(folderFor(t), 'ca');
  await initDirectory(directory, { nowMs: NOW_MS });
  const earlier: [CaDirectory, string][] = [[open(directory), 'before there was one']];
  await open(directory).setPassphrase(WORDS);
  earlier.push([open(directory, WORDS), 'under the former one']);
  await open(directory, WORDS).setPassphrase(OTHER);
  const { next, issuerKeyNext } = filesOf(directory);
  for (const [ca, when] of earlier) {
    const makeRootNext = () =>
      ca.takeStep((folder, passphrase) => makeNextRoot(folder, 'attic-lab', NOW_MS, passphrase));
    await t.rejects(makeRootNext(), { code: 'PASSPHRASE' }, when);
    t.throws(() => ca.keyForNextIssuer(), { code: 'PASSPHRASE' }, when);
    t.throws(() => ca.keyForNextRoot(), { code: 'PASSPHRASE' }, when);
    t.throws(() => ca.writeKey('secrets.key', makeKeyPair().privateKey), { code: 'PASSPHRASE' }, when);
    for (const path of [next, issuerKeyNext, join(directory, 'secrets.key')])
      t.notOk(existsSync(path), `${path} ${when}`);
  }
  t.same(areSealed(directory), [true, true]);
  t.ok(open(directory, OTHER).authority);
});

test('a passphrase is set, changed and removed, of every key at once', async (t) => {
  const directory = join(folderFor(t), 'ca');
  const ca = await initDirectory(directory, { nowMs: NOW_MS });
  ca.keyForNextIssuer();
  const before = await ca.issue(leaf(), { sameHolder: true });
  t.same(areSealed(directory), [false, false, false]);
  t.equal((await ca.setPassphrase(WORDS)).length, 3);
  t.same(areSealed(directory), [true, true, true]);
  await open(directory, WORDS).setPassphrase(OTHER);
  t.throws(() => open(directory, WORDS), { code: 'PASSPHRASE' });
  await t.rejects(open(directory).setPassphrase(undefined), { code: 'PASSPHRASE' }, 'removing it takes it too');
  const opened = open(directory, OTHER);
  t.match(await opened.issue(leaf(), { sameHolder: true }), { name: 'a1' });
  await opened.setPassphrase(undefined);
  t.same(areSealed(directory), [false, false, false]);
  t.equal(open(directory).list()[0]?.serial, before.serial);
});

test('a change that is interrupted leaves a directory that opens', async (t) => {
  const folder = folderFor(t);
  const directory = join(folder, 'ca');
  const ca = await initDirectory(directory, { nowMs: NOW_MS });
  const plain = join(folder, 'plain');
  cpSync(directory, plain, { recursive: true });
  await ca.setPassphrase(WORDS);

  // Killed while the new files were written: nothing has changed.
  const undecided = join(folder, 'undecided');
  cpSync(plain, undecided, { recursive: true });
  cpSync(filesOf(directory).rootKey, join(undecided, 'resealed.new', 'ca.key'));
  t.ok(open(undecided).authority);
  await open(undecided).setPassphrase(OTHER);
  t.ok(open(undecided, OTHER).authority, 'and what was left does not disturb the next change');

  // Killed between the renames: the rest follows when it is opened, whichever came first.
  for (const moved of [[], ['issuer.key']]) {
    const decided = join(folder, `decided-${moved.join('-')}`);
    cpSync(plain, decided, { recursive: true });
    for (const name of ['ca.key', 'issuer.key']) cpSync(join(directory, name), join(decided, 'resealed', name));
    for (const name of moved) renameSync(join(decided, 'resealed', name), join(decided, name));
    t.ok(open(decided, WORDS).authority, `after ${moved.join(' and ') || 'none'}`);
    t.same(areSealed(decided), [true, true]);
    t.notOk(existsSync(join(decided, 'resealed')));
  }
});

test('whatever is made later is encrypted too', async (t) => {
  const folder = folderFor(t);
  const directory = join(folder, 'ca');
  const ca = await initDirectory(directory, { nowMs: NOW_MS, passphrase: WORDS });
  const { issuerPem } = ca.authority;
  t.ok(await ca.renewIssuerIfDue(NOW_MS + PROFILES.issuer.lifetimeMs * 0.85));
  t.not(ca.authority.issuerPem, issuerPem);
  t.same(areSealed(directory), [true, true]);
  ca.keyForNextIssuer();
  t.same(areSealed(directory), [true, true, true]);

  const joining = join(folder, 'second');
  const key = keyForIssuer(joining, WORDS);
  const publicKeyDer = createPublicKey(key).export({ type: 'spki', format: 'der' });
  const parts = { rootPem: ca.authority.rootPem, issuerPem: ca.signIssuer(publicKeyDer, NOW_MS), nowMs: NOW_MS };
  await initAdopted(joining, { ...parts, passphrase: WORDS });
  t.same(areSealed(joining), [true]);

  const running = open(directory, WORDS);
  await open(directory, WORDS).setPassphrase(OTHER);
  const lateMs = NOW_MS + PROFILES.issuer.lifetimeMs * 1.8;
  await t.rejects(running.renewIssuerIfDue(lateMs), { code: 'PASSPHRASE' }, 'never under the former passphrase');
  t.ok(open(directory, OTHER).authority);
});
