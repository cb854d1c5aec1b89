import { test } from 'tap';
import { Stream } from '../../proto/gen/mesh/v1/common.js';
import { ReadLogsResponse } from '../../proto/gen/mesh/v1/mesh.js';
import { SeededRandom } from '../../test/support/random.js';
import { encodeLogs } from './log-message.js';

test('logs are encoded as the generated encoder does it, whatever is in them', async (t) => {
  const random = new SeededRandom(11);
  t.same(encodeLogs({ items: [] }), Buffer.alloc(0));
  for (let round = 0; round < 100; round++) {
    const items = Array.from({ length: random.integer(1, 5) }, () => ({
      index: random.chance(0.3) ? 0 : random.integer(0, 1_000_000),
      attempt: random.integer(0, 300),
      stream: random.chance(0.5) ? Stream.STDOUT : Stream.UNSPECIFIED,
      atMs: random.chance(0.3) ? 0 : random.integer(0, 2 ** 31),
      data: Buffer.alloc(random.chance(0.2) ? 0 : random.integer(0, 100_000), round),
    }));
    const generated = Buffer.from(ReadLogsResponse.encode({ items }).finish());
    if (!encodeLogs({ items }).equals(generated)) t.fail(`round ${round}`);
  }
});
