import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'tap';
import { systemClock } from '../../common/clock.js';
import { type OutputChunk, Stream } from '../../proto/gen/mesh/v1/common.js';
import { OutputSpool } from './spool.js';

function makeSpool(t: { teardown(fn: () => unknown): unknown }, limitBytes?: number) {
  const directory = mkdtempSync(join(tmpdir(), 'spool '));
  const spool = new OutputSpool({ path: join(directory, 'output'), clock: systemClock, limitBytes: limitBytes ?? 0 });
  t.teardown(async () => {
    await spool.dispose();
    rmSync(directory, { recursive: true });
  });
  return { spool, directory };
}

async function writeAll(spool: OutputSpool, data: Buffer, pieceBytes: number, stream = Stream.STDOUT): Promise<void> {
  for (let at = 0; at < data.length; at += pieceBytes) {
    const goesOn = spool.write(stream, data.subarray(at, at + pieceBytes));
    if (!goesOn) await new Promise<void>((resolve) => spool.whenDrained(resolve));
  }
}

async function readAll(spool: OutputSpool, stepBytes: number): Promise<OutputChunk[]> {
  const chunks: OutputChunk[] = [];
  for (let offset = 0; ; ) {
    const { chunks: found, nextOffset, ended } = await spool.read(offset, stepBytes);
    chunks.push(...found);
    offset = nextOffset;
    if (ended) return chunks;
  }
}

const bytesOf = (chunks: OutputChunk[]) => Buffer.concat(chunks.map((chunk) => chunk.data));
const pattern = (bytes: number) => Buffer.from(Uint32Array.from({ length: bytes / 4 }, (_, i) => i).buffer);

test('small output stays in memory, streams apart, bytes untouched', async (t) => {
  const { spool, directory } = makeSpool(t);
  t.equal(spool.tail(), undefined);
  spool.write(Stream.STDOUT, Buffer.from([0xff, 0, 0x1b]));
  spool.write(Stream.STDERR, Buffer.from('oops'));
  spool.write(Stream.STDOUT, Buffer.alloc(64 * 1024 - 7, 'x'));
  spool.end();
  const tail = spool.tail();
  t.equal(tail?.totalBytes, 64 * 1024);
  t.same(
    tail?.chunks.map((chunk) => [chunk.stream, chunk.offset, chunk.data.length]),
    [
      [Stream.STDOUT, 0, 3],
      [Stream.STDERR, 3, 4],
      [Stream.STDOUT, 7, 64 * 1024 - 7],
    ],
  );
  t.same([...tail!.chunks[0]!.data], [0xff, 0, 0x1b]);
  t.same(await readAll(spool, 1 << 20), tail!.chunks);
  t.same(readdirSync(directory), [], 'nothing on disk');
});

test('output within the limit is kept whole', async (t) => {
  const { spool } = makeSpool(t, 1 << 20);
  const data = pattern(700_000);
  await writeAll(spool, data, 9_999);
  spool.end();
  for (const step of [1000, 64 * 1024, 1 << 20]) t.ok(bytesOf(await readAll(spool, step)).equals(data), `by ${step}`);
  t.ok(bytesOf(spool.tail()!.chunks).equals(data.subarray(-64 * 1024)));
});

test('beyond the limit the first and the last half are kept, with a marker between', async (t) => {
  const { spool } = makeSpool(t, 1 << 20);
  const data = pattern(5 << 20);
  await writeAll(spool, data, 50_000);
  spool.end();
  const chunks = await readAll(spool, 100_000);
  const marker = chunks.findIndex((chunk) => chunk.stream === Stream.SYSTEM);
  const [head, tail] = [bytesOf(chunks.slice(0, marker)), bytesOf(chunks.slice(marker + 1))];
  t.ok(data.subarray(0, head.length).equals(head));
  t.ok(data.subarray(-tail.length).equals(tail));
  t.ok(head.length > 400_000 && head.length <= 1 << 19, `head ${head.length}`);
  t.ok(tail.length > 400_000 && tail.length <= (1 << 19) + 2 * 65536, `tail ${tail.length}`);
  t.match(chunks[marker]!.data.toString(), /4\.\d MiB left out/);
  t.equal(chunks[marker]!.offset, head.length);
  t.equal(chunks[marker + 1]!.offset, data.length - tail.length);
});

test('a reader that keeps up sees everything, whatever the limit', async (t) => {
  const { spool } = makeSpool(t, 512 * 1024);
  const data = pattern(3 << 20);
  const seen: Buffer[] = [];
  let offset = 0;
  let wake = () => {};
  spool.onData(() => wake());
  for (let at = 0; at < data.length; at += 70_000) {
    spool.write(Stream.STDOUT, data.subarray(at, at + 70_000));
    const { chunks, nextOffset } = await spool.read(offset, 1 << 20);
    offset = nextOffset;
    seen.push(...chunks.map((chunk) => Buffer.from(chunk.data)));
  }
  const notified = new Promise<void>((resolve) => (wake = resolve));
  spool.end();
  await notified;
  t.ok((await spool.read(offset, 1)).ended);
  t.ok(Buffer.concat(seen).equals(data));
});

test('a program that alternates streams byte by byte stays bounded', async (t) => {
  const { spool } = makeSpool(t, 512 * 1024);
  const [out, err] = [Buffer.from('o'), Buffer.from('e')];
  for (let i = 0; i < 200_000; i++) {
    const goesOn = spool.write(i % 2 ? Stream.STDERR : Stream.STDOUT, i % 2 ? err : out);
    if (!goesOn) await new Promise<void>((resolve) => spool.whenDrained(resolve));
  }
  t.ok(spool.tail()!.chunks.length <= 4096);
  spool.end();
  const text = bytesOf((await readAll(spool, 65536)).filter((chunk) => chunk.stream !== Stream.SYSTEM)).toString();
  t.match(text, /^(oe)+$/);
});

test('200 MB pass with flat memory', async (t) => {
  const { spool } = makeSpool(t);
  const piece = Buffer.alloc(64 * 1024, 'y');
  await writeAll(spool, Buffer.alloc(40 << 20), 1 << 20);
  const before = process.memoryUsage();
  for (let i = 0; i < 3200; i++) {
    if (!spool.write(Stream.STDOUT, piece)) await new Promise<void>((resolve) => spool.whenDrained(resolve));
  }
  const after = process.memoryUsage();
  t.equal(spool.totalBytes, (40 << 20) + 3200 * 65536);
  t.ok(after.rss - before.rss < 64 << 20, `resident size grew by ${(after.rss - before.rss) >> 20} MiB`);
});

test('a disk that fails costs the middle, not the attempt', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'spool-'));
  writeFileSync(join(directory, 'file'), '');
  const spool = new OutputSpool({ path: join(directory, 'file', 'output'), clock: systemClock });
  t.teardown(() => rmSync(directory, { recursive: true }));
  await writeAll(spool, pattern(1 << 20), 10_000);
  spool.end();
  const chunks = await readAll(spool, 1 << 20);
  t.match(spool.failure, /ENOTDIR/);
  t.equal(chunks[0]!.stream, Stream.SYSTEM);
  t.match(chunks[0]!.data.toString(), /left out \(the disk failed: ENOTDIR\)/);
  t.ok(bytesOf(spool.tail()!.chunks).equals(pattern(1 << 20).subarray(-65536)));
  await spool.dispose();
});
