import { test } from 'tap';
import type { WirePieces } from '../../common/wire-pieces.js';
import { StreamLogsRequest } from '../../proto/gen/mesh/v1/agent.js';
import { Stream } from '../../proto/gen/mesh/v1/common.js';
import { ReadLogsResponse } from '../../proto/gen/mesh/v1/mesh.js';
import { SeededRandom } from '../../test/support/random.js';
import { decodeOutput, encodeLogs } from './log-message.js';

/** As gRPC puts it into its frame. */
function framed(pieces: WirePieces): Buffer {
  const frame = Buffer.alloc(pieces.length + 5);
  pieces.serialized.copy(frame, 5);
  return frame.subarray(5);
}

test('logs are encoded as the generated encoder does it, whatever is in them', async (t) => {
  const random = new SeededRandom(11);
  t.same(framed(encodeLogs({ items: [] })), Buffer.alloc(0));
  for (let round = 0; round < 100; round++) {
    const items = Array.from({ length: random.integer(1, 5) }, () => ({
      index: random.chance(0.3) ? 0 : random.integer(0, 1_000_000),
      attempt: random.integer(0, 300),
      stream: random.chance(0.5) ? Stream.STDOUT : Stream.UNSPECIFIED,
      atMs: random.chance(0.3) ? 0 : random.integer(0, 2 ** 31),
      data: Buffer.alloc(random.chance(0.2) ? 0 : random.integer(0, 100_000), round),
    }));
    const generated = Buffer.from(ReadLogsResponse.encode({ items }).finish());
    if (!framed(encodeLogs({ items })).equals(generated)) t.fail(`round ${round}`);
  }
});

const encoded = (chunks: StreamLogsRequest['chunks']): Buffer =>
  Buffer.from(StreamLogsRequest.encode({ job: 7, index: 3, generation: 2, chunks }).finish());

test('output is decoded as the generated decoder does it, whatever is in it', async (t) => {
  const random = new SeededRandom(12);
  for (let round = 0; round < 100; round++) {
    const chunks = Array.from({ length: random.integer(0, 6) }, () => ({
      stream: random.chance(0.8) ? Stream.STDERR : Stream.SYSTEM,
      offset: random.chance(0.3) ? 0 : random.integer(0, 2 ** 40),
      atMs: random.chance(0.3) ? 0 : random.integer(0, 2 ** 31),
      data: Buffer.alloc(random.chance(0.3) ? random.integer(0, 5) : random.integer(0, 100_000), round),
    }));
    const message = encoded(chunks);
    t.same(decodeOutput(message), StreamLogsRequest.decode(message), `round ${round}`);
  }
  t.throws(() => decodeOutput(encoded([chunkOf(1000)]).subarray(0, 500)), 'what is cut off is no message');
});

const chunkOf = (bytes: number, stream: Stream = Stream.STDOUT) => ({
  ...{ stream, offset: 1, atMs: 1 },
  data: Buffer.alloc(bytes, 'x'),
});

test('output stays in its message only where that is most of it', async (t) => {
  const isViewed = (message: Buffer, at: number): boolean =>
    decodeOutput(message).chunks[at]?.data.buffer === message.buffer;
  t.ok(isViewed(encoded([chunkOf(100_000), chunkOf(5)]), 1));
  t.notOk(isViewed(encoded([chunkOf(100_000, Stream.SYSTEM), chunkOf(5)]), 1), 'notes of the agent are not kept');
  const unknownField = Buffer.concat([Buffer.from([(15 << 3) | 2, 0x80, 0x80, 0x04]), Buffer.alloc(65_536)]);
  t.notOk(isViewed(Buffer.concat([encoded([chunkOf(5)]), unknownField]), 0), 'nor what nobody knows');
});
