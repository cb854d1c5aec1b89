import { appendFileSync, readdirSync, statSync, truncateSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'tap';
import { temporaryDirectory } from '../../test/support/plane.js';
import { type OutputChunk, Stream } from '../../proto/gen/mesh/v1/common.js';
import { LogStore } from './log-store.js';

const KEY = { jobId: 'job', index: 3, generation: 2 };

/** A chunk of one letter, as if the attempt had written it at `offset`. */
const chunk = (offset: number, length: number, letter = 'x'): OutputChunk => ({
  ...{ stream: Stream.STDOUT, offset, atMs: 5 },
  data: Buffer.alloc(length, letter),
});

async function readAll(logs: LogStore): Promise<OutputChunk[]> {
  const chunks: OutputChunk[] = [];
  for await (const found of logs.read(KEY)) chunks.push(found);
  return chunks;
}

const shape = (chunks: readonly OutputChunk[]) =>
  chunks.map(({ stream, offset, data }) =>
    stream === Stream.SYSTEM ? Buffer.from(data).toString() : [offset, data.length],
  );

test('what is within the limit is there as it came; what comes twice is stored once', async (t) => {
  const logs = new LogStore(temporaryDirectory(t), 1000);
  t.notOk(logs.has(KEY));
  t.same(await readAll(logs), []);
  const log = logs.open(KEY);
  await log.append([chunk(0, 100, 'a'), chunk(100, 50, 'b')]);
  await log.append([chunk(0, 100, 'a'), chunk(100, 50, 'b')]);
  await log.append([chunk(120, 80, 'c')]);
  t.equal(log.offset, 200);
  await log.append([]);
  await log.close();
  t.ok(logs.has(KEY));
  const found = await readAll(logs);
  t.same(
    shape(found),
    [
      [0, 100],
      [100, 50],
      [150, 50],
    ],
    'the known part of an overlapping chunk is cut off',
  );
  t.equal(
    Buffer.concat(found.map(({ data }) => data)).toString(),
    `${'a'.repeat(100)}${'b'.repeat(50)}${'c'.repeat(50)}`,
  );
  await logs.removeJob('job');
  t.notOk(logs.has(KEY));
});

test('head and tail are kept within one and a half limits, and a note says how much is missing', async (t) => {
  const directory = temporaryDirectory(t);
  const logs = new LogStore(directory, 1000);
  const log = logs.open(KEY);
  for (let offset = 0; offset < 20_000; offset += 100) {
    await log.append([chunk(offset, 100)]);
    const folder = join(directory, 'job');
    const used = readdirSync(folder).reduce((sum, name) => sum + statSync(join(folder, name)).size, 0);
    if (used > 1500 * 1.2) t.fail(`${used} bytes are used at ${offset}`);
  }
  const found = shape(await readAll(logs));
  t.same(
    found.slice(0, 5),
    [
      [0, 100],
      [100, 100],
      [200, 100],
      [300, 100],
      [400, 100],
    ],
    'the first half of the limit',
  );
  t.match(found[5], /^\[\d+ bytes of output left out\]\n$/);
  const tail = found.slice(6) as [number, number][];
  t.ok(tail.length >= 2, 'at least a quarter of the limit');
  t.same(tail.at(-1), [19_900, 100]);
  tail.forEach(([offset], i) => t.equal(offset, 20_000 - (tail.length - i) * 100, 'in order, without a hole'));
  const missing = Number(/\d+/.exec(found[5] as string)?.[0]);
  t.equal(500 + missing + tail.length * 100, 20_000);
  await log.close();
});

test('what is within the limit is shown whole, wherever its parts end', async (t) => {
  const logs = new LogStore(temporaryDirectory(t), 1000);
  const log = logs.open(KEY);
  // Three of these fill the head to 450 bytes, so that the tails hold more than half a limit together.
  for (let offset = 0; offset < 900; offset += 150) await log.append([chunk(offset, 150)]);
  await log.append([chunk(900, 100)]);
  await log.close();
  t.same(
    shape(await readAll(logs)),
    [0, 150, 300, 450, 600, 750, 900].map((offset) => [offset, offset === 900 ? 100 : 150]),
  );
});

test('what an agent left out itself counts for nothing', async (t) => {
  const logs = new LogStore(temporaryDirectory(t), 1000);
  const log = logs.open(KEY);
  await log.append([chunk(0, 400), chunk(5000, 50)]);
  for (let offset = 5050; offset < 5450; offset += 100) await log.append([chunk(offset, 100)]);
  await log.close();
  t.same(shape(await readAll(logs)), [
    [0, 400],
    '[4600 bytes of output left out]\n',
    [5000, 50],
    ...[5050, 5150, 5250, 5350].map((offset) => [offset, 100]),
  ]);
});

test('reading from an offset begins in the middle of whatever is there', async (t) => {
  const logs = new LogStore(temporaryDirectory(t), 1000);
  const log = logs.open(KEY);
  for (let offset = 0; offset < 2000; offset += 100) await log.append([chunk(offset, 100)]);
  await log.close();
  const from = async (offset: number) => {
    const chunks = [];
    for await (const found of logs.read(KEY, offset)) chunks.push(found);
    return shape(chunks);
  };
  const all = await from(0);
  const tail = all.slice(6);
  t.same(await from(450), [[450, 50], '[1000 bytes of output left out]\n', ...tail]);
  t.same(await from(1500), tail);
  t.same((await from(700))[0], '[800 bytes of output left out]\n');
  t.same(await from(1950), [[1950, 50]]);
  t.same(await from(2000), []);
});

test('a later handle goes on where the earlier one stopped, in whatever part that was', async (t) => {
  const logs = new LogStore(temporaryDirectory(t), 1000);
  for (let offset = 0; offset < 5000; offset += 100) {
    const log = logs.open(KEY);
    await log.append([chunk(0, 50), chunk(offset, 100)]);
    t.equal(log.offset, offset + 100);
    await log.close();
  }
  const offsets = shape(await readAll(logs)).filter((entry) => typeof entry !== 'string') as [number, number][];
  t.same(offsets.at(-1), [4900, 100]);
  t.same(
    [...offsets].sort((a, b) => a[0] - b[0]),
    offsets,
  );
});

test('a frame that a crash cut off costs nothing but itself', async (t) => {
  const directory = temporaryDirectory(t);
  const logs = new LogStore(directory, 100_000);
  const first = logs.open(KEY);
  await first.append([chunk(0, 1000, 'a')]);
  await first.append([chunk(1000, 1000, 'b')]);
  await first.close();
  const path = join(directory, 'job', '3.2.head');
  truncateSync(path, statSync(path).size - 10);
  t.same(shape(await readAll(logs)), [[0, 1000]]);
  const second = logs.open(KEY);
  await second.append([chunk(0, 10)]);
  t.equal(second.offset, 1000, 'the agent is asked for the rest again');
  await second.append([chunk(1000, 1000, 'b'), chunk(2000, 500, 'c')]);
  await second.close();
  t.same(
    shape(await readAll(logs)),
    [
      [0, 1000],
      [1000, 1000],
      [2000, 500],
    ],
    'what came after it can be read',
  );
  appendFileSync(path, Buffer.from([0xff, 0xff, 0xff]));
  t.same(shape(await readAll(logs)).length, 3, 'garbage at the end is none either');
});

test('what could not be written is not said to be stored, and is taken when it comes again', async (t) => {
  const directory = temporaryDirectory(t);
  const logs = new LogStore(directory, 100_000);
  const log = logs.open(KEY);
  await log.append([chunk(0, 100)]);
  const probe = await open(join(directory, 'probe'), 'w');
  type Write = (pieces: Uint8Array[]) => Promise<{ bytesWritten: number }>;
  const handles = Object.getPrototypeOf(probe) as { writev: Write };
  await probe.close();
  const { writev } = handles;
  t.teardown(() => (handles.writev = writev));
  const half = ([head, data]: Uint8Array[]) => [head as Uint8Array, (data as Uint8Array).subarray(0, 50)];
  // Half of it arrives on a disk that is full; the next try says so.
  handles.writev = function (pieces) {
    return writev.call(this, half(pieces));
  };
  await t.rejects(log.append([chunk(100, 100)]), { code: 'DISK_FULL' });
  handles.writev = async function (pieces) {
    await writev.call(this, half(pieces));
    throw Object.assign(new Error('no space'), { code: 'ENOSPC' });
  };
  await t.rejects(log.append([chunk(100, 100)]), { code: 'ENOSPC' });
  handles.writev = writev;
  t.equal(log.offset, 100);
  await log.append([chunk(100, 100), chunk(200, 100)]);
  t.equal(log.offset, 300);
  await log.close();
  t.same(shape(await readAll(logs)), [
    [0, 100],
    [100, 100],
    [200, 100],
  ]);
});
