import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'tap';
import { NodeFault } from '../core/types.js';
import { type Fetch, StagingCache } from './cache.js';
import { checkStagedPath, placeFiles } from './place.js';

const digestOf = (content: string) => createHash('sha256').update(content).digest('hex');
const scratch = (t: { teardown(fn: () => unknown): unknown }) => {
  const directory = mkdtempSync(join(tmpdir(), 'staging '));
  t.teardown(() => rmSync(directory, { recursive: true }));
  return directory;
};
/** A fetch that serves these contents and counts. */
function serving(...contents: string[]): Fetch & { count: number } {
  const byDigest = new Map(contents.map((content) => [digestOf(content), content]));
  const fetch = Object.assign(
    async function* (digest: string) {
      fetch.count++;
      const content = byDigest.get(digest);
      if (content === undefined) throw new Error('no such file');
      for (const byte of content) yield Buffer.from(byte);
    },
    { count: 0 },
  );
  return fetch;
}
const textOf = (path: string) => readFile(path, 'utf8');

test('a file is fetched once, verified, and found again after a restart', async (t) => {
  const directory = scratch(t);
  const cache = new StagingCache({ directory });
  await cache.start();
  const fetch = serving('hello');
  const texts = await Promise.all([1, 2, 3].map(() => cache.withFile(digestOf('hello'), fetch, textOf)));
  t.same(texts, ['hello', 'hello', 'hello']);
  t.equal(fetch.count, 1);
  const later = new StagingCache({ directory });
  await later.start();
  t.equal(await later.withFile(digestOf('hello'), fetch, textOf), 'hello');
  t.equal(fetch.count, 1);
  t.equal(later.totalBytes, 5);
});

test('another content than the digest says is refused, and nothing stays', async (t) => {
  const directory = scratch(t);
  const cache = new StagingCache({ directory });
  await cache.start();
  async function* wrong() {
    yield Buffer.from('something else');
  }
  await t.rejects(cache.withFile(digestOf('hello'), wrong, textOf), { name: 'NodeFault', message: /arrived damaged/ });
  t.same(readdirSync(directory), []);
  await t.rejects(cache.withFile('../../etc/passwd', wrong, textOf), { message: /not a SHA-256/ });
  await t.rejects(cache.withFile(digestOf('x'), serving(), textOf), { message: /could not be fetched: no such file/ });
});

test('a file cut short by a crash is fetched again', async (t) => {
  const directory = scratch(t);
  writeFileSync(join(directory, digestOf('hello')), 'hel');
  writeFileSync(join(directory, `${digestOf('other')}.tmp`), 'rest of a crash');
  const cache = new StagingCache({ directory });
  await cache.start();
  const fetch = serving('hello');
  t.equal(await cache.withFile(digestOf('hello'), fetch, textOf), 'hello');
  t.equal(fetch.count, 1);
  t.same(readdirSync(directory), [digestOf('hello')]);
});

test('the least recently used go first, what is in use stays', async (t) => {
  const directory = scratch(t);
  const cache = new StagingCache({ directory, limitBytes: 8 });
  await cache.start();
  const fetch = serving('aaaa', 'bbbb', 'cccc', 'dddd');
  await cache.withFile(digestOf('aaaa'), fetch, textOf);
  await cache.withFile(digestOf('bbbb'), fetch, textOf);
  await cache.withFile(digestOf('aaaa'), fetch, async () => {
    await cache.withFile(digestOf('cccc'), fetch, textOf);
    t.notOk(existsSync(join(directory, digestOf('bbbb'))));
    await cache.withFile(digestOf('dddd'), fetch, textOf);
    t.ok(existsSync(join(directory, digestOf('aaaa'))));
  });
  t.same(readdirSync(directory).sort(), [digestOf('aaaa'), digestOf('dddd')].sort());
});

test('files are placed as copies, with their modes', async (t) => {
  const directory = scratch(t);
  const cache = new StagingCache({ directory: join(directory, 'cache') });
  await cache.start();
  const fetch = serving('one', 'two');
  const source = {
    withFile: <T>(digest: string, use: (path: string) => Promise<T>) => cache.withFile(digest, fetch, use),
  };
  const work = join(directory, 'work');
  mkdirSync(work);
  await placeFiles(
    [
      { path: 'a/b/one.txt', digest: digestOf('one'), sizeBytes: 3, executable: false },
      { path: 'a/two', digest: digestOf('two'), sizeBytes: 3, executable: true },
    ],
    work,
    source,
    undefined,
  );
  writeFileSync(join(work, 'a/b/one.txt'), 'changed by the task');
  t.equal(await cache.withFile(digestOf('one'), fetch, textOf), 'one');
  t.equal(statSync(join(work, 'a/two')).mode & 0o777, 0o755);
  t.equal(readFileSync(join(work, 'a/two'), 'utf8'), 'two');
  const twice = { path: 'a/two', digest: digestOf('one'), sizeBytes: 3, executable: false };
  await t.rejects(placeFiles([twice], work, source, undefined), { code: 'BAD_SPEC', message: /place of another/ });
  const lost = { path: 'c', digest: digestOf('lost'), sizeBytes: 3, executable: false };
  await t.rejects(placeFiles([lost], work, source, undefined), NodeFault);
});

test('paths that leave the directory are refused', async (t) => {
  for (const path of ['', '/etc/passwd', '../x', 'a/../../x', 'a//b', './a', 'a/', 'a\\b', 'a\0b', 'x'.repeat(5000)])
    t.throws(() => checkStagedPath(path), { code: 'BAD_SPEC' }, JSON.stringify(path.slice(0, 20)));
  for (const path of ['a', 'a/b.txt', '..a', 'a b/ü', '...']) checkStagedPath(path);
});
