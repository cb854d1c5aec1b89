import { test } from 'tap';
import { ManualClock } from '../../test/support/manual-clock.js';
import { RevocationList } from './revocation-list.js';

const MINUTE_MS = 60_000;

test('a list is signed when something was revoked or it grows old, never for a request', async (t) => {
  const clock = new ManualClock();
  const asked: number[] = [];
  let fails = false;
  const list = new RevocationList({
    clock,
    certificates: {
      revokedRows: async (endAfterMs) => {
        if (fails) throw new Error('the database is away');
        asked.push(clock.wallMs() - endAfterMs);
        return [];
      },
    },
    signer: {
      crlLifetimeMs: 60 * MINUTE_MS,
      signCrl: async (_, nowMs) => ({ der: Buffer.of(asked.length), thisUpdateMs: nowMs }),
    },
  });
  const numbers = async (count: number) =>
    Promise.all(Array.from({ length: count }, async () => (await list.current())[0]));
  t.same(await numbers(20), Array(20).fill(1), 'twenty at once, one signature');
  t.same(asked, [60 * MINUTE_MS], 'with what has ended within the life of a list');
  list.outdated();
  t.same(await numbers(2), [2, 2]);
  clock.advance(14 * MINUTE_MS);
  t.same(await numbers(1), [2]);
  clock.advance(MINUTE_MS);
  t.same(await numbers(2), [3, 3]);
  clock.jumpWall(-60 * MINUTE_MS);
  t.same(await numbers(1), [4], 'a list from the future is none');
  list.outdated();
  fails = true;
  await t.rejects(list.current(), /database is away/);
  fails = false;
  t.same(await numbers(1), [5], 'and the next one tries again');
});
