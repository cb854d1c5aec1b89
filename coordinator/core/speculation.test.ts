import { test } from 'tap';
import { makeKind, makeNode, makeRoom } from '../../test/support/snapshot.js';
import type { JobCounts } from './job.js';
import { costOf } from './room.js';
import type { NodeView } from './scheduler/types.js';
import { copiesMax, type CopyWork, nearsEnd, planCopies, type RunningTask, stragglerAgeMs } from './speculation.js';

const counts = (more: Partial<JobCounts> = {}): JobCounts => ({
  ...{ total: 10, materialised: 10, queued: 0, assigned: 0, running: 2, retrying: 0, completed: 8, failed: 0 },
  cancelled: 0,
  ...more,
});

test('a job is near its end when nothing of it waits and half is done', async (t) => {
  t.ok(nearsEnd(counts()));
  t.ok(nearsEnd(counts({ completed: 5, running: 5 })));
  t.notOk(nearsEnd(counts({ completed: 4, running: 6 })), 'too little to compare with');
  t.notOk(nearsEnd(counts({ queued: 1, running: 1 })), 'fresh or retracted work waits');
  t.notOk(nearsEnd(counts({ retrying: 1, running: 1 })), 'a retry waits');
  t.notOk(nearsEnd(counts({ total: 12 })), 'rows are still being made');
  t.ok(nearsEnd(counts({ total: 2, materialised: 2, completed: 1, running: 1 })));
  t.notOk(nearsEnd(counts({ total: 1, materialised: 1, completed: 0, running: 1 })), 'nothing is like the only task');
});

test('copies are bounded by a share of the job, and one is always allowed', async (t) => {
  t.same([1, 2, 19, 20, 100, 1_000_000].map(copiesMax), [1, 1, 1, 2, 10, 1000]);
});

test('a straggler is older than a multiple of what is usual, and than the floor', async (t) => {
  const settings = { factor: 2, floorMs: 1000 };
  t.equal(stragglerAgeMs([], settings), undefined, 'nothing completed');
  t.equal(stragglerAgeMs([900], settings), 1800);
  t.equal(stragglerAgeMs([1, 2, 3], settings), 1000, 'the floor');
  t.equal(
    stragglerAgeMs([100, 200, 4000, 9_000_000], settings),
    8000,
    'the 75th percentile; the slowest does not count',
  );
});

const running = (index: number, ageMs: number, more: Partial<RunningTask> = {}): RunningTask => ({
  ...{ job: 1, index, generation: 1, node: 1, ageMs, failedNodes: [] },
  ...more,
});

const plan = (tasks: RunningTask[], nodes: NodeView[], more: Partial<CopyWork> = {}) => {
  const kind = makeKind();
  const work = { kind, cost: costOf(kind.resources), blockedNodes: new Set<number>(), running: tasks };
  return planCopies({ ...work, fromAgeMs: 100, copiesMax: 10, ...more }, nodes).map(({ task, to }) => [task.index, to]);
};

test('the oldest stragglers first, within the bound', async (t) => {
  const tasks = [running(0, 99), running(1, 100), running(2, 300), running(3, 200)];
  t.same(plan(tasks, [makeNode(1), makeNode(2, 8)]), [
    [2, 2],
    [3, 2],
    [1, 2],
  ]);
  t.same(plan(tasks, [makeNode(1), makeNode(2, 8)], { copiesMax: 1 }), [[2, 2]]);
  t.same(plan([running(0, 99)], [makeNode(2)]), []);
});

test('a copy goes where it starts at once: free, healthy, feasible, and not where the original is', async (t) => {
  const old = [running(0, 500)];
  t.same(plan(old, [makeNode(1)]), [], 'the original’s own node');
  const unfit: [string, NodeView][] = [
    ['full', makeNode(2, 4, { busy: 4 })],
    ['others wait there', makeNode(2, 4, { queued: 1 })],
    ['suspect', makeNode(2, 4, { state: 'SUSPECT' })],
    ['offline', makeNode(2, 4, { state: 'OFFLINE' })],
    ['draining', makeNode(2, 4, { draining: true })],
    ['revoked', makeNode(2, 4, { revoked: true })],
    ['too small', makeNode(2, 4, { total: makeRoom(0) })],
    ['another executor', makeNode(2, 4, { executors: new Set(['function']) })],
  ];
  for (const [why, node] of unfit) t.same(plan(old, [makeNode(1), node]), [], why);
  t.same(plan(old, [makeNode(1), makeNode(2)]), [[0, 2]]);
});

test('a node it failed on, a blocked one and one on trial get the copy only while there is no other', async (t) => {
  const poor: [string, Partial<RunningTask>, Partial<CopyWork>, Partial<NodeView>][] = [
    ['it failed there', { failedNodes: [2] }, {}, {}],
    ['blocked for the job', {}, { blockedNodes: new Set([2]) }, {}],
    ['on trial', {}, {}, { onTrial: true }],
  ];
  for (const [why, task, work, node] of poor) {
    const [straggler, two] = [running(0, 500, task), makeNode(2, 4, node)];
    t.same(plan([straggler], [makeNode(1), two, makeNode(3, 4, { load: 0.9 })], work), [[0, 3]], why);
    t.same(
      plan([straggler], [makeNode(1), two, makeNode(3, 4, { busy: 4 })], work),
      [],
      `${why}: it waits for the other`,
    );
    const gone = makeNode(3, 4, { state: 'OFFLINE' });
    t.same(plan([straggler], [makeNode(1), two, gone], work), [[0, 2]], `${why}: rather there than nowhere`);
  }
  const failed = running(0, 500, { failedNodes: [1, 2] });
  t.same(plan([failed], [makeNode(1)]), [], 'beside the original there is never a copy');
  t.same(plan([failed, running(1, 400)], [makeNode(1), makeNode(2, 1)]), [[0, 2]], 'the oldest first here too');
});

test('a straggler waits for a faster node, and not for ever: what holds it may be stragglers too', async (t) => {
  const soon = makeNode(2, 4, { busy: 4, pace: 0.125, turnoverPerMs: 1 / 100 });
  const nodes = [makeNode(1, 4, { busy: 4 }), soon, makeNode(3, 4, { pace: 2 })];
  t.same(plan([running(0, 299)], nodes), []);
  t.same(plan([running(0, 300)], nodes), [[0, 3]], 'as long again as a copy there may take');
});

test('a fast node goes before a slow one, and what is much slower than one that is soon free gets no copy', async (t) => {
  const tasks = [running(0, 190), running(1, 180)];
  const soon = makeNode(2, 4, { busy: 4, pace: 0.125, turnoverPerMs: 1 / 100 });
  const slow = makeNode(3, 4, { pace: 1 });
  t.same(plan(tasks, [makeNode(1, 4, { pace: 1 }), makeNode(2, 1, { pace: 0.125 }), slow]), [[0, 2]]);
  t.same(plan(tasks, [makeNode(1, 4, { busy: 4 }), soon, slow]), [], 'it will be free when the next look is taken');
  t.same(plan(tasks, [makeNode(1, 4, { busy: 4 }), { ...soon, queued: 3 }, slow]), [], 'so it will with a few before');
  t.same(
    plan(tasks, [makeNode(1, 4, { busy: 4 }), { ...soon, queued: 20 }, slow]).map(([, to]) => to),
    [3, 3],
    'too many wait there',
  );
  t.same(
    plan([running(0, 190, { node: 2 })], [soon, slow]),
    [[0, 3]],
    'the straggler’s own node is not waited for, fast as it may be',
  );
  const held = { ...soon, turnoverPerMs: 1 / 100_000 };
  t.same(plan(tasks, [makeNode(1, 4, { busy: 4 }), held, slow]), [
    [0, 3],
    [1, 3],
  ]);
});

test('the most reliable node first, then the least busy; no slot is given twice', async (t) => {
  const nodes = [
    makeNode(1, 4),
    makeNode(2, 1, { reliability: 0.5 }),
    makeNode(3, 1, { load: 0.9 }),
    makeNode(4, 1, { load: 0.1 }),
  ];
  const tasks = [0, 1, 2, 3].map((index) => running(index, 1000 - index));
  t.same(plan(tasks, nodes), [
    [0, 4],
    [1, 3],
    [2, 2],
  ]);
});
