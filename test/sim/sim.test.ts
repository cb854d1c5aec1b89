import { test } from 'tap';
import { readArguments } from './cli.js';
import { sim } from './run-sim.js';

/** `npm run sim -- --seeds 10000` goes further. */
const SEEDS = 250;
test(`${SEEDS} meshes in trouble keep every invariant`, async (t) => {
  const { code, text } = await sim('--seeds', String(SEEDS));
  t.equal(code, 0, text);
  t.match(text, /every history keeps I1 to I8/);
});

test('a seed names a run: twice the same to the last message, traced or not', async (t) => {
  const hashOf = ({ text }: { text: string }) => /^seed .* hash (\w+)$/m.exec(text)?.[0];
  const [first, again, traced, other] = [
    await sim('--seed', '11'),
    await sim('--seed', '11'),
    await sim('--seed', '11', '--trace'),
    await sim('--seed', '12'),
  ];
  t.match(hashOf(first), /hash/);
  t.equal(hashOf(again), hashOf(first));
  t.equal(hashOf(traced), hashOf(first));
  t.not(hashOf(other), hashOf(first));
  t.match(traced.text, /"kind":"task-assigned"/, 'the trace says what happened');
});

test('the command line says what it takes', async (t) => {
  t.match(readArguments(['--seeds', '5', '--mutation', 'no-fence']), { seeds: 5, from: 1, mutation: 'no-fence' });
  t.match(readArguments(['--seed', '7', '--trace']), { seed: 7, trace: true, mutation: undefined });
  t.throws(() => readArguments(['--seeds', 'many']), /--seeds many is not a whole number/);
  t.throws(() => readArguments(['--mutation', 'x']), /there is no mutation "x"; there are generation-guard, /);
});
