import { PassThrough } from 'node:stream';
import { test } from 'tap';
import { Stream } from '../../proto/gen/mesh/v1/common.js';
import type { LogEntry } from '../../proto/gen/mesh/v1/mesh.js';
import { type LogWriterOptions, makeLogWriter } from './log-writer.js';

const entry = (index: number, data: string | Buffer, stream = Stream.STDOUT): LogEntry => ({
  index,
  attempt: 1,
  stream,
  atMs: Date.UTC(2026, 0, 1),
  data: Buffer.from(data as string),
});

async function written(format: LogWriterOptions['format'], prefix: boolean, entries: LogEntry[]) {
  const [stdout, stderr] = [new PassThrough(), new PassThrough()];
  const streams = { stdout, stderr } as unknown as { stdout: NodeJS.WriteStream; stderr: NodeJS.WriteStream };
  const writer = makeLogWriter({ format, job: 'j', prefix, ...streams });
  for (const one of entries) await writer.push(one);
  await writer.end();
  return { out: (stdout.read() as Buffer | null) ?? Buffer.alloc(0), err: String(stderr.read() ?? '') };
}

const [first, second] = [Buffer.from('ä').subarray(0, 1), Buffer.from('ä').subarray(1)];

test('piped output is passed on byte by byte; notes of the mesh are not part of it', async (t) => {
  const bytes = Buffer.from([0, 27, 255, 13, 10]);
  const { out, err } = await written('raw', true, [entry(0, bytes), entry(0, '5 MiB left out', Stream.SYSTEM)]);
  t.same(out, bytes);
  t.equal(err, '5 MiB left out\n');
});

test('on a terminal each line of several tasks says whose it is', async (t) => {
  const { out } = await written('terminal', true, [
    entry(0, 'one\ntw'),
    entry(1, 'other\n'),
    entry(0, 'o\n\u001b[2J\n'),
    entry(1, 'note', Stream.SYSTEM),
  ]);
  t.equal(out.toString(), '0| one\n0| tw\n1| other\n0| o\n0| ␛[2J\n1| note\n');
});

test('on a terminal characters split between chunks stay whole', async (t) => {
  const { out } = await written('terminal', false, [entry(0, first), entry(0, second), entry(0, '!\r')]);
  t.equal(out.toString(), 'ä!␍');
});

test('JSON lines have the shape of the contract, with whole characters', async (t) => {
  const { out } = await written('json', true, [
    entry(3, first),
    entry(3, 'err', Stream.STDERR),
    entry(3, second),
    entry(3, first),
  ]);
  const lines = out
    .toString()
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as object);
  const common = { job: 'j', index: 3, attempt: 1, at: '2026-01-01T00:00:00.000Z' };
  t.strictSame(lines, [
    { ...common, stream: 'stderr', text: 'err' },
    { ...common, stream: 'stdout', text: 'ä' },
    { ...common, stream: 'stdout', text: '\ufffd' },
  ]);
});
