import { mkdirSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { test, type Test } from 'tap';
import { testLimits } from '../../test/support/limits.js';
import { ManualClock } from '../../test/support/manual-clock.js';
import { temporaryDirectory } from '../../test/support/plane.js';
import { digestOf } from '../../test/support/store-fixtures.js';
import { withStore } from '../../test/support/postgres.js';
import { receiveBlobs as receive } from '../rpc/receive.js';
import { BLOB_PART_BYTES } from '../ports.js';
import { BlobContent } from './blob-content.js';
import { BlobDepot } from './blob-depot.js';
import { Uploads } from './uploads.js';

async function openDepot(t: Test, sizeBytesMax = 1000) {
  const { blobs } = await withStore(t);
  const directory = join(temporaryDirectory(t), 'blobs');
  return { depot: new BlobDepot(directory, blobs, sizeBytesMax, new ManualClock()), directory, blobs };
}

async function* messages(...given: [digest: string, data: string][]) {
  for (const [digest, data] of given) yield { digest, data: Buffer.from(data) };
}

const roomy = new Uploads(testLimits(), async () => true);

const receiveBlobs = (depot: BlobDepot, requests: Parameters<typeof receive>[1]): Promise<number> =>
  receive(depot, requests, roomy.begin('submitter/anna'));

async function textOf(depot: BlobDepot, digest: string): Promise<string> {
  const pieces: Buffer[] = [];
  for await (const piece of depot.read(digest)) pieces.push(piece);
  return Buffer.concat(pieces).toString();
}

const [A, B] = ['hello', 'world'];
const [digestA, digestB] = [digestOf(A), digestOf(B)];

test('several blobs on one stream, in pieces: stored under their digests, private, known to the table', async (t) => {
  const { depot, directory } = await openDepot(t);
  t.same(await depot.missing([digestA, digestB, digestA]), [digestA, digestB], 'each once');
  t.equal(await receiveBlobs(depot, messages([digestA, 'he'], ['', 'llo'], [digestB, B])), 2);
  t.equal(await textOf(depot, digestA), A);
  t.same(await depot.missing([digestA, digestB]), []);
  t.equal(statSync(join(directory, digestA)).mode & 0o777, 0o600);
  await depot.remove([digestA]);
  t.same(await depot.missing([digestA, digestB]), [digestA]);
  await t.rejects(textOf(depot, digestA), { code: 'NOT_FOUND' });
});

test('a digest that is wrong leaves nothing; what was complete before it stays for the next try', async (t) => {
  const { depot, directory } = await openDepot(t);
  await t.rejects(receiveBlobs(depot, messages([digestB, B], [digestA, 'other'])), {
    code: 'BAD_SPEC',
    message: /arrived damaged/,
  });
  t.same(readdirSync(directory), [digestB]);
  t.same(await depot.missing([digestA, digestB]), [digestA]);
});

test('too large, nameless, malformed: refused, and nothing is left behind', async (t) => {
  const { depot, directory } = await openDepot(t, 8);
  await t.rejects(receiveBlobs(depot, messages([digestA, 'x'.repeat(9)])), {
    code: 'BAD_SPEC',
    message: /larger than 8/,
  });
  await t.rejects(receiveBlobs(depot, messages(['', 'data'])), { code: 'BAD_SPEC', message: /names no digest/ });
  await t.rejects(receiveBlobs(depot, messages(['../../etc/passwd', 'x'])), { code: 'BAD_SPEC' });
  await t.rejects(depot.missing(['../x']), { code: 'BAD_SPEC' });
  t.same(readdirSync(directory), []);
  t.equal(await receiveBlobs(depot, messages()), 0);
});

test('what was found is not looked for in the table again within a minute, unless it is gone', async (t) => {
  const { blobs } = await withStore(t);
  const asked: string[][] = [];
  const counted = { ...blobs, use: (digests: string[]) => (asked.push(digests), blobs.use(digests)) };
  const directory = join(temporaryDirectory(t), 'blobs');
  const clock = new ManualClock();
  const depot = new BlobDepot(directory, counted, 1000, clock);
  await receiveBlobs(depot, messages([digestA, A], [digestB, B]));
  for (let turn = 0; turn < 2; turn++) t.same((await depot.look([digestA])).sizes, new Map([[digestA, A.length]]));
  t.same((await depot.look([digestA, digestB])).missing, []);
  t.same(asked, [[digestA], [digestB]]);
  clock.advance(60_000);
  t.same(await depot.missing([digestA]), []);
  t.same(asked.at(-1), [digestA]);
  rmSync(join(directory, digestA));
  t.same(await depot.missing([digestA, digestB]), [digestA], 'lost on the disk');
  t.same(await depot.missing([digestB]), []);
  await depot.remove([digestB]);
  t.same(await depot.missing([digestB]), [digestB]);
});

test('many writers of one blob at a time all succeed, and one file is there', async (t) => {
  const { depot, directory } = await openDepot(t);
  await Promise.all(Array.from({ length: 8 }, () => receiveBlobs(depot, messages([digestA, A]))));
  t.same(readdirSync(directory), [digestA]);
  t.equal(await textOf(depot, digestA), A);
});

test('a stream that breaks leaves no half of a file; what a crash left is removed at the start', async (t) => {
  const { depot, directory, blobs } = await openDepot(t);
  async function* broken() {
    yield { digest: digestA, data: Buffer.from('he') };
    throw new Error('the connection broke');
  }
  await t.rejects(receiveBlobs(depot, broken()), { message: 'the connection broke' });
  t.same(readdirSync(directory), []);
  writeFileSync(join(directory, `${digestA}.0a0b.part`), 'half');
  new BlobDepot(directory, blobs, 1000, new ManualClock());
  t.same(readdirSync(directory), []);
});

test('a full disk is said to be one, whether it shows at the write or at the sync', async (t) => {
  const { depot, directory } = await openDepot(t);
  mkdirSync(join(directory, 'x'));
  const probe = await open(join(directory, 'x', 'probe'), 'w');
  const handles = Object.getPrototypeOf(probe) as Record<'appendFile' | 'sync', () => Promise<void>>;
  await probe.close();
  const full = async () => {
    throw Object.assign(new Error('no space'), { code: 'ENOSPC' });
  };
  for (const call of ['appendFile', 'sync'] as const) {
    const usual = handles[call];
    handles[call] = full;
    try {
      await t.rejects(receiveBlobs(depot, messages([digestA, A])), { code: 'DISK_FULL' });
    } finally {
      handles[call] = usual;
    }
    t.same(readdirSync(directory), ['x'], `${call} leaves nothing`);
  }
});

test('a file that vanished from the disk is missing, whatever the table says', async (t) => {
  const { depot, blobs } = await openDepot(t);
  await blobs.record([{ digest: digestA, sizeBytes: 5 }]);
  t.same(await depot.missing([digestA]), [digestA]);
});

/** Two coordinators, each with its own disk, on one database. */
async function twoDepots(t: Test) {
  const store = await withStore(t);
  const open = () => {
    const directory = join(temporaryDirectory(t), 'blobs');
    const content = new BlobContent(store.blobContent);
    return {
      directory,
      depot: new BlobDepot(directory, store.blobs, 10 * BLOB_PART_BYTES, new ManualClock(), content),
    };
  };
  return { store, one: open(), two: open() };
}

test('a file of one coordinator is there for another, in parts, and goes with its row', async (t) => {
  const { store, one, two } = await twoDepots(t);
  const sizes = [0, 1, BLOB_PART_BYTES - 1, BLOB_PART_BYTES, BLOB_PART_BYTES + 1, 2 * BLOB_PART_BYTES];
  const files = sizes.map((size, i) => String.fromCharCode(97 + i).repeat(size));
  const digests = files.map(digestOf);
  await receiveBlobs(one.depot, messages(...files.map((text): [string, string] => [digestOf(text), text])));
  t.same(await two.depot.missing(digests), []);
  for (const [i, text] of files.entries()) {
    const digest = digests[i] as string;
    const [first, again] = await Promise.all([textOf(two.depot, digest), textOf(two.depot, digest)]);
    t.equal(first === text && again === text, true, `${sizes[i]} bytes`);
  }
  t.same(readdirSync(two.directory).sort(), [...digests].sort(), 'kept on its disk');
  await two.depot.remove(digests);
  t.same(await one.depot.missing(digests), digests);
  t.same(await store.blobContent.absent(digests), digests, 'the bytes are gone too');
  t.same(readdirSync(two.directory), []);
});

test('a file that the database holds in part, or damaged, is not taken for whole', async (t) => {
  const { store, one, two } = await twoDepots(t);
  await store.blobs.record([{ digest: digestA, sizeBytes: BLOB_PART_BYTES + 5 }]);
  await store.blobContent.put(digestA, 1, Buffer.from(A));
  t.same(await one.depot.missing([digestA]), [digestA], 'part 0 comes last');
  await t.rejects(textOf(two.depot, digestA), { code: 'NOT_FOUND' });
  await store.blobContent.put(digestB, 0, Buffer.from('other'));
  await t.rejects(textOf(two.depot, digestB), { code: 'INTERNAL', message: /in place of/ });
  t.same(readdirSync(two.directory), []);
});
