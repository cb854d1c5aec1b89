import { createHash } from 'node:crypto';
import { chmodSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ServerReadableStream } from '@grpc/grpc-js';
import { test } from 'tap';
import { MeshError } from '../common/errors.js';
import { toStatus } from '../common/grpc-errors.js';
import type { TaskInput } from '../proto/gen/mesh/v1/common.js';
import { Job, type PutBlobRequest, type SubmitJobRequest, type SubmitJobStart } from '../proto/gen/mesh/v1/mesh.js';
import { startFakeMesh } from '../test/support/fake-mesh.js';
import { CHUNK_BYTES, uploadFiles } from './blobs.js';
import { BATCH_BYTES, BATCH_ITEMS, makeSpec, submitJob } from './submit.js';

const work = { $case: 'process' as const, value: { argv: ['true'], environment: {} } };
const spec = (taskCount: number) => makeSpec({ name: 'n', work, taskCount });
const key = 'k';

interface Received {
  starts: SubmitJobStart[];
  batches: TaskInput[][];
}

/** Takes submissions and answers with a job of as many tasks as items came. */
async function submissions(received: Received) {
  let count = 0;
  return startFakeMesh({
    submitJob: (call: ServerReadableStream<SubmitJobRequest, { job: Job }>, callback) => {
      call.on('data', ({ body }: SubmitJobRequest) => {
        if (body?.$case === 'start' && body.value.spec) received.starts.push(body.value);
        if (body?.$case !== 'items') return;
        count += body.value.items.length;
        received.batches.push(body.value.items);
      });
      call.on('error', () => undefined);
      call.on('end', () => callback(null, { job: Job.fromPartial({ id: 'j', tasks: { total: count } }) }));
    },
  });
}

test('a job without items is one message', async (t) => {
  const received: Received = { starts: [], batches: [] };
  const fake = await submissions(received);
  t.teardown(() => fake.stop());
  const job = await submitJob(fake.mesh, { spec: spec(1), idempotencyKey: key });
  t.equal(job.id, 'j');
  t.equal(received.batches.length, 0);
  t.match(received.starts, [{ idempotencyKey: 'k', spec: { name: 'n', taskCount: 1, retries: 2, backoffMs: 1000 } }]);
});

test('items come in order, in batches bounded in number and in bytes', async (t) => {
  const received: Received = { starts: [], batches: [] };
  const fake = await submissions(received);
  t.teardown(() => fake.stop());
  const large = 'x'.repeat(BATCH_BYTES / 4);
  const values = [...Array.from({ length: 2500 }, (_, i) => String(i)), large, large, large, large, large, 'last'];
  const items = values.map((value) => ({ value, files: [] }));
  await submitJob(fake.mesh, { spec: spec(items.length), idempotencyKey: key, items });
  t.same(
    received.batches.flat().map((item) => item.value),
    values,
  );
  t.ok(received.batches.every((batch) => batch.length <= BATCH_ITEMS));
  const bytes = received.batches.map((batch) => batch.reduce((sum, item) => sum + item.value.length, 0));
  t.ok(Math.max(...bytes) <= BATCH_BYTES, `${Math.max(...bytes)}`);
});

test('items are made no faster than they are taken', async (t) => {
  const value = 'x'.repeat(4096);
  const total = 20_000;
  let [made, taken, ahead] = [0, 0, 0];
  const fake = await startFakeMesh({
    submitJob: (call: ServerReadableStream<SubmitJobRequest, { job: Job }>, callback) => {
      call.on('data', ({ body }: SubmitJobRequest) => {
        if (body?.$case === 'items') taken += body.value.items.length;
      });
      call.on('end', () => callback(null, { job: Job.fromPartial({ id: 'j' }) }));
    },
  });
  t.teardown(() => fake.stop());
  function* items() {
    for (; made < total; made++) {
      ahead = Math.max(ahead, made - taken);
      yield { value, files: [] };
    }
  }
  await submitJob(fake.mesh, { spec: spec(total), idempotencyKey: key, items: items() });
  t.equal(taken, total);
  // grpc-js buffers 16 messages of at most 1 MiB, and the sockets hold some more.
  t.ok(ahead * value.length < 32 * 1024 * 1024, `at most ${ahead} of ${total} items were under way at a time`);
});

test('as many items as announced, and none too large, or nothing is submitted', async (t) => {
  const received: Received = { starts: [], batches: [] };
  const fake = await submissions(received);
  t.teardown(() => fake.stop());
  const items = [{ value: 'a', files: [] }];
  const wrong = submitJob(fake.mesh, { spec: spec(2), idempotencyKey: key, items });
  await t.rejects(wrong, { code: 'BAD_SPEC', message: /2 items became 1/ });
  const huge = [{ value: 'x'.repeat(BATCH_BYTES), files: [] }];
  await t.rejects(submitJob(fake.mesh, { spec: spec(1), idempotencyKey: key, items: huge }), { code: 'BAD_SPEC' });
  t.equal(received.batches.length, 0);
  for (const count of [0, 1.5, 10_000_001]) t.throws(() => spec(count), { code: 'BAD_SPEC' });
});

test('a refusal in the middle ends the stream and says why', async (t) => {
  const fake = await startFakeMesh({
    submitJob: (call: ServerReadableStream<SubmitJobRequest, { job: Job }>, callback) => {
      call.once('data', () => {
        callback(toStatus(new MeshError('OVERLOADED', 'too many jobs wait', { hint: 'later' })));
        call.resume();
      });
    },
  });
  t.teardown(() => fake.stop());
  let made = 0;
  let closed = false;
  function* endless() {
    try {
      for (;;) {
        made++;
        yield { value: 'x'.repeat(1000), files: [] };
      }
    } finally {
      closed = true;
    }
  }
  const refused = submitJob(fake.mesh, { spec: spec(10_000_000), idempotencyKey: key, items: endless() });
  await t.rejects(refused, { code: 'OVERLOADED', message: 'too many jobs wait', hint: 'later' });
  t.ok(closed, `the source is closed after ${made} items`);
});

/** A blob store that knows `known` already. */
async function blobStore(known: string[]) {
  const blobs = new Map<string, Buffer[]>();
  const asked: string[][] = [];
  let streams = 0;
  const fake = await startFakeMesh({
    missingBlobs: (call, callback) => {
      asked.push(call.request.digests);
      callback(null, { digests: call.request.digests.filter((digest) => !known.includes(digest)) });
    },
    putBlob: (call: ServerReadableStream<PutBlobRequest, { stored: number }>, callback) => {
      streams++;
      let current: Buffer[] = [];
      call.on('data', ({ digest, data }: PutBlobRequest) => {
        if (digest !== '') blobs.set(digest, (current = []));
        current.push(data);
      });
      call.on('end', () => callback(null, { stored: blobs.size }));
      call.on('error', () => undefined);
    },
  });
  return { fake, blobs, asked, streams: () => streams };
}

const sha = (data: Buffer | string) => createHash('sha256').update(data).digest('hex');

test('only what is missing is sent, several blobs on one stream, in bounded chunks', async (t) => {
  const big = Buffer.alloc(CHUNK_BYTES * 2 + 7, 'b');
  const contents: Record<string, Buffer> = {
    big,
    empty: Buffer.alloc(0),
    known: Buffer.from('known'),
    run: Buffer.from('#!'),
  };
  const root = t.testdir();
  const paths = Object.keys(contents).map((name) => join(root, name));
  for (const [name, content] of Object.entries(contents)) writeFileSync(join(root, name), content);
  chmodSync(join(root, 'run'), 0o755);
  writeFileSync(join(root, 'copy'), big);
  const store = await blobStore([sha('known')]);
  t.teardown(() => store.fake.stop());
  const progress: number[] = [];
  const stored = await uploadFiles(store.fake.mesh, [...paths, join(root, 'copy')], ({ sentBytes }) =>
    progress.push(sentBytes),
  );
  t.same(stored.get(join(root, 'big')), { digest: sha(big), sizeBytes: big.length, executable: false });
  t.same(stored.get(join(root, 'copy')), stored.get(join(root, 'big')));
  t.equal(stored.get(join(root, 'run'))?.executable, true);
  t.equal(store.streams(), 1);
  t.same([...store.blobs.keys()].sort(), [sha(big), sha(''), sha('#!')].sort());
  for (const [digest, chunks] of store.blobs) {
    t.equal(sha(Buffer.concat(chunks)), digest);
    t.ok(chunks.every((chunk) => chunk.length <= CHUNK_BYTES));
  }
  t.equal(progress.at(-1), big.length + 2);
});

test('files are asked about in batches', async (t) => {
  const root = t.testdir();
  const paths = Array.from({ length: 1001 }, (_, i) => join(root, String(i)));
  for (const path of paths) writeFileSync(path, path);
  const store = await blobStore(paths.map((path) => sha(path)));
  t.teardown(() => store.fake.stop());
  await uploadFiles(store.fake.mesh, paths);
  t.same(
    store.asked.map((digests) => digests.length),
    [1000, 1],
  );
  t.equal(store.streams(), 0);
});

test('a file that changes while it is sent, or cannot be read, is named', async (t) => {
  const path = join(t.testdir({ f: 'before' }), 'f');
  const fake = await startFakeMesh({
    missingBlobs: (call, callback) => {
      writeFileSync(path, 'after!');
      callback(null, { digests: call.request.digests });
    },
    putBlob: (call: ServerReadableStream<PutBlobRequest, { stored: number }>, callback) => {
      call.on('data', () => undefined);
      call.on('end', () => callback(null, { stored: 1 }));
      call.on('error', () => undefined);
    },
  });
  t.teardown(() => fake.stop());
  await t.rejects(uploadFiles(fake.mesh, [path]), {
    code: 'BAD_SPEC',
    message: `${path} changed while it was being sent`,
  });
  t.equal(readFileSync(path, 'utf8'), 'after!');
  await t.rejects(uploadFiles(fake.mesh, [`${path}.gone`]), { code: 'BAD_SPEC', message: /cannot read .*ENOENT/ });
  await t.rejects(uploadFiles(fake.mesh, [t.testdirName]), { code: 'BAD_SPEC', message: /is not a regular file/ });
});

/** Turns the first tries away, each after a few items, and takes the next whole. */
async function turningAway(times: number, received: Received) {
  let tries = 0;
  return startFakeMesh({
    submitJob: (call: ServerReadableStream<SubmitJobRequest, { job: Job }>, callback) => {
      const refused = ++tries <= times;
      let count = 0;
      call.on('data', ({ body }: SubmitJobRequest) => {
        if (body?.$case === 'start') received.starts.push(body.value);
        if (refused) return callback(toStatus(new MeshError('OVERLOADED', 'too many jobs')));
        if (body?.$case === 'items') count += body.value.items.length;
      });
      call.on('error', () => undefined);
      call.on('end', () => !refused && callback(null, { job: Job.fromPartial({ id: 'j', tasks: { total: count } }) }));
    },
  });
}

const items = (count: number) => Array.from({ length: count }, (_, i) => ({ value: String(i), files: [] }));

test('what was turned away is sent again, whole, under the same key', async (t) => {
  for (const list of [items(2500), () => items(2500).values()]) {
    const received: Received = { starts: [], batches: [] };
    const fake = await turningAway(2, received);
    t.teardown(() => fake.stop());
    const waits: string[] = [];
    const job = await submitJob(
      fake.mesh,
      { spec: spec(2500), idempotencyKey: key, items: list },
      { random: () => 0, onWait: ({ code }) => waits.push(code) },
    );
    t.equal(job.tasks?.total, 2500);
    t.same(waits, ['OVERLOADED', 'OVERLOADED']);
    t.same(
      received.starts.map((start) => start.idempotencyKey),
      [key, key, key],
    );
  }
});

test('what can be read only once is sent only once', async (t) => {
  const fake = await turningAway(1, { starts: [], batches: [] });
  t.teardown(() => fake.stop());
  await t.rejects(submitJob(fake.mesh, { spec: spec(5), idempotencyKey: key, items: items(5).values() }), {
    code: 'OVERLOADED',
  });
});
