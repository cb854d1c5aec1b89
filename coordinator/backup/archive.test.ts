/** The format of a backup: what was changed, cut off or made up is refused before anything is written. */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { spawnSync } from 'node:child_process';
import { type Test, test } from 'tap';
import { initDirectory, openDirectory } from '../../ca/directory.js';
import { makeNextIssuer, makeNextRoot, takeNextRoot } from '../../ca/next-root.js';
import { systemClock } from '../../common/clock.js';
import { Passphrase } from '../../common/passphrase.js';
import { makeBackup } from './backup.js';
import { decrypted, encrypted } from './envelope.js';
import { assertRestored, UNFINISHED } from './paths.js';
import { restoreBackup } from './restore.js';
import { ENTRY_BYTES_MAX, readTar, tarEnd, tarEntry } from './tar.js';

const WORDS = new Passphrase('correct horse battery');
const OTHER = new Passphrase('another few words');

async function collect(source: AsyncIterable<Buffer>): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of source) chunks.push(chunk);
  return Buffer.concat(chunks);
}

const from = (...chunks: Buffer[]): AsyncIterable<Buffer> => Readable.from(chunks);
const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

/** A data directory with a CA and no database, and a backup of it without a passphrase. */
async function identity(t: Test, passphrase?: Passphrase) {
  const folder = t.testdir();
  const dataDir = join(folder, 'data');
  await initDirectory(join(dataDir, 'ca'), { nowMs: Date.now() });
  writeFileSync(join(dataDir, 'coordinator.id'), 'abc\n');
  mkdirSync(join(dataDir, 'logs', 'job'), { recursive: true });
  writeFileSync(join(dataDir, 'logs', 'job', '0'), 'some output\n'.repeat(20_000));
  const out = join(folder, 'mesh.backup');
  const backup = { dataDir, out, passphrase, databaseUrl: undefined, withDatabase: false, withFiles: true };
  await makeBackup({ ...backup, clock: systemClock });
  const restore = (file: string, words = passphrase) =>
    restoreBackup({
      file,
      dataDir: join(folder, 'restored'),
      passphrase: () => (words ? Promise.resolve(words) : Promise.reject(new Error('it was not asked for'))),
      databaseUrl: undefined,
      clock: systemClock,
    });
  return { folder, dataDir, out, restore, backup: () => makeBackup({ ...backup, clock: systemClock }) };
}

test('encryption: chunks of every length come back, and only as they were', async (t) => {
  for (const bytes of [0, 1, 65_535, 65_536, 65_537, 131_072]) {
    const plain = Buffer.alloc(bytes, 7);
    const sealed = await collect(encrypted(from(plain), WORDS));
    t.ok((await collect(decrypted(from(sealed), WORDS))).equals(plain), `${bytes} bytes`);
  }
  const sealed = await collect(encrypted(from(Buffer.alloc(200_000, 7)), WORDS));
  const start = 13 + 16;
  const chunk = 65_536 + 16;
  const cut = (bytes: number) => sealed.subarray(0, bytes);
  const part = (i: number) => sealed.subarray(start + i * chunk, start + (i + 1) * chunk);
  const refused: [string, Buffer, string][] = [
    ['cut at the end of a chunk', cut(start + 2 * chunk), 'DATA_DIR'],
    ['cut inside one', cut(start + 2 * chunk + 100), 'DATA_DIR'],
    ['cut before the first', cut(start), 'PASSPHRASE'],
    ['two chunks swapped', Buffer.concat([cut(start), part(1), part(0), part(2), part(3)]), 'PASSPHRASE'],
    ['one left out', Buffer.concat([cut(start), part(0), part(2), part(3)]), 'DATA_DIR'],
    ['something behind the end', Buffer.concat([sealed, Buffer.alloc(20)]), 'DATA_DIR'],
  ];
  for (const [why, bytes, code] of refused) await t.rejects(collect(decrypted(from(bytes), WORDS)), { code }, why);
  await t.rejects(collect(decrypted(from(sealed), OTHER)), { code: 'PASSPHRASE' });
});

test('tar: what is written is read, by tar too', async (t) => {
  const long = `files/logs/${'d'.repeat(90)}/${'f'.repeat(60)}`;
  const parts: [string, Buffer][] = [
    ['files/coordinator.id', Buffer.from('abc\n')],
    [long, Buffer.alloc(1000, 1)],
    ['empty', Buffer.alloc(0)],
  ];
  async function* archive() {
    for (const [name, content] of parts) yield* tarEntry({ name, mode: 0o600, bytes: content.length }, from(content));
    yield tarEnd();
  }
  const bytes = await collect(archive());
  const found: [string, Buffer][] = [];
  for await (const { name, content } of readTar(from(...cutUp(bytes, 77)))) found.push([name, await collect(content)]);
  t.same(found, parts);
  const { stdout, error } = spawnSync('tar', ['-tf', '-'], { input: bytes, encoding: 'utf8' });
  if (!error) t.equal(stdout, parts.map(([name]) => `${name}\n`).join(''));
  await t.rejects(collect(tarEntry({ name: 'x', mode: 0, bytes: 3 }, from(Buffer.alloc(2)))), { message: /changed/ });
  await t.rejects(collect(tarEntry({ name: 'x'.repeat(101), mode: 0, bytes: 0 }, from())), { message: /too long/ });
  await t.rejects(collect(tarEntry({ name: 'x', mode: 0, bytes: ENTRY_BYTES_MAX + 1 }, from())), {
    message: /too large/,
  });
});

function cutUp(bytes: Buffer, size: number): Buffer[] {
  return Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) => bytes.subarray(i * size, (i + 1) * size));
}

test('a backup that was changed or cut off anywhere leaves nothing', async (t) => {
  const { folder, dataDir, out, restore, backup } = await identity(t);
  await t.rejects(backup(), { code: 'CONFLICT' }, 'nothing is overwritten');
  const whole = readFileSync(out);
  const file = join(folder, 'changed');
  const untouched = async (why: string) => {
    await t.rejects(restore(file), { code: 'DATA_DIR', message: /damaged/ }, why);
    t.notOk(existsSync(join(folder, 'restored')), `nothing was written: ${why}`);
  };
  for (const share of [0, 0.3, 0.6, 0.9, 1]) {
    const bytes = Math.min(whole.length - 1, Math.floor(whole.length * share));
    writeFileSync(file, whole.subarray(0, bytes));
    await untouched(`cut off after ${bytes} bytes`);
  }
  const content = whole.indexOf('some output');
  for (const at of [0, 100, 130, 257, 600, content, whole.indexOf('"sha256"'), whole.length - 10]) {
    const changed = Buffer.from(whole);
    changed[at] = (changed[at] as number) ^ 1;
    writeFileSync(file, changed);
    await untouched(`byte ${at} changed`);
  }
  writeFileSync(file, 'not a backup at all\n'.repeat(100));
  await untouched('another kind of file');

  await restore(out);
  const restored = join(folder, 'restored');
  for (const name of ['ca/ca.key', 'ca/issuer.crt', 'ca/index.json', 'coordinator.id', 'logs/job/0'])
    t.ok(readFileSync(join(restored, name)).equals(readFileSync(join(dataDir, name))), name);
  t.notOk(existsSync(join(restored, UNFINISHED)));
  await t.rejects(restore(out), { code: 'DATA_DIR', message: /not empty/ });
  t.doesNotThrow(() => assertRestored(restored));
  writeFileSync(join(restored, UNFINISHED), '');
  t.throws(() => assertRestored(restored), { code: 'DATA_DIR', message: /interrupted/ });
});

test('an encrypted one needs its passphrase, and is asked for it once', async (t) => {
  const { folder, out, restore } = await identity(t, WORDS);
  await t.rejects(restore(out, OTHER), { code: 'PASSPHRASE', message: /does not open/ });
  const changed = readFileSync(out);
  changed[70_000] = (changed[70_000] as number) ^ 1;
  writeFileSync(`${out}.changed`, changed);
  await t.rejects(restore(`${out}.changed`), { code: 'DATA_DIR', message: /changed or cut off/ });
  t.notOk(existsSync(join(folder, 'restored')));
  t.match(await restore(out), { database: null, withFiles: true });
});

test('one that was made up writes nowhere else', async (t) => {
  const { folder, restore } = await identity(t);
  const file = join(folder, 'evil');
  const content = Buffer.from('evil');
  const names = [
    ...['files/../evil', 'files/ca/../../evil', 'files//evil', 'files/etc/passwd', 'files/ca/./x', 'files/'],
    ...['files/ca/a\\..\\b', 'files/ca/.ssh', 'database/nowhere/000000', 'elsewhere'],
  ];
  for (const name of names) {
    const part = { name, bytes: content.length, sha256: sha256(content) };
    const head = { format: 1, createdAt: new Date().toISOString(), meshId: 'm', version: '0', database: null };
    const manifest = Buffer.from(JSON.stringify({ ...head, withFiles: false, parts: [part] }));
    async function* archive() {
      yield* tarEntry({ name, mode: 0o600, bytes: content.length }, from(content));
      yield* tarEntry({ name: 'manifest.json', mode: 0o600, bytes: manifest.length }, from(manifest));
      yield tarEnd();
    }
    writeFileSync(file, await collect(archive()));
    await t.rejects(restore(file), { code: 'DATA_DIR', message: /damaged/ }, name);
    t.notOk(existsSync(join(folder, 'evil', '..', '..', 'evil')));
    t.notOk(existsSync(join(folder, 'restored')));
  }
});

test('a backup during which the root was replaced is refused: no coordinator would start on it', async (t) => {
  const folder = t.testdir();
  const dataDir = join(folder, 'data');
  const nowMs = Date.now();
  const directory = join(dataDir, 'ca');
  await initDirectory(directory, { nowMs, meshId: 'attic-lab' });
  const before = { dataDir, passphrase: WORDS, databaseUrl: undefined, withDatabase: false, withFiles: false };
  const out = join(folder, 'mesh.backup');
  // The date is asked for between the rows and the files.
  const wallMs = () => {
    makeNextRoot(directory, 'attic-lab', nowMs, undefined);
    makeNextIssuer(directory, nowMs, undefined);
    takeNextRoot(directory, undefined);
    return nowMs;
  };
  const racing = Object.assign(Object.create(systemClock), { wallMs }) as typeof systemClock;
  await t.rejects(makeBackup({ ...before, out, clock: racing }), { code: 'CONFLICT', hint: 'make it again' });
  t.notOk(existsSync(out));
  t.ok(openDirectory(directory).authority);
  await makeBackup({ ...before, out, clock: systemClock });
  t.ok(existsSync(out));
});
