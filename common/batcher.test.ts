import { test } from 'tap';
import { SeededRandom } from '../test/support/random.js';
import { Batcher } from './batcher.js';

test('what finds it idle goes at once; what comes during a flush goes together in the next', async (t) => {
  const flushed: number[][] = [];
  let release: () => void = () => undefined;
  const batcher = new Batcher<number>({
    itemsMax: 10,
    flush: async (items) => {
      flushed.push(items);
      await new Promise<void>((resolve) => (release = resolve));
    },
    onError: () => t.fail(),
  });
  batcher.add(1);
  await Promise.resolve();
  t.same(flushed, [[1]], 'in the same turn of the event loop');
  batcher.add(2);
  batcher.addAll([3, 4]);
  batcher.addAll([]);
  t.equal(batcher.size, 3);
  release();
  await new Promise((resolve) => setImmediate(resolve));
  t.same(flushed, [[1], [2, 3, 4]]);
  release();
  await batcher.idle();
  await batcher.idle();
  t.equal(batcher.size, 0);
});

test('order is kept, a flush is never too large, never two at a time, whatever comes when', async (t) => {
  const random = new SeededRandom(7);
  const seen: number[] = [];
  let flushing = 0;
  const batcher = new Batcher<number>({
    itemsMax: 7,
    flush: async (items) => {
      if (++flushing > 1 || items.length > 7 || items.length === 0)
        t.fail(`${flushing} flushes, ${items.length} items`);
      for (let turns = random.integer(0, 3); turns > 0; turns--) await new Promise((resolve) => setImmediate(resolve));
      seen.push(...items);
      flushing--;
    },
    onError: () => t.fail(),
  });
  let next = 0;
  for (let round = 0; round < 200; round++) {
    batcher.addAll(Array.from({ length: random.integer(0, 20) }, () => next++));
    if (random.chance(0.3)) await new Promise((resolve) => setImmediate(resolve));
  }
  await batcher.idle();
  t.same(
    seen,
    Array.from({ length: next }, (_, i) => i),
  );
});

test('a flush that fails hands its items back and the next batch goes on; they may be added again', async (t) => {
  const flushed: number[][] = [];
  let failures = 0;
  const batcher = new Batcher<number>({
    itemsMax: 2,
    flush: async (items) => {
      if (items.includes(1) && failures++ === 0) throw new Error('no');
      flushed.push(items);
    },
    onError: (error, items) => {
      t.match(error, { message: 'no' });
      t.same(items, [1, 2]);
      batcher.addAll(items);
    },
  });
  batcher.addAll([1, 2, 3]);
  await batcher.idle();
  t.same(
    flushed.flat().sort((a, b) => a - b),
    [1, 2, 3],
  );
});
