import { test } from 'tap';
import { SeededRandom } from '../test/support/random.js';
import { backoffMs } from './retry.js';

test('a backoff lies between zero and its ceiling, which doubles up to the cap', async (t) => {
  const random = new SeededRandom(3);
  for (let i = 0; i < 2000; i++) {
    const backoff = {
      baseMs: random.integer(0, 500) + random.next(),
      capMs: random.integer(1, 10_000) + random.next(),
    };
    const attempt = random.integer(1, 2000);
    const ceiling = Math.min(backoff.capMs, backoff.baseMs * 2 ** Math.min(attempt - 1, 60));
    const draw = random.chance(0.1) ? 1 - Number.EPSILON : random.next();
    const waitMs = backoffMs(backoff, attempt, draw);
    if (!(Number.isInteger(waitMs) && waitMs >= 0 && waitMs <= ceiling))
      t.fail(`${waitMs} of ${JSON.stringify(backoff)} at ${attempt} with ${draw}`);
  }
  t.same(
    [1, 2, 3, 4, 9].map((attempt) => backoffMs({ baseMs: 100, capMs: 1000 }, attempt, 1 - Number.EPSILON)),
    [100, 200, 400, 800, 1000],
  );
  t.equal(backoffMs({ baseMs: 100, capMs: 1000 }, 3, 0), 0);
});
