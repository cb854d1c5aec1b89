import { test } from 'tap';
import { type Finished, Outcome } from '../../proto/gen/mesh/v1/agent.js';
import { Stream } from '../../proto/gen/mesh/v1/common.js';
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
import { emptyRefs } from '../core/refs.js';
import { isRun } from './results.js';

const outcomes = (results: readonly Finished[]) => results.map((item) => [refText(item), Outcome[item.outcome]]);

async function setup(t: Parameters<typeof makeWork>[0], slots?: number) {
  const parts = makeWork(t, slots);
  const upstream = new RecordedUpstream();
  await parts.work.connected(upstream, reconciled());
  return { ...parts, upstream };
}

test('assigned, started, told of, ended: its result is sent once', async (t) => {
  const { work, executor, upstream, clock, outbox } = await setup(t);
  work.assign(assignOf(1, [4, 5], [processBody(1)]));
  t.equal(executor.launches.length, 1, 'one slot, one launch');
  t.equal(work.running, 1);
  t.equal(work.queued, 1);
  const { observer, refs } = executor.launch(0);
  t.strictSame(refs, ['1.4.1']);
  clock.advance(100);
  observer.started(0, 20);
  clock.advance(150);
  t.strictSame(upstream.starts, [], 'too young to be told of');
  clock.advance(250);
  t.strictSame(upstream.starts, [{ ref: '1.4.1', ageMs: 420 }]);
  clock.advance(1000);
  t.equal(upstream.starts.length, 1, 'once');
  observer.output(0).write(Stream.STDOUT, Buffer.from('hello\n'));
  observer.ended(0, endOf());
  await turn();
  t.strictSame(outcomes(upstream.results), [['1.4.1', 'SUCCEEDED']]);
  t.match(upstream.results[0], { exitCode: 0, signal: '', error: '', runUs: 1500, peakMemoryBytes: 4096 });
  t.equal(upstream.results[0]?.output?.totalBytes, 6);
  t.strictSame(executor.launch(1).refs, ['1.5.1'], 'its slot goes to the next');
  work.acknowledged(refsOf([1, 4, 1]));
  t.strictSame([...outbox.all()], []);
  t.strictSame(work.report().unacknowledged, emptyRefs());
});

test('plain successes travel in runs, in one from index to index; what is not plain by itself', async (t) => {
  const { work, executor, upstream, outbox, ledger } = await setup(t);
  executor.together = 9;
  work.assign(assignOf(1, [0, 1, 2, 4, 5, 6, 7], [processBody(1)]));
  const { observer } = executor.launch(0);
  observer.output(3).write(Stream.STDOUT, Buffer.from('printed\n'));
  const long = JSON.stringify('x'.repeat(2000));
  observer.succeeded([0, 1, 2, 3, 4], ['null', 'null', '7', 'null', long], [10, 11.4, 12, 13, 14]);
  observer.succeeded([5], ['null'], [2 ** 33]);
  observer.succeeded([6], ['null'], [3]);
  await turn();
  t.strictSame(upstream.runs, [
    { job: 1, first: 0, ageMs: 0, runUs: [10, 11, 12], resultsJson: ['null', 'null', '7'], exitCode: undefined },
    { job: 1, first: 7, ageMs: 0, runUs: [3], resultsJson: ['null'], exitCode: undefined },
  ]);
  t.strictSame(outcomes(upstream.results), [
    ['1.4.1', 'SUCCEEDED'],
    ['1.5.1', 'SUCCEEDED'],
    ['1.6.1', 'SUCCEEDED'],
  ]);
  t.equal(upstream.results[0]?.output?.totalBytes, 8);
  t.equal(ledger.slotsHeld, 0, 'and their room is free');
  t.equal(work.report().unacknowledged.indexes.length, 7);
  work.acknowledgedRuns({ jobs: [1, 1], firsts: [0, 7], counts: [3, 1] });
  work.acknowledged(refsOf([1, 4, 1], [1, 5, 1], [1, 6, 1]));
  t.strictSame(work.report().unacknowledged, emptyRefs());
  t.strictSame([...outbox.all()], []);
});

test('runs of commands wait for each other while more waits to begin; what is told at once takes them along', async (t) => {
  const { work, executor, upstream, clock, outbox } = await setup(t);
  const firsts = () => upstream.runs.map(({ first, ageMs }) => `${first}, ${ageMs} ms ago`);
  const succeed = (launch: number) => executor.launch(launch).observer.succeeded([0, 1], ['', ''], [1, 1], 0);
  executor.together = 2;
  work.assign(assignOf(1, [...Array(20).keys()], [processBody(1)]));
  succeed(0);
  clock.advance(100);
  succeed(1);
  await turn();
  t.strictSame(firsts(), [], 'sixteen wait to begin');
  t.equal([...outbox.all()].length, 2, 'and these are known to have ended');
  executor.launch(2).observer.ended(0, endOf('failed'));
  await turn();
  t.strictSame(outcomes(upstream.results), [['1.4.1', 'FAILED']]);
  t.strictSame(firsts(), ['0, 100 ms ago', '2, 0 ms ago']);
  executor.launch(2).observer.ended(1, endOf());
  for (const launch of [3, 4, 5]) succeed(launch);
  await turn();
  t.equal(upstream.runs.length, 2, 'eight wait, six have ended');
  succeed(6);
  await turn();
  t.strictSame(
    upstream.runs.slice(2).map(({ first }) => first),
    [6, 8, 10, 12],
  );
});

test('what waits for others is kept and sent when the agent stops', async (t) => {
  const { work, executor, upstream } = await setup(t);
  executor.together = 2;
  work.assign(assignOf(1, [...Array(10).keys()], [processBody(1)]));
  work.fence('all');
  executor.launch(0).observer.succeeded([0, 1], ['', ''], [1, 1], 0);
  await turn();
  t.strictSame(upstream.runs, [], 'eight wait, and nothing begins');
  await work.stop();
  t.match(upstream.runs, [{ first: 0, runUs: [1, 1] }]);
});

test('of a run, what was superseded or is of a later generation is no part', async (t) => {
  const { work, executor, upstream } = await setup(t);
  executor.together = 9;
  work.assign(assignOf(1, [0, 1, 2], [processBody(1)]));
  work.assign(assignOf(1, [1], [], 2));
  executor.launch(0).observer.succeeded([0, 1, 2], ['1', '2', '3'], [1, 1, 1]);
  executor.launch(1).observer.succeeded([0], ['4'], [1]);
  await turn();
  t.strictSame(
    upstream.runs.map(({ first, resultsJson }) => [first, ...resultsJson]),
    [
      [0, '1'],
      [2, '3'],
    ],
  );
  t.match(upstream.results, [{ index: 1, generation: 2, resultJson: '4' }]);
});

test('how an attempt ended is passed on', async (t) => {
  const { work, executor, upstream } = await setup(t, 10);
  const ends = ['failed', 'timed-out', 'shutdown', 'node-fault'] as const;
  work.assign(assignOf(1, [0, 1, 2, 3], [processBody(1)]));
  ends.forEach((outcome, i) => executor.launch(i).observer.ended(0, { ...endOf(outcome), error: outcome }));
  await turn();
  t.strictSame(
    upstream.results.map(({ outcome, error }) => [Outcome[outcome], error]),
    [
      ['FAILED', 'failed'],
      ['TIMED_OUT', 'timed-out'],
      ['SHUTDOWN', 'shutdown'],
      ['NODE_FAULT', 'node-fault'],
    ],
  );
});

test('what is returned starts again, those behind it stay behind it', async (t) => {
  const { work, executor, upstream } = await setup(t);
  executor.together = 3;
  work.assign(assignOf(1, [0, 1, 2], [processBody(1)]));
  t.strictSame(executor.launch(0).refs, ['1.0.1', '1.1.1', '1.2.1']);
  executor.launch(0).observer.returned([1, 2]);
  t.equal(executor.launches.length, 1, 'the first holds the slot');
  executor.launch(0).observer.ended(0, endOf());
  t.strictSame(executor.launch(1).refs, ['1.1.1', '1.2.1']);
  await turn();
  t.strictSame(outcomes(upstream.results), [['1.0.1', 'SUCCEEDED']]);
});

test('cancel: what waits ends at once, what runs when it is dead, what is not here is said to be gone', async (t) => {
  const { work, executor, upstream } = await setup(t);
  work.assign(assignOf(1, [0, 1], [processBody(1)]));
  const { observer, stopped } = executor.launch(0);
  observer.started(0, 0);
  work.cancel(refsOf([1, 0, 1], [1, 1, 1], [1, 2, 1], [1, 1, 9]));
  await turn();
  t.strictSame(stopped, [{ position: 0, reason: 'cancelled' }]);
  const gone = ['1.1.1', '1.2.1', '1.1.9'].map((ref) => [ref, 'CANCELLED']);
  t.strictSame(outcomes(upstream.results), gone);
  t.equal(work.running, 1, 'it runs until the executor says that it does not');
  observer.ended(0, endOf('cancelled'));
  await turn();
  t.strictSame(outcomes(upstream.results), [...gone, ['1.0.1', 'CANCELLED']]);
  t.equal(executor.launches.length, 1, 'what waited is not started');
});

test('cancel comes too late for what has ended: its own result counts', async (t) => {
  const { work, executor, upstream } = await setup(t);
  work.assign(assignOf(1, [0], [processBody(1)]));
  executor.launch(0).observer.ended(0, endOf());
  work.cancel(refsOf([1, 0, 1]));
  await turn();
  t.strictSame(outcomes(upstream.results), [['1.0.1', 'SUCCEEDED']]);
});

test('a higher generation supersedes: the old one is stopped and its end is nobody’s business', async (t) => {
  const { work, executor, upstream } = await setup(t);
  work.assign(assignOf(1, [0], [processBody(1)], 2));
  work.assign(assignOf(1, [0], [], 1));
  work.assign(assignOf(1, [0], [], 2));
  const { stopped, observer } = executor.launch(0);
  t.strictSame(stopped, [], 'a repeated or late assignment changes nothing');
  t.equal(work.queued, 0);
  work.assign(assignOf(1, [0], [], 3));
  t.strictSame(stopped, [{ position: 0, reason: 'cancelled' }]);
  t.equal(executor.launches.length, 1, 'it waits for the slot');
  observer.ended(0, endOf());
  executor.launch(1).observer.ended(0, endOf('failed'));
  await turn();
  t.strictSame(outcomes(upstream.results), [['1.0.3', 'FAILED']]);
});

test('retract: what waits is dropped, what runs is kept', async (t) => {
  const { work, executor, upstream } = await setup(t);
  work.assign(assignOf(1, [0, 1, 2], [processBody(1)]));
  work.retract(refsOf([1, 0, 1], [1, 1, 1], [7, 7, 7]));
  t.strictSame(upstream.retractions, [{ dropped: refsOf([1, 1, 1], [7, 7, 7]), kept: refsOf([1, 0, 1]) }]);
  executor.launch(0).observer.ended(0, endOf());
  t.strictSame(executor.launch(1).refs, ['1.2.1'], 'what was dropped does not run');
});

test('results are sent again with every session until they are acknowledged', async (t) => {
  const { work, executor, upstream, clock } = await setup(t, 3);
  work.assign(assignOf(1, [0, 1, 2], [processBody(1)]));
  executor.launch(0).observer.ended(0, endOf());
  await turn();
  t.strictSame(outcomes(upstream.results), [['1.0.1', 'SUCCEEDED']]);
  work.disconnected();
  executor.launch(1).observer.ended(0, endOf('failed'));
  executor.launch(2).observer.started(0, 0);
  await turn();
  t.equal(upstream.results.length, 1, 'nobody is there to hear of it');
  t.strictSame(work.report(), {
    prefilled: emptyRefs(),
    running: refsOf([1, 2, 1]),
    unacknowledged: refsOf([1, 0, 1], [1, 1, 1]),
    runningAgeMs: [0],
  });
  clock.advance(5000);

  const second = new RecordedUpstream();
  await work.connected(second, reconciled());
  t.strictSame(outcomes(second.results), [
    ['1.0.1', 'SUCCEEDED'],
    ['1.1.1', 'FAILED'],
  ]);
  t.strictSame(
    second.results.map(({ ageMs }) => ageMs),
    [5000, 5000],
  );
  clock.advance(250);
  t.match(second.starts, [{ ref: '1.2.1' }], 'each coordinator hears what runs');
  work.acknowledged(refsOf([1, 1, 1]));

  const third = new RecordedUpstream();
  await work.connected(third, reconciled());
  t.strictSame(outcomes(third.results), [['1.0.1', 'SUCCEEDED']]);
  work.acknowledged(refsOf([1, 0, 1]));
  const fourth = new RecordedUpstream();
  await work.connected(fourth, reconciled());
  t.strictSame(fourth.results, []);
});

test('what the welcome calls superseded is stopped and forgotten, results included', async (t) => {
  const { work, executor, outbox } = await setup(t, 2);
  work.assign(assignOf(1, [0, 1, 2], [processBody(1)]));
  executor.launch(0).observer.ended(0, endOf());
  await turn();
  const second = new RecordedUpstream();
  await work.connected(second, reconciled(refsOf([1, 0, 1], [1, 1, 1])));
  t.strictSame(executor.launch(1).stopped, [{ position: 0, reason: 'cancelled' }]);
  executor.launch(1).observer.ended(0, endOf('cancelled'));
  await turn();
  t.strictSame(second.results, []);
  t.strictSame([...outbox.all()], []);
  t.strictSame(work.report().running, refsOf([1, 2, 1]), 'the rest goes on');
});

test('an attempt superseded while its output was on its way does not take the place of its successor', async (t) => {
  const { work, executor, outbox, logs } = await setup(t);
  let stored: () => void = () => undefined;
  logs.drained = () => new Promise((resolve) => (stored = resolve));
  work.assign(assignOf(1, [0], [processBody(1)]));
  executor
    .launch(0)
    .observer.output(0)
    .write(Stream.STDOUT, Buffer.alloc(65 * 1024));
  executor.launch(0).observer.ended(0, endOf('failed'));
  work.assign(assignOf(1, [0], [], 2));
  executor.launch(1).observer.ended(0, endOf());
  stored();
  await work.idle();
  await turn();
  t.strictSame(outcomes([...outbox.all()].filter((result): result is Finished => !isRun(result))), [
    ['1.0.2', 'SUCCEEDED'],
  ]);
});

test('refuse gives back what waits and takes nothing more; what runs may end', async (t) => {
  const { work, executor, upstream } = await setup(t);
  work.assign(assignOf(1, [0, 1, 2], [processBody(1)]));
  work.refuse();
  t.ok(work.refuses);
  t.strictSame(upstream.retractions, [{ dropped: refsOf([1, 1, 1], [1, 2, 1]), kept: emptyRefs() }]);
  work.assign(assignOf(1, [3]));
  t.strictSame(upstream.retractions[1], { dropped: refsOf([1, 3, 1]), kept: emptyRefs() });
  t.strictSame(executor.launch(0).stopped, []);
  executor.launch(0).observer.ended(0, endOf());
  await work.idle();
  await turn();
  t.strictSame(outcomes(upstream.results), [['1.0.1', 'SUCCEEDED']]);
  t.equal(executor.launches.length, 1);
});

test('stop kills what runs and waits for its end', async (t) => {
  const { work, executor, upstream } = await setup(t);
  work.assign(assignOf(1, [0], [processBody(1)]));
  const stopping = work.stop();
  const { stopped, observer } = executor.launch(0);
  t.strictSame(stopped, [{ position: 0, reason: 'shutdown' }]);
  observer.ended(0, endOf('shutdown'));
  await stopping;
  t.strictSame(outcomes(upstream.results), [['1.0.1', 'SHUTDOWN']]);
});

test('a body is sent once a session: later groups refer to it, also after its tasks are gone', async (t) => {
  const { work, executor, upstream } = await setup(t);
  work.assign(assignOf(1, [0], [processBody(1, ['first'])]));
  executor.launch(0).observer.ended(0, endOf());
  work.acknowledged(refsOf([1, 0, 1]));
  work.assign(assignOf(1, [1]));
  t.match(executor.launch(1).spec.body.work, { value: { argv: ['first'] } });
  executor.launch(1).observer.ended(0, endOf());
  work.acknowledged(refsOf([1, 1, 1]));

  await work.connected(upstream, reconciled());
  work.assign(assignOf(1, [2]));
  t.equal(executor.launches.length, 2, 'a new session begins with no bodies');
  work.assign(assignOf(1, [2], [processBody(1, ['second'])]));
  t.match(executor.launch(2).spec.body.work, { value: { argv: ['second'] } });
});

test('a node that cannot run it says so, for every task at once', async (t) => {
  const { work, executor, upstream } = await setup(t);
  const large = { ...processBody(1), resources: { cpuMillis: 0, memoryBytes: 5000, gpus: 0, custom: {} } };
  const foreign = { ...processBody(2), work: undefined };
  work.assign({
    epoch: 1,
    bodies: [large, foreign],
    groups: [...assignOf(1, [0]).groups, ...assignOf(2, [0, 1]).groups],
    secrets: [],
  });
  await turn();
  t.strictSame(executor.launches, []);
  t.strictSame(outcomes(upstream.results), [
    ['1.0.1', 'NODE_FAULT'],
    ['2.0.1', 'NODE_FAULT'],
    ['2.1.1', 'NODE_FAULT'],
  ]);
  for (const { error } of upstream.results) t.not(error, '');
  t.equal(work.running, 0);
  t.equal(work.queued, 0);
});

test('a job’s secrets are there as long as attempts of it are, and are those that came last', async (t) => {
  const { work, executor, ledger } = await setup(t);
  const use = { name: 'TOKEN', variable: 'TOKEN', file: false, owner: '' };
  const body = { ...processBody(1), secrets: [use] };
  const assign = (index: number, generation: number, value: string, bodies = [body]) =>
    work.assign({
      ...assignOf(1, [index], bodies, generation),
      secrets: [{ job: 1, values: [Buffer.from(value)] }],
    });
  const given = (launch: number) => executor.launch(launch).spec.secrets?.values.map(String);
  work.assign(assignOf(2, [0], [processBody(2)]));
  t.same(given(0), undefined, 'none for a job that asks for none');
  // Waits for the slot, and makes way for its own next generation.
  assign(1, 1, 'first');
  assign(1, 2, 'second');
  executor.launch(0).observer.ended(0, endOf());
  t.same(given(1), ['second']);
  executor.launch(1).observer.ended(0, endOf());
  work.acknowledged(refsOf([1, 1, 2]));
  ledger.assign(assignOf(1, [2]).groups);
  t.same(ledger.launch(() => 1)[0]?.secrets, undefined, 'with the last attempt they are forgotten');
});
