import { test } from 'tap';
import { SeededRandom } from '../../../test/support/random.js';
import { assigned, makeNode, makeSettings, makeSnapshot, makeWork } from '../../../test/support/snapshot.js';
import { plan } from './plan.js';
import type { PlanSettings, Snapshot } from './types.js';

const MILLION = 1_000_000;
const run = (snapshot: Snapshot, settings: Partial<PlanSettings> = {}, seed = 1) =>
  plan(snapshot, makeSettings(settings), 0, new SeededRandom(seed).next);

test('a higher priority goes first, whatever arrived before and whoever holds what', async (t) => {
  const work = [makeWork(1, MILLION), makeWork(2, 3, { priority: 5 }), makeWork(3, MILLION, { priority: -5 })];
  const made = run(makeSnapshot([makeNode(1, 8)], work, { heldBySubmitter: new Map([['ann', 500]]) }));
  t.same(
    [1, 2, 3].map((job) => assigned(made, { job })),
    [5, 3, 0],
  );
});

test('a lower priority uses what a higher one cannot', async (t) => {
  const work = [makeWork(1, 9), makeWork(2, 9, { priority: 5, blockedNodes: new Set([1]) })];
  const made = run(makeSnapshot([makeNode(1, 3), makeNode(2, 3)], work));
  t.same(
    [1, 2].map((job) => assigned(made, { job })),
    [3, 3],
  );
});

test('submitters share evenly, by what they hold already', async (t) => {
  const work = [makeWork(1, MILLION), makeWork(2, MILLION, { submitter: 'bob' })];
  const node = makeNode(1, 12);
  const even = run(makeSnapshot([node], work));
  t.same(
    [1, 2].map((job) => assigned(even, { job })),
    [6, 6],
  );
  const behind = run(makeSnapshot([node], work, { heldBySubmitter: new Map([['ann', 8]]) }));
  t.same(
    [1, 2].map((job) => assigned(behind, { job })),
    [2, 10],
  );
  const weighted = run(makeSnapshot([node], work), { submitterWeights: new Map([['bob', 3]]) });
  t.same(
    [1, 2].map((job) => assigned(weighted, { job })),
    [3, 9],
  );
});

test("a small job is not starved by another submitter's million tasks", async (t) => {
  const work = [makeWork(1, MILLION), makeWork(2, 2, { submitter: 'bob' })];
  const made = run(makeSnapshot([makeNode(1, 2)], work, { heldBySubmitter: new Map([['ann', 6]]) }));
  t.equal(assigned(made, { job: 2 }), 2);
});

test("a small job is not starved by its own submitter's million tasks either", async (t) => {
  const work = [makeWork(1, MILLION), makeWork(2, 1)];
  const heldBySubmitter = new Map([['ann', 7]]);
  const starts = Array.from({ length: 400 }, (_, seed) =>
    assigned(run(makeSnapshot([makeNode(1, 8, { busy: 7 })], work, { heldBySubmitter }), {}, seed), { job: 2 }),
  );
  const share = starts.reduce((a, b) => a + b, 0) / starts.length;
  t.ok(share > 0.15 && share < 0.35, `about a quarter of single places go to it: ${share}`);
  t.equal(assigned(run(makeSnapshot([makeNode(1, 8)], work)), { job: 2 }), 1);
});

test('of one submitter, the oldest job gets most, then the smallest', async (t) => {
  const work = [makeWork(3, 500), makeWork(1, 500), makeWork(2, 2)];
  const made = run(makeSnapshot([makeNode(1, 16)], work));
  t.same(
    [1, 2, 3].map((job) => assigned(made, { job })),
    [12, 2, 2],
  );
});

test('order of arrival decides among equals', async (t) => {
  const work = [3, 1, 2].map((job) => makeWork(job, 1, { submitter: `s${job}` }));
  const made = run(makeSnapshot([makeNode(1, 2)], work));
  t.same(
    made.assignments.map(({ job }) => job).sort((a, b) => a - b),
    [1, 2],
  );
});
