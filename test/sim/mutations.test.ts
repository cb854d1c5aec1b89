import { test } from 'tap';
import { sim } from './run-sim.js';
import { MUTATIONS, type Mutation } from './simulation.js';

/** A mutation that so many seeds do not catch would not be caught at all. */
const CATCH_WITHIN = 500;

/** What each mutation breaks, as the first seed that catches it says. */
const CAUGHT_AS: Record<Mutation, RegExp> = {
  'generation-guard': /breaks:\n {2}(I[1-8]|outbox)/,
  'epoch-guard': /breaks:\n {2}I[1-3]/,
  'acknowledge-early': /I1 at .*was acknowledged and is gone/,
  'no-fence': /I8 at .*the job says stop/,
  'lose-outbox': /outbox at .*is not in the agent's hello/,
};

for (const mutation of MUTATIONS)
  test(`without it the mesh is caught: ${mutation}`, async (t) => {
    const { code, text } = await sim('--seeds', String(CATCH_WITHIN), '--first', '--mutation', mutation);
    t.equal(code, 1, `no seed up to ${CATCH_WITHIN} found anything wrong`);
    t.match(text, CAUGHT_AS[mutation]);
  });
