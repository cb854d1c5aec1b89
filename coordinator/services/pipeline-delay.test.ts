import { test } from 'tap';
import { ManualClock } from '../../test/support/manual-clock.js';
import { PipelineDelay } from './pipeline-delay.js';
import { waitedMs } from './result-runs.js';

test('what nodes hold back counts apart from what the coordinator takes, and what nobody waited for does not count', (t) => {
  const clock = new ManualClock();
  const delay = new PipelineDelay(clock, 50, 1000);
  t.same([delay.ms, delay.heldMs], [50, 0]);
  const round = (tookMs: number, ...heldMs: number[]) => {
    for (const ms of heldMs) delay.freed(clock.monotonicMs(), ms);
    clock.advance(tookMs);
    delay.told();
  };
  for (let i = 0; i < 20; i++) round(100, 10, 250, 0);
  t.same([delay.ms, delay.heldMs].map(Math.round), [200, 250], 'the longest of those that came together');
  delay.freed(clock.monotonicMs(), 900);
  delay.idle();
  round(100, 250);
  t.equal(Math.round(delay.heldMs), 250);
  for (let i = 0; i < 20; i++) round(100, 5000);
  t.equal(delay.heldMs, 1000, 'bounded');
  for (let i = 0; i < 200; i++) round(10, 0);
  t.same([delay.ms, Math.round(delay.heldMs)], [50, 0], 'and forgotten');
  t.end();
});

test('the first of a run of commands has waited while the others ran; functions are told at once', (t) => {
  const run = { job: 1, first: 0, ageMs: 0, runUs: [9000, 2000, 3000], resultsJson: [] };
  t.equal(waitedMs({ ...run, exitCode: 0 }), 5);
  t.equal(waitedMs({ ...run, exitCode: undefined }), 0);
  t.equal(waitedMs({ ...run, exitCode: 0, ageMs: 100 }), 105, 'and how long ago it ended');
  t.end();
});
