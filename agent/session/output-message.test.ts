import { test } from 'tap';
import { StreamLogsRequest } from '../../proto/gen/mesh/v1/agent.js';
import { Stream } from '../../proto/gen/mesh/v1/common.js';
import { SeededRandom } from '../../test/support/random.js';
import { encodeOutput } from './output-message.js';

test('output is encoded as the generated encoder does it, whatever is in it', async (t) => {
  const random = new SeededRandom(13);
  for (let round = 0; round < 100; round++) {
    const chunks = Array.from({ length: random.integer(0, 5) }, () => ({
      stream: random.chance(0.5) ? Stream.STDOUT : Stream.UNSPECIFIED,
      offset: random.chance(0.3) ? 0 : random.integer(0, 2 ** 40),
      atMs: random.chance(0.3) ? 0 : random.integer(0, 2 ** 31),
      data: Buffer.alloc(random.chance(0.2) ? 0 : random.integer(0, 100_000), round),
    }));
    const request = { job: random.integer(0, 9), index: random.integer(0, 9), generation: 1, chunks };
    const pieces = encodeOutput(request);
    const frame = Buffer.alloc(pieces.byteLength + 5);
    t.equal(pieces.copy(frame, 5), pieces.length);
    const generated = Buffer.from(StreamLogsRequest.encode(request).finish());
    if (!frame.subarray(5).equals(generated)) t.fail(`round ${round}`);
  }
});
