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

test('what comes twice is kept once, and nothing is sent before it is kept', async (t) => {
  const { outbox, journal } = await make();
  const [one, two] = [finishedOf([1, 0, 1]), finishedOf([1, 1, 1])];
  for (const item of [one, two]) outbox.add(item);
  t.strictSame(waiting(outbox), []);
  await outbox.store([one, one, two]);
  t.equal(journal.live, 2);
  t.strictSame(waiting(outbox), ['1.0.1', '1.1.1']);
  outbox.remove(refsOf([1, 0, 1], [1, 1, 1]));
  t.equal(journal.live, 0);
});

test('what was acknowledged, replaced or renumbered on its way into the journal pins nothing', async (t) => {
  const { outbox, journal } = await make();
  const items = [finishedOf([1, 0, 1]), finishedOf([1, 1, 1]), finishedOf([1, 2, 1]), finishedOf([1, 3, 1])];
  for (const item of items) outbox.add(item);
  const storing = outbox.store(items);
  outbox.remove(refsOf([1, 0, 1]));
  outbox.add(finishedOf([1, 1, 2]));
  const renumbered = outbox.renumber({ job: 1, index: 2, generation: 1 }, 9);
  await storing;
  t.equal(journal.live, 1);
  t.match(renumbered, { generation: 9 });
  await outbox.store([...outbox.all()]);
  t.strictSame(waiting(outbox), ['1.1.2', '1.2.9', '1.3.1']);
  t.equal(journal.live, 3);
});

test('results in an old segment are moved on', async (t) => {
  const { outbox, journal } = await make([1, 0, 1], [1, 1, 1]);
  outbox.remove(refsOf([1, 0, 1]));
  journal.vacate = 1;
  await keep(outbox, finishedOf([1, 2, 1]));
  t.strictSame(
    (await journal.load()).map(({ segment, items }) => [segment, ...items.map(refText)]),
    [
      [2, '1.2.1'],
      [3, '1.1.1'],
    ],
  );
});

test('a result with much output does not make a message too large', async (t) => {
  const output = { chunks: [{ stream: 1, offset: 0, atMs: 0, data: Buffer.alloc(64 * 1024) }], totalBytes: 64 * 1024 };
  const { outbox } = await make();
  const items = Array.from({ length: 100 }, (_, index) => finishedOf([1, index, 1], { output }));
  await keep(outbox, ...items);
  const batches = [...outbox.batches(1000)];
  t.strictSame(
    batches.map(({ items: { length } }) => length),
    [31, 31, 31, 7],
  );
});
