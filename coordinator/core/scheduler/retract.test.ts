import { test } from 'tap';
import { SeededRandom } from '../../../test/support/random.js';
import { assigned, makeKind, makeNode, makeSettings, makeSnapshot, makeWork } from '../../../test/support/snapshot.js';
import { plan } from './plan.js';
import type { Snapshot } from './types.js';

const run = (snapshot: Snapshot) => plan(snapshot, makeSettings(), 0, new SeededRandom(1).next);
/** A minute per task: a queue of them is always worth moving. */
const slow = { taskMs: 60_000 };
const busy = (seq: number, queued: number, turnoverPerMs = 4 / 60_000) =>
  makeNode(seq, 4, { busy: 4, queued, turnoverPerMs });

test('an idle node gets what waits in the queue of another, as much as it has room for', async (t) => {
  const prefilled = [{ node: 1, job: 1, count: 10 }];
  const made = run(makeSnapshot([busy(1, 10), makeNode(2, 3)], [makeWork(1, 0, slow)], { prefilled }));
  t.same(made.retractions, [{ node: 1, job: 1, count: 3 }]);
  t.equal(assigned(made), 0);
});

test('a task that failed on the idle node stays where it waits, while that is not the last resort', async (t) => {
  const waits = (failedNodes: number[]) => [
    { node: 1, job: 1, count: 2 },
    { node: 1, job: 1, count: 1, index: 7, failedNodes },
  ];
  const asked = (failedNodes: number[], ...nodes: ReturnType<typeof makeNode>[]) =>
    run(makeSnapshot([busy(1, 3), ...nodes], [makeWork(1, 0, slow)], { prefilled: waits(failedNodes) })).retractions;
  const [plain, wary] = [
    { node: 1, job: 1, count: 2 },
    { node: 1, job: 1, count: 1, index: 7 },
  ];
  t.same(asked([2], makeNode(2, 3)), [plain], 'it would come back, and be asked back again');
  t.same(asked([2], makeNode(2, 3), makeNode(3, 3)), [plain, wary]);
  t.same(asked([2], makeNode(2, 3), makeNode(3, 3, { state: 'OFFLINE' })), [plain], 'its own node is another');
  t.same(asked([1, 2], makeNode(2, 3)), [plain, wary], 'it failed wherever it could run');
  t.same(asked([1], makeNode(2, 3)), [plain, wary]);
});

test('what waits on a fast node is not asked back for a slow one that the next plan would leave idle', async (t) => {
  const fast = (seq: number, queued: number) => ({ ...busy(seq, queued, 1 / 10_000), pace: 1 });
  const asked = (pace: number, ...others: ReturnType<typeof makeNode>[]) => {
    const nodes = [fast(1, 2), ...others, makeNode(9, 1, { pace })];
    const prefilled = [{ node: 1, job: 1, count: 2 }];
    return run(makeSnapshot(nodes, [makeWork(1, 0, { taskMs: 10_000 })], { prefilled })).retractions;
  };
  t.same(asked(2.5), [{ node: 1, job: 1, count: 1 }], 'it would end 5 s sooner there');
  t.same(asked(2.5, fast(2, 0)), [], 'and later than on the first of two that falls free');
  t.same(asked(1.2, fast(2, 0)), [{ node: 1, job: 1, count: 1 }]);
});

test('nothing of a lower priority is queued where it would have to make way for what waits', async (t) => {
  const queued = (high: Parameters<typeof makeWork>[2], taskMs: number, more: Partial<Snapshot> = {}) => {
    const nodes = [busy(1, 0, 4 / taskMs)];
    // Minute-long tasks are not queued at all: a slot that falls free is theirs a moment later.
    const work = [makeWork(1, 9, { taskMs }), makeWork(2, 9, { taskMs: 600_000, priority: 1, ...high })];
    return assigned(run(makeSnapshot(nodes, work, more)), { job: 1 });
  };
  t.equal(queued({}, 10_000), 0);
  t.equal(queued({ priority: 0 }, 10_000), 1, 'its equals wait for nobody');
  t.equal(queued({ kind: makeKind(2, { gpus: 1 }) }, 10_000), 1, 'what cannot run there');
  t.equal(queued({}, 50), 4, 'a queue that is worked off at once');
  const held = { allowances: new Map([['full', { tasks: 0, cpuMillis: 0 }]]) };
  t.equal(queued({ namespace: 'full' }, 10_000, held), 1, 'what a quota holds back');
});

test('the longest queue gives first, and no room is promised twice', async (t) => {
  const prefilled = [
    { node: 1, job: 1, count: 2 },
    { node: 2, job: 1, count: 6 },
    { node: 2, job: 2, count: 3 },
  ];
  const work = [makeWork(1, 0, slow), makeWork(2, 0, slow)];
  const made = run(makeSnapshot([busy(1, 2), busy(2, 9), makeNode(3, 7)], work, { prefilled }));
  t.same(made.retractions, [
    { node: 2, job: 1, count: 6 },
    { node: 2, job: 2, count: 1 },
  ]);
});

test('nothing moves while fresh work can take the room, where the node may not run it, or where it is soon done', async (t) => {
  const prefilled = [{ node: 1, job: 1, count: 10 }];
  const idle = makeNode(2, 3);
  t.same(run(makeSnapshot([busy(1, 10), idle], [makeWork(1, 5, slow)], { prefilled })).retractions, []);
  const elsewhere = makeWork(1, 0, { ...slow, blockedNodes: new Set([2]) });
  t.same(run(makeSnapshot([busy(1, 10), idle], [elsewhere], { prefilled })).retractions, []);
  const quick = makeWork(1, 0, { taskMs: 1 });
  t.same(run(makeSnapshot([busy(1, 10, 4), idle], [quick], { prefilled })).retractions, []);
  t.same(
    run(makeSnapshot([busy(1, 10), makeNode(2, 3, { state: 'SUSPECT' })], [makeWork(1, 0, slow)], { prefilled }))
      .retractions,
    [],
  );
});

test('prefilled work makes way for a higher priority, on as many nodes as that needs', async (t) => {
  const prefilled = [1, 2, 3].map((node) => ({ node, job: 1, count: 5 }));
  const nodes = [1, 2, 3].map((seq) => busy(seq, 5));
  const low = makeWork(1, 100, { ...slow, priority: -1 });
  const made = run(makeSnapshot(nodes, [low, makeWork(2, 6, { ...slow, priority: 1 })], { prefilled }));
  t.same(made.retractions, [
    { node: 1, job: 1, count: 5 },
    { node: 2, job: 1, count: 5 },
  ]);
  const equal = run(makeSnapshot(nodes, [low, makeWork(2, 6, { ...slow, priority: -1 })], { prefilled }));
  t.same(equal.retractions, []);
  const other = makeWork(2, 6, { priority: 1, kind: makeKind(2, { gpus: 1 }) });
  t.same(run(makeSnapshot(nodes, [low, other], { prefilled })).retractions, [], 'not for work that cannot run there');
});

test('urgent work that was queued behind a long queue of lower priority gets it out of the way', async (t) => {
  const prefilled = [{ node: 1, job: 1, count: 3 }];
  const urgent = makeWork(2, 1, { taskMs: 20, priority: 1 });
  const made = run(makeSnapshot([busy(1, 3, 4 / 20_000)], [makeWork(1, 0, { taskMs: 20_000 }), urgent], { prefilled }));
  t.same(made.retractions, [{ node: 1, job: 1, count: 3 }]);
});

test('a draining node gives back what it has not started; a lost one is not asked', async (t) => {
  const prefilled = [1, 2].map((node) => ({ node, job: 1, count: 4 }));
  const nodes = [
    { ...busy(1, 4), draining: true },
    { ...busy(2, 4), state: 'OFFLINE' as const },
  ];
  t.same(run(makeSnapshot(nodes, [makeWork(1, 0, slow)], { prefilled })).retractions, [{ node: 1, job: 1, count: 4 }]);
});
