import { test } from 'tap';
import { silentLogger } from '../../common/log.js';
import type { SucceededRun, TaskRuns } from '../../proto/gen/mesh/v1/agent.js';
import { finishedOf, type Ref, refsOf, refText } from '../../test/support/agent-work.js';
import { ManualClock } from '../../test/support/manual-clock.js';
import { MemoryJournal } from '../../test/support/memory-journal.js';
import { Outbox } from './outbox.js';
import { refsOf as attemptsIn, type Result } from './results.js';

const texts = (results: Result[]): string[] => results.flatMap((result) => [...attemptsIn(result)].map(refText));
const waiting = (outbox: Outbox): string[] => texts([...outbox.batches(10)].flat());

async function keep(outbox: Outbox, ...items: Result[]): Promise<Result[]> {
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
  const sizes = (max: number) => [...outbox.batches(max)].map(({ length }) => length);
  t.strictSame(sizes(3), [3, 1]);
  t.strictSame(sizes(2), [2, 2], 'no empty batch at the end');
  t.strictSame(sizes(4), [4]);
  t.strictSame(waiting(outbox), ['1.0.1', '1.1.1', '1.2.1', '2.0.1'], 'they are still there');
});

test('the age counts from the end of the attempt, whenever it is sent', async (t) => {
  const { clock, outbox } = await make([1, 0, 1]);
  clock.advance(400);
  await keep(outbox, finishedOf([1, 1, 1], { ageMs: 150 }));
  const ages = () => {
    outbox.nothingSent();
    return [...outbox.batches(10)].flatMap((results) => outbox.take(results).map(({ ageMs }) => ageMs));
  };
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
    batches.map(({ length }) => length),
    [31, 31, 31, 7],
  );
});

const runOf = (job: number, first: number, results: string[], more: Partial<SucceededRun> = {}): SucceededRun => ({
  ...{ job, first, ageMs: 0, runUs: results.map((_, place) => place + 1), resultsJson: results },
  ...more,
});
const runsOf = (...runs: [job: number, first: number, count: number][]): TaskRuns => ({
  jobs: runs.map(([job]) => job),
  firsts: runs.map(([, first]) => first),
  counts: runs.map(([, , count]) => count),
});

test('a run is kept and sent as one, and goes with its acknowledgement', async (t) => {
  const { outbox, journal, clock } = await make();
  const run = runOf(1, 3, ['1', '2', '3']);
  t.strictSame(await keep(outbox, run, finishedOf([1, 9, 1])), [run, finishedOf([1, 9, 1])]);
  t.equal(journal.live, 4);
  t.equal(journal.appends, 1);
  clock.advance(1000);
  const [sent, single] = outbox.take([...outbox.batches(10)].flat());
  t.strictSame(sent, { ...run, ageMs: 1000 });
  t.match(single, { index: 9, ageMs: 1000 });
  t.strictSame([...outbox.batches(10)], [], 'once in a session');
  t.ok(outbox.inFlightBytes > 0);
  outbox.removeRuns(runsOf([1, 3, 3]));
  outbox.removeRuns(runsOf([1, 3, 3], [7, 0, 2]));
  t.equal(journal.live, 1);
  outbox.remove(refsOf([1, 9, 1]));
  t.equal(outbox.inFlightBytes, 0);
  t.strictSame([...outbox.all()], []);
});

test('runs that are acknowledged together, or in part, leave exactly what is still owed', async (t) => {
  const { outbox, journal } = await make();
  await keep(outbox, runOf(1, 0, ['1', '2']), runOf(1, 2, ['3', '4', '5']), runOf(1, 5, ['6', '7']));
  outbox.take([...outbox.batches(10)].flat());
  outbox.removeRuns(runsOf([1, 0, 3]));
  outbox.nothingSent();
  t.strictSame(waiting(outbox).sort(), ['1.3.1', '1.4.1', '1.5.1', '1.6.1']);
  t.equal(journal.live, 4);
  outbox.remove(refsOf([1, 6, 1], [1, 6, 2], [1, 1, 1]));
  t.strictSame(waiting(outbox).sort(), ['1.3.1', '1.4.1', '1.5.1']);
  outbox.removeRuns(runsOf([1, 3, 1], [1, 4, 2]));
  t.equal(journal.live, 0);
  t.equal(outbox.inFlightBytes, 0);
  t.strictSame([...outbox.all()], []);
});

test('one of a run goes on under another generation, the others as they were', async (t) => {
  const { outbox, journal } = await make();
  await keep(outbox, runOf(1, 0, ['1', '2', '3']));
  const renumbered = outbox.renumber({ job: 1, index: 1, generation: 1 }, 4);
  t.match(renumbered, { index: 1, generation: 4, resultJson: '2', runUs: 2 });
  await outbox.store([renumbered as Result]);
  t.strictSame(waiting(outbox).sort(), ['1.0.1', '1.1.4', '1.2.1']);
  t.equal(journal.live, 3);
});

test('a run that is taken apart on its way into the journal is kept in parts and pins nothing', async (t) => {
  const { outbox, journal } = await make();
  const [early, late] = [runOf(1, 0, ['"a"']), runOf(1, 1, ['1', '2', '3'])];
  outbox.add(early);
  outbox.add(late);
  t.match(outbox.takeApart(early), [{ index: 0, generation: 1, resultJson: '"a"' }]);
  const storing = outbox.store([early, late]);
  t.strictSame(waiting(outbox), [], 'nothing is sent before it is kept');
  outbox.remove(refsOf([1, 2, 1]));
  t.strictSame(texts(await storing), ['1.0.1', '1.1.1', '1.2.1', '1.3.1']);
  t.equal(journal.live, 3);
  t.strictSame(waiting(outbox), ['1.0.1', '1.1.1', '1.3.1']);
  t.strictSame(texts(outbox.take([early, late])), ['1.0.1', '1.1.1', '1.3.1'], 'who holds the run sends what is left');
  outbox.remove(refsOf([1, 0, 1], [1, 1, 1], [1, 3, 1]));
  t.equal(journal.live, 0);
});

test('runs survive the agent, and are moved out of an old segment', async (t) => {
  const { journal, outbox } = await make();
  await keep(outbox, runOf(1, 0, ['1', '2']), runOf(2, 0, ['null'], { runUs: [5, 6, 7] }));
  outbox.removeRuns(runsOf([1, 0, 2]));
  journal.vacate = 1;
  await keep(outbox, runOf(3, 0, ['3']));
  const next = new Outbox({ clock: new ManualClock(), journal, log: silentLogger });
  await next.start();
  t.strictSame(waiting(next), ['3.0.1', '2.0.1', '2.1.1', '2.2.1']);
  next.removeRuns(runsOf([2, 0, 3], [3, 0, 1]));
  t.equal(journal.live, 0);
});
