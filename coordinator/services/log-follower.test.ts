import { test } from 'tap';
import { type OutputChunk, Stream } from '../../proto/gen/mesh/v1/common.js';
import type { LogEntry } from '../../proto/gen/mesh/v1/mesh.js';
import type { JobRow } from '../ports.js';
import { Changes } from './changes.js';
import type { Jobs } from './jobs.js';
import { type Behind, Follower } from './log-follower.js';

const PIECE = 2 ** 18;
const chunk = (offset: number, bytes: number): OutputChunk => ({
  ...{ stream: Stream.STDOUT, offset, atMs: 0 },
  data: Buffer.alloc(bytes, 'x'),
});

/** A follower of job 1, which is over, whose attempts are stored as two bytes each. */
function make() {
  const changes = new Changes();
  const asked: [number, number][] = [];
  const follower = new Follower({
    changes,
    jobs: { get: () => undefined } as unknown as Jobs,
    job: { seq: 1, status: 'COMPLETED' } as JobRow,
    ...{ index: undefined, gone: new AbortController().signal, shown: new Map() },
    async *stored({ index }: Behind, fromOffset: number) {
      asked.push([index, fromOffset]);
      yield chunk(fromOffset, 2);
    },
    taskEnded: async () => false,
  });
  const emit = (index: number, ...chunks: OutputChunk[]) =>
    changes.output.emit(1, { job: 1, index, generation: 1, attempt: 1, startedAtMs: 0, chunks, last: false });
  const read = async (): Promise<LogEntry[]> => {
    const entries: LogEntry[] = [];
    for await (const some of follower.rest()) entries.push(...some);
    return entries;
  };
  return { asked, emit, read };
}

test('within the bound nothing is read again; beyond it everything is, once for each attempt', async (t) => {
  const { asked, emit, read } = make();
  for (let i = 0; i < 3; i++) emit(0, chunk(i * PIECE, PIECE));
  t.equal((await read()).length, 3);
  t.strictSame(asked, []);
  for (let i = 3; i < 9; i++) {
    emit(0, chunk(i * PIECE, PIECE));
    emit(1, chunk((i - 3) * PIECE, PIECE));
  }
  const entries = await read();
  t.strictSame(asked, [
    [0, 3 * PIECE],
    [1, 0],
  ]);
  t.strictSame(
    entries.slice(0, 2).map(({ index, data }) => [index, data.length]),
    [
      [0, 2],
      [1, 2],
    ],
  );
});

test('events without output count too, and of too many attempts the oldest are given up, with a note', async (t) => {
  const { asked, emit, read } = make();
  for (let index = 0; index < 40_000; index++) emit(index);
  const entries = await read();
  const [note] = entries;
  t.equal(note?.stream, Stream.SYSTEM);
  const [givenUp] = /\d+/.exec(Buffer.from(note?.data ?? []).toString()) ?? [];
  t.ok(Number(givenUp) > 0);
  t.equal(Number(givenUp) + asked.length, asked[asked.length - 1]![0] + 1, 'every attempt is read or counted');
  t.equal(asked.length, 20_000);
});
