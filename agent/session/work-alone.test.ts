/** Work without a coordinator, without a disk, and after a restart. */
import { test } from 'tap';
import { type Finished, Outcome } from '../../proto/gen/mesh/v1/agent.js';
import { OnDisconnect, Stream } from '../../proto/gen/mesh/v1/common.js';
import {
  assignOf,
  endOf,
  makeWork,
  processBody,
  reconciled,
  RecordedUpstream,
  refsOf,
  refText,
  turn,
} from '../../test/support/agent-work.js';
import { MemoryJournal } from '../../test/support/memory-journal.js';

const outcomes = (results: readonly Finished[]) => results.map((item) => [refText(item), Outcome[item.outcome]]);

async function setup(t: Parameters<typeof makeWork>[0], slots?: number) {
  const parts = makeWork(t, slots);
  const upstream = new RecordedUpstream();
  await parts.work.connected(upstream, reconciled());
  return { ...parts, upstream };
}

const stopBody = (job: number) => ({ ...processBody(job), onDisconnect: OnDisconnect.STOP });

test('what is to stop without a coordinator is killed before the lease ends, and starts again with one', async (t) => {
  const { work, executor, upstream, clock, lease, time, fence } = await setup(t, 2);
  work.assign(assignOf(1, [0, 1], [stopBody(1)]));
  work.assign(assignOf(2, [0], [processBody(2)]));
  work.disconnected();
  clock.advance(12_999);
  t.strictSame(executor.launch(0).stopped, []);
  clock.advance(1);
  t.strictSame(executor.launch(0).stopped, [{ position: 0, reason: 'fenced' }], '2 s before the end of 15 s');
  t.strictSame(executor.launch(1).stopped, [{ position: 0, reason: 'fenced' }]);
  executor.launch(0).observer.ended(0, endOf('fenced'));
  t.strictSame(executor.launch(2).refs, ['2.0.1'], 'what may be kept still starts');
  work.assign(assignOf(1, [2], [stopBody(1)]));
  executor.launch(1).observer.ended(0, endOf('fenced'));
  t.equal(executor.launches.length, 3, 'what is to stop does not');
  lease.sent(1, time.now());
  lease.answered(1, time.now());
  fence.check();
  t.strictSame(executor.launch(3).refs, ['1.2.1']);
  await work.connected(upstream, reconciled());
  await turn();
  t.strictSame(
    outcomes(upstream.results),
    [
      ['1.0.1', 'SHUTDOWN'],
      ['1.1.1', 'SHUTDOWN'],
    ],
    'lost, and nobody is to blame',
  );
});

test('what waits is not started by a process that has slept through its lease', async (t) => {
  const { work, executor, boot } = await setup(t, 1);
  work.assign(assignOf(2, [0], [processBody(2)]));
  work.assign(assignOf(1, [0], [stopBody(1)]));
  boot.sleptMs = 60_000;
  executor.launch(0).observer.ended(0, endOf());
  t.equal(executor.launches.length, 1);
});

test('work is kept without a coordinator for as long as it was said, and not longer', async (t) => {
  const parts = makeWork(t, { slots: 1, keepForMs: 60_000 });
  const { work, executor, clock } = parts;
  work.assign(assignOf(1, [0, 1], [processBody(1)]));
  clock.advance(59_000);
  t.strictSame(executor.launch(0).stopped, []);
  clock.advance(1000);
  t.strictSame(executor.launch(0).stopped, [{ position: 0, reason: 'fenced' }]);
  executor.launch(0).observer.ended(0, endOf('fenced'));
  t.equal(executor.launches.length, 1, 'and nothing is started any more');
});

test('attempts that are taken back go on under their new generation, ended ones too', async (t) => {
  const { work, executor, upstream, outbox } = await setup(t, 2);
  work.assign(assignOf(1, [0, 1, 2], [processBody(1)]));
  work.disconnected();
  executor.launch(0).observer.ended(0, endOf());
  await turn();
  const attempts = refsOf([1, 0, 1], [1, 1, 1], [1, 7, 1]);
  await work.connected(upstream, reconciled(refsOf(), { attempts, generations: [5, 6, 7] }));
  await turn();
  executor.launch(1).observer.ended(0, endOf());
  await turn();
  t.strictSame(outcomes(upstream.results), [
    ['1.0.5', 'SUCCEEDED'],
    ['1.1.6', 'SUCCEEDED'],
  ]);
  t.strictSame(work.report().unacknowledged, refsOf([1, 0, 5], [1, 1, 6]));
  work.acknowledged(refsOf([1, 0, 5], [1, 1, 6]));
  t.strictSame([...outbox.all()], []);
  t.strictSame(work.report().unacknowledged, refsOf());
});

test('a result is in the journal before it is sent, and while its output is on its way', async (t) => {
  const { work, executor, upstream, journal, logs } = await setup(t);
  let arrived: () => void = () => undefined;
  logs.drained = () => new Promise((resolve) => (arrived = resolve));
  work.assign(assignOf(1, [0], [processBody(1)]));
  executor.launch(0).observer.output(0).write(Stream.STDOUT, Buffer.alloc(80_000, 'x'));
  executor.launch(0).observer.ended(0, endOf());
  while (journal.live === 0) await turn();
  t.strictSame(upstream.results, []);
  t.strictSame(work.report().unacknowledged, refsOf([1, 0, 1]));
  arrived();
  while (upstream.results.length === 0) await turn();
  t.equal(journal.appends, 1, 'once is enough');
  work.acknowledged(refsOf([1, 0, 1]));
  t.equal(journal.live, 0);
  await work.stop();
});

test('results of an earlier life are in the hello and are sent', async (t) => {
  const journal = new MemoryJournal();
  const before = makeWork(t, { journal });
  before.work.assign(assignOf(3, [8], [processBody(3)]));
  before.executor.launch(0).observer.ended(0, endOf());
  while (journal.live === 0) await turn();
  const { work, outbox } = makeWork(t, { journal });
  await outbox.start();
  t.strictSame(work.report().unacknowledged, refsOf([3, 8, 1]));
  const upstream = new RecordedUpstream();
  await work.connected(upstream, reconciled());
  t.strictSame(outcomes(upstream.results), [['3.8.1', 'SUCCEEDED']]);
  work.acknowledged(refsOf([3, 8, 1]));
  t.equal(journal.live, 0);
});

test('with a full disk results are sent all the same', async (t) => {
  const { work, executor, upstream, journal } = await setup(t);
  journal.full = true;
  work.assign(assignOf(1, [0], [processBody(1)]));
  executor.launch(0).observer.ended(0, endOf());
  await turn();
  t.strictSame(outcomes(upstream.results), [['1.0.1', 'SUCCEEDED']]);
  const second = new RecordedUpstream();
  await work.connected(second, reconciled());
  t.equal(second.results.length, 1, 'and again, until they are acknowledged');
});

test('an attempt whose output the disk would not take is the failure of the node', async (t) => {
  const { work, executor, upstream } = makeWorkWithoutDisk(t);
  await work.connected(upstream, reconciled());
  work.assign(assignOf(1, [0], [processBody(1)]));
  const sink = executor.launch(0).observer.output(0);
  for (let i = 0; i < 4; i++) sink.write(Stream.STDOUT, Buffer.alloc(64 * 1024, 'x'));
  executor.launch(0).observer.ended(0, endOf());
  while (upstream.results.length === 0) await turn();
  t.match(upstream.results, [{ outcome: Outcome.NODE_FAULT, error: /^the output could not be kept: the disk failed/ }]);
});

function makeWorkWithoutDisk(t: Parameters<typeof makeWork>[0]) {
  return { ...makeWork(t, { spoolDir: '/dev/null/nowhere' }), upstream: new RecordedUpstream() };
}
