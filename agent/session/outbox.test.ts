import { test } from 'tap';
import { silentLogger } from '../../common/log.js';
import type { Finished } from '../../proto/gen/mesh/v1/agent.js';
import { finishedOf, type Ref, refsOf, refText } from '../../test/support/agent-work.js';
import { ManualClock } from '../../test/support/manual-clock.js';
import { MemoryJournal } from '../../test/support/memory-journal.js';
import { Outbox } from './outbox.js';

const waiting = (outbox: Outbox): string[] => [...outbox.batches(10)].flatMap(({ items }) => items.map(refText));

async function keep(outbox: Outbox, ...items: Finished[]): Promise<Finished[]> {
  for (const item of items) outbox.add(item);
  return outbox.store(items);
}

async function make(...refs: Ref[]) {
  const clock = new ManualClock();
  const journal = new MemoryJournal();
  const outbox = new Outbox({ clock, journal, log: silentLogger });
  await keep(outbox, ...refs.map((ref) => finishedOf(ref)));
  return { clock, outbox, journal };
}

test('a result waits until it is removed in its own generation', async (t) => {
  const { outbox } = await make([1, 0, 2], [1, 1, 1], [2, 0, 1]);
  outbox.remove(refsOf([1, 0, 1], [1, 0, 3], [1, 7, 1], [9, 0, 1]));
  t.strictSame(waiting(outbox), ['1.0.2', '1.1.1', '2.0.1']);
  outbox.remove(refsOf([1, 0, 2], [2, 0, 1]));
  outbox.remove(refsOf([1, 0, 2]));
  t.strictSame(waiting(outbox), ['1.1.1']);
  outbox.remove(refsOf([1, 1, 1]));
  t.strictSame([...outbox.batches(10)], []);
});

test('a newer generation takes the place of an older one, never the other way', async (t) => {
  const { outbox } = await make([1, 0, 1], [1, 0, 3], [1, 0, 2]);
  t.strictSame(waiting(outbox), ['1.0.3']);
  outbox.remove(refsOf([1, 0, 1], [1, 0, 2]));
  t.strictSame(waiting(outbox), ['1.0.3']);
});

test('batches are bounded and keep order', async (t) => {
  const { outbox } = await make([1, 0, 1], [1, 1, 1], [1, 2, 1], [2, 0, 1]);
  const sizes = (max: number) => [...outbox.batches(max)].map(({ items }) => items.length);
  t.strictSame(sizes(3), [3, 1]);
  t.strictSame(sizes(2), [2, 2], 'no empty batch at the end');
  t.strictSame(sizes(4), [4]);
  t.strictSame(waiting(outbox), ['1.0.1', '1.1.1', '1.2.1', '2.0.1'], 'they are still there');
});

test('the age counts from the end of the attempt, whenever it is sent', async (t) => {
  const { clock, outbox } = await make([1, 0, 1]);
  clock.advance(400);
  await keep(outbox, finishedOf([1, 1, 1], { ageMs: 150 }));
  const ages = () => [...outbox.batches(10)].flatMap(({ items }) => items.map(({ ageMs }) => ageMs));
  t.strictSame(ages(), [400, 150]);
  clock.advance(1000);
  clock.jumpWall(-3_600_000);
  t.strictSame(ages(), [1400, 1150], 'the wall clock has no say');
});
