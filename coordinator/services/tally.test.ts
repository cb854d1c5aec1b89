import { Histogram, Registry } from 'prom-client';
import { test } from 'tap';
import { Tally } from './tally.js';

test('a tally is written as the histogram of the library is', async (t) => {
  const [ours, theirs] = [new Registry(), new Registry()];
  const bounds = [0.001, 0.25, 1, 60];
  const tally = new Tally(ours, 'wait_seconds', 'How long', bounds);
  const histogram = new Histogram({ name: 'wait_seconds', help: 'How long', buckets: bounds, registers: [theirs] });
  t.equal(await ours.metrics(), await theirs.metrics());
  for (const value of [0, 0.001, 0.0011, 0.3, 1, 59, 60, 61, 1e6]) {
    tally.observe(value);
    histogram.observe(value);
  }
  t.equal(await ours.metrics(), await theirs.metrics());
  ours.resetMetrics();
  t.match(await ours.metrics(), /^wait_seconds_count 0$/m);
});
