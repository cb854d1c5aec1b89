import { test } from 'tap';
import { type AttemptEnd, lossDelayMs, LOSS_PATIENCE_MAX_MS, settle } from './settle.js';
import type { AttemptOutcome } from './task.js';

const end = (outcome: AttemptOutcome, more: Partial<AttemptEnd> = {}): AttemptEnd => ({
  outcome,
  counts: { failures: 0, losses: 0 },
  policy: { failuresMax: 3, lossesMax: 5, backoffMs: 1000, backoffCapMs: 60_000 },
  ranMs: 0,
  error: undefined,
  fenced: false,
  fencedInMs: 0,
  nodesLost: 1,
  nodes: 4,
  ...more,
});

test('a fenced attempt of a lost node is due as soon as its agent has killed it for certain, however long it ran', async (t) => {
  const night = 8 * 3_600_000;
  t.equal(settle(end('node-lost', { fenced: true, ranMs: night }), 0).dueInMs, 0);
  t.equal(settle(end('node-lost', { fenced: true, ranMs: 0, fencedInMs: 9000 }), 0).dueInMs, 9000);
  t.equal(settle(end('node-lost', { fenced: false, ranMs: night, fencedInMs: 9000 }), 0).dueInMs, 600_000);
});

test('success completes and clears the error', async (t) => {
  t.same(settle(end('succeeded', { error: 'left over' }), 0.5), {
    to: 'COMPLETED',
    failure: 0,
    loss: 0,
    dueInMs: undefined,
    error: undefined,
  });
});

test('failures are retried with full jitter until the bound, which they never exceed', async (t) => {
  for (const outcome of ['failed', 'timed-out'] as const) {
    t.match(settle(end(outcome, { error: 'exit 1' }), 0.5), {
      to: 'RETRYING',
      failure: 1,
      loss: 0,
      dueInMs: 500,
      error: 'exit 1',
    });
    t.equal(settle(end(outcome, { counts: { failures: 1, losses: 4 } }), 0.999999).dueInMs, 2000, 'it doubles');
    const last = settle(end(outcome, { counts: { failures: 2, losses: 0 }, error: 'exit 7' }), 0.5);
    t.match(last, { to: 'FAILED', failure: 1, loss: 0, error: 'exit 7' });
    t.equal(last.dueInMs, undefined);
  }
  t.equal(settle(end('timed-out'), 0).error, 'timed out');
});

test('a lost node: young attempts are due at once, long ones after a tenth of their time, ten minutes at most', async (t) => {
  t.equal(settle(end('node-lost', { ranMs: 59_000 }), 0.5).dueInMs, 0);
  t.equal(settle(end('node-lost', { ranMs: 600_000 }), 0.5).dueInMs, 60_000);
  t.equal(lossDelayMs(8 * 3_600_000), LOSS_PATIENCE_MAX_MS);
  t.match(settle(end('node-lost', { error: 'silent for 15 s' }), 0), { loss: 1, failure: 0, error: 'silent for 15 s' });
});

test('other losses: a stopped agent gives back at once, a faulty node after a moment', async (t) => {
  t.match(settle(end('shutdown', { ranMs: 3_600_000 }), 0.9), { to: 'RETRYING', failure: 0, loss: 1, dueInMs: 0 });
  t.match(settle(end('node-fault'), 0.5), { to: 'RETRYING', failure: 0, loss: 1, dueInMs: 500 });
  t.match(settle(end('cancelled'), 0.5), { to: 'RETRYING', failure: 0, loss: 1, dueInMs: 0 });
});

test('a retraction counts as neither', async (t) => {
  t.match(settle(end('retracted', { counts: { failures: 2, losses: 4 } }), 0.5), {
    to: 'QUEUED',
    failure: 0,
    loss: 0,
    dueInMs: 0,
  });
});

test('losses are bounded, with a reason that names the last', async (t) => {
  for (const outcome of ['node-lost', 'node-fault', 'shutdown'] as const) {
    const decision = settle(end(outcome, { counts: { failures: 0, losses: 4 }, error: 'no disk space' }), 0.5);
    t.match(decision, { to: 'FAILED', loss: 1, failure: 0, error: /lost 5 times.*no disk space/ });
  }
});

test('a task that took down three different nodes, or both of two, is quarantined', async (t) => {
  t.equal(settle(end('node-lost', { nodesLost: 2, nodes: 4 }), 0).to, 'RETRYING');
  t.match(settle(end('node-lost', { nodesLost: 3, nodes: 4 }), 0), {
    to: 'FAILED',
    error: /^quarantined: 3 different/,
  });
  t.match(settle(end('node-lost', { nodesLost: 2, nodes: 2 }), 0), { to: 'FAILED', error: /quarantined/ });
  t.equal(settle(end('node-lost', { nodesLost: 1, nodes: 1 }), 0).to, 'RETRYING', 'one node proves nothing');
  t.equal(settle(end('node-fault', { nodesLost: 3, nodes: 4 }), 0).to, 'RETRYING', 'a fault takes no node down');
});
