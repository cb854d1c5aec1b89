import { test } from 'tap';
import { SeededRandom } from '../../../test/support/random.js';
import { assigned, makeKind, makeNode, makeSettings, makeSnapshot, makeWork } from '../../../test/support/snapshot.js';
import { parseSelector } from '../../../common/selector.js';
import { plan } from './plan.js';
import type { NodeView, PlanSettings, WorkView } from './types.js';

const TASK_MS = 4096;
/** Four slots at eight times the speed of the usual, all busy with such tasks, and no queue. */
const fast = (more: Partial<NodeView> = {}): NodeView =>
  makeNode(1, 4, { busy: 4, pace: 1 / 8, turnoverPerMs: (4 * 8) / TASK_MS, ...more });
const slow = makeNode(2, 4, { pace: 1, labels: new Map([['zone', 'b']]) });

const run = (nodes: NodeView[], waiting: number, work: Partial<WorkView> = {}, settings: Partial<PlanSettings> = {}) =>
  plan(
    makeSnapshot(nodes, [makeWork(1, waiting, { taskMs: TASK_MS, ...work })]),
    makeSettings({ prefillMax: 0, ...settings }),
    0,
    new SeededRandom(1).next,
  );

test('near the end a slow node is left idle, and says so', async (t) => {
  const made = run([fast(), slow], 3);
  t.equal(assigned(made), 0);
  t.equal(made.reasons.get(1)?.[1]?.reason, 'has room: faster nodes will have done it sooner');
});

test('while much waits it is used', async (t) => {
  t.equal(assigned(run([fast(), slow], 1000), { node: 2 }), 4);
});

test('a fast node that is held by long tasks promises nothing, nor does one that may not run it', async (t) => {
  t.equal(assigned(run([fast({ turnoverPerMs: 4 / 3_600_000 }), slow], 3), { node: 2 }), 3);
  t.equal(assigned(run([fast({ state: 'OFFLINE' }), slow], 3), { node: 2 }), 3);
  const there = makeKind(1, {}, { selector: parseSelector('zone=b') });
  t.equal(assigned(run([fast(), slow], 3, { kind: there }), { node: 2 }), 3);
});

test('a queue before the fast node counts', async (t) => {
  t.equal(assigned(run([fast({ queued: 100 }), slow], 3), { node: 2 }), 3);
});

test('what has waited as long as the slow node would have taken waits no more', async (t) => {
  t.equal(assigned(run([fast(), slow], 3, { unassignedForMs: TASK_MS - 1 })), 0);
  t.equal(assigned(run([fast(), slow], 3, { unassignedForMs: TASK_MS + 1 }), { node: 2 }), 3);
});

test('nobody waits where nothing is known, where speed has no weight, or for other strategies', async (t) => {
  t.equal(assigned(run([fast(), slow], 3, { taskMs: undefined }), { node: 2 }), 3);
  const { coefficients } = makeSettings();
  t.equal(assigned(run([fast(), slow], 3, {}, { coefficients: { ...coefficients, speed: 0 } }), { node: 2 }), 3);
  t.equal(assigned(run([fast(), slow], 3, {}, { strategy: 'random' }), { node: 2 }), 3);
});

test('an idle fast node goes before an idle slow one, and takes what waits in the queue of a slow one', async (t) => {
  const idle = makeNode(1, 4, { pace: 1 / 8 });
  t.equal(assigned(run([idle, slow], 2), { node: 1 }), 2);
  const queue = makeNode(2, 4, { busy: 4, queued: 2, pace: 1, turnoverPerMs: 4 / TASK_MS });
  const snapshot = (nodes: NodeView[], holder: number) =>
    makeSnapshot(nodes, [makeWork(1, 0, { taskMs: TASK_MS })], { prefilled: [{ node: holder, job: 1, count: 2 }] });
  const settings = makeSettings();
  t.same(plan(snapshot([idle, queue], 2), settings, 0, () => 0).retractions, [{ node: 2, job: 1, count: 2 }]);
  const soon = fast({ queued: 2 });
  t.same(plan(snapshot([soon, slow], 1), settings, 0, () => 0).retractions, [], 'but not the other way round');
});
