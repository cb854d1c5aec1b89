import { test } from 'tap';
import type { SucceededRun } from '../../proto/gen/mesh/v1/agent.js';
import { ManualClock } from '../../test/support/manual-clock.js';
import { GATHER_MS, Gatherer } from './gatherer.js';

const run = (first: number, count: number): SucceededRun => ({
  ...{ job: 1, first, ageMs: 0, resultsJson: ['null'], exitCode: 0 },
  runUs: Array.from({ length: count }, () => 1),
});

function setup() {
  const clock = new ManualClock();
  const sent: number[][] = [];
  const waiting = { queued: 0 };
  const send = (runs: SucceededRun[]) => void sent.push(runs.map(({ first }) => first));
  return { clock, sent, waiting, gatherer: new Gatherer({ clock, send, queued: () => waiting.queued }) };
}

test('while more waits than has ended, ends wait for each other', async (t) => {
  const { gatherer, waiting, sent } = setup();
  waiting.queued = 10;
  gatherer.add(run(0, 5));
  gatherer.weigh();
  t.strictSame(sent, []);
  waiting.queued = 8;
  gatherer.add(run(5, 3));
  gatherer.weigh();
  t.strictSame(sent, [[0, 5]], 'as many as still wait');
  gatherer.weigh();
  gatherer.release();
  t.equal(sent.length, 1, 'and each goes once');
});

test('none waits longer than the first may', async (t) => {
  const { gatherer, waiting, sent, clock } = setup();
  waiting.queued = 1000;
  gatherer.add(run(0, 1));
  clock.advance(GATHER_MS - 1);
  gatherer.add(run(1, 1));
  t.strictSame(sent, []);
  clock.advance(1);
  t.strictSame(sent, [[0, 1]]);
  gatherer.add(run(2, 1));
  clock.advance(GATHER_MS - 1);
  t.equal(sent.length, 1, 'the next begins anew');
  gatherer.release();
  clock.advance(GATHER_MS);
  t.strictSame(sent, [[0, 1], [2]]);
});
