import { type Test, test } from 'tap';
import { copied, rowOf } from '../../test/conformance/copies.js';
import { openTestStore, openTransaction, originals, withDatabase } from '../../test/support/postgres.js';
import { countsOf, retrying, settlement, untilBlocked } from '../../test/support/store-fixtures.js';
import type { PostgresStore } from './index.js';

/** Two connections, the second statement begun while the first is not committed. */
async function race(t: Test, part: 'original' | 'copy', check: Check): Promise<void> {
  const connection = await withDatabase(t, { migrated: true });
  const [one, two] = [await openTestStore(t, connection), await openTestStore(t, connection)];
  const made = await copied(one);
  const blocker = await openTransaction(t, two, `select 1 from job where seq = ${made.job.seq} for update`);
  const ahead = one.copies.settle(made.epoch, settlement(made[part], { resultJson: '"one"' }));
  await untilBlocked(two);
  const other = part === 'original' ? 'copy' : 'original';
  const behind = two.copies.settle(made.epoch, settlement(made[other], { resultJson: '"two"' }));
  await untilBlocked(two, 2);
  await blocker.commit();
  const [a, b] = await Promise.all([ahead, behind]);
  await check(one, made, a.accepted, b.accepted);
}

type Made = Awaited<ReturnType<typeof copied>>;
type Check = (store: PostgresStore, made: Made, one: boolean, two: boolean) => Promise<void>;

for (const part of ['original', 'copy'] as const)
  test(`two results at once over two connections, the ${part} ahead: one is accepted`, (t) =>
    race(t, part, async (store, { job }, one, two) => {
      t.not(one, two, 'exactly one');
      t.match(await rowOf(store, job), { status: 'COMPLETED', resultJson: one ? '"one"' : '"two"' });
      t.match(await countsOf(store, job.id), { completed: 1, assigned: 1 });
      t.equal(await originals(store), 0);
    }));

test('a failure and a failure at once over two connections: the second is the last', async (t) => {
  const connection = await withDatabase(t, { migrated: true });
  const [one, two] = [await openTestStore(t, connection), await openTestStore(t, connection)];
  const { epoch, job, original, copy } = await copied(one);
  const blocker = await openTransaction(t, two, `select 1 from job where seq = ${job.seq} for update`);
  const ahead = one.copies.settle(epoch, retrying(original));
  await untilBlocked(two);
  const behind = two.copies.settle(epoch, retrying(copy));
  await untilBlocked(two, 2);
  await blocker.commit();
  const ends = await Promise.all([ahead, behind]);
  t.same(
    ends.map(({ accepted, live }) => [accepted, live.length]).sort((a, b) => Number(b[1]) - Number(a[1])),
    [
      [true, 1],
      [true, 0],
    ],
    'neither goes by what was there before the other',
  );
  t.match(await rowOf(one, job), { status: 'RETRYING', failures: 2, generation: 2 });
  t.match(await countsOf(one, job.id), { retrying: 1, assigned: 1, running: 0 });
  t.equal(await originals(one), 0);
});
