import { test } from 'tap';
import { violationText } from '../history/check.js';
import { readArguments } from './cli.js';
import { MUTATIONS, type Mutation, simulate } from './simulation.js';

/** `npm run sim -- --seeds 10000` goes further. */
const SEEDS = 200;
/** A mutation that so many seeds do not catch would not be caught at all. */
const CATCH_WITHIN = 400;

const findings = async (seed: number, mutation?: Mutation): Promise<string[]> => {
  const { violations } = await simulate({ seed, mutation });
  return violations.map(violationText);
};

test(`${SEEDS} meshes in trouble keep every invariant`, async (t) => {
  for (let seed = 1; seed <= SEEDS; seed++) {
    const violations = await findings(seed);
    if (violations.length > 0) t.fail(`seed ${seed}; replay: npm run sim -- --seed ${seed} --trace`, { violations });
  }
  t.pass(`${SEEDS} seeds`);
});

test('a seed names a run: twice the same to the last message, traced or not', async (t) => {
  const lines: string[] = [];
  const first = await simulate({ seed: 11 });
  const again = await simulate({ seed: 11 });
  const traced = await simulate({ seed: 11, write: (line) => lines.push(line) });
  t.equal(again.hash, first.hash);
  t.equal(again.events, first.events);
  t.same(again.history, first.history);
  t.equal(traced.hash, first.hash);
  t.ok(lines.length > first.history.length, 'the trace says what happened');
  t.not((await simulate({ seed: 12 })).hash, first.hash);
});

/** What each mutation breaks, as the first seed that catches it says. */
const CAUGHT_AS: Record<Mutation, RegExp> = {
  'generation-guard': /^I[1238]/,
  'epoch-guard': /^I[123]/,
  'acknowledge-early': /^I1 .*was acknowledged and is gone/,
  'no-fence': /^I8 .*the job says stop/,
  'lose-outbox': /^outbox .*is not in the agent's hello/,
};

for (const mutation of MUTATIONS)
  test(`without its guard the mesh is caught: ${mutation}`, async (t) => {
    for (let seed = 1; seed <= CATCH_WITHIN; seed++) {
      const violations = await findings(seed, mutation);
      if (!violations.some((text) => CAUGHT_AS[mutation].test(text))) continue;
      return t.pass(`seed ${seed}: ${violations[0]}`);
    }
    t.fail(`no seed up to ${CATCH_WITHIN} found anything wrong`);
  });

test('the command line says what it takes', async (t) => {
  t.match(readArguments(['--seeds', '5', '--mutation', 'no-fence']), { seeds: 5, from: 1, mutation: 'no-fence' });
  t.match(readArguments(['--seed', '7', '--trace']), { seed: 7, trace: true, mutation: undefined });
  t.throws(() => readArguments(['--seeds', 'many']), /--seeds many is not a whole number/);
  t.throws(() => readArguments(['--mutation', 'x']), /there is no mutation "x"; there are generation-guard, /);
});
