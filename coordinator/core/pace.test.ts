import { test } from 'tap';
import { SeededRandom } from '../../test/support/random.js';
import { Pace, Paces } from './pace.js';
import { TaskTime } from './work.js';

/** Tasks of jobs one after the other, on machines of these speeds, each taking its next when the last has ended. */
function work(speeds: readonly number[], jobs: readonly number[], seed: number) {
  const random = new SeededRandom(seed);
  const paces = new Paces();
  const nodes = speeds.map(() => new Pace(paces));
  const freeAtMs = speeds.map(() => 0);
  let time = new TaskTime();
  for (const sizeMs of jobs) {
    time = new TaskTime();
    for (let task = 0; task < 400; task++) {
      const at = freeAtMs.indexOf(Math.min(...freeAtMs));
      const ranMs = (sizeMs * (0.5 + random.next())) / (speeds[at] as number);
      freeAtMs[at] = (freeAtMs[at] as number) + ranMs;
      nodes[at]?.observe(time, ranMs, 1);
    }
  }
  return { factors: nodes.map(({ factor }) => factor), time };
}

test('the paces of unequal nodes come out as their speeds are, whatever the jobs are like', async (t) => {
  for (let seed = 1; seed <= 10; seed++) {
    const { factors, time } = work([8, 2, 1], [50, 3000, 200], seed);
    const [fast = 0, twice = 0, slow = 0] = factors;
    t.ok(Math.abs(Math.log(slow / fast / 8)) < 0.5, `seed ${seed}: ${slow / fast} for 8`);
    t.ok(Math.abs(Math.log(slow / twice / 2)) < 0.5, `seed ${seed}: ${slow / twice} for 2`);
    t.ok(Math.abs(Math.log(((time.ms ?? 0) * slow) / 200)) < 0.5, 'time and pace together say how long a task takes');
  }
});

test('equal nodes stay near the usual pace, and a newcomer is taken to be usual', async (t) => {
  const { factors } = work([1, 1, 1, 1], [100, 100, 100], 5);
  for (const factor of factors) t.ok(factor > 0.6 && factor < 1.6, String(factor));
  t.equal(new Pace(new Paces()).factor, 1);
});

test('what says nothing changes nothing, and nothing goes out of bounds', async (t) => {
  const pace = new Pace(new Paces());
  const time = new TaskTime();
  pace.observe(time, Number.NaN, 1);
  pace.observe(time, 10, 0);
  t.equal(time.ms, undefined);
  pace.observe(time, 1, 1);
  for (let i = 0; i < 200; i++) pace.observe(time, 1e9, 1);
  t.ok(pace.factor <= 64);
  for (let i = 0; i < 400; i++) pace.observe(time, 1e-9, 1);
  t.ok(pace.factor >= 1 / 64);
});
