import { test } from 'tap';
import { parseSelector } from '../../../common/selector.js';
import { SeededRandom } from '../../../test/support/random.js';
import {
  assigned,
  GIB,
  makeKind,
  makeNode,
  makeRoom,
  makeSettings,
  makeSnapshot,
  makeWork,
} from '../../../test/support/snapshot.js';
import { plan } from './plan.js';
import type { Kind, NodeView, Plan, PlanSettings, Snapshot } from './types.js';

/** Tasks of many hours: nothing is worth prefilling, so that tests see placement alone. */
const run = (snapshot: Snapshot, settings: Partial<PlanSettings> = {}, seed = 1): Plan =>
  plan(snapshot, makeSettings(settings), 1000, new SeededRandom(seed).next);
const reasonOf = (made: Plan, node: number, kind = 1, job?: number) =>
  made.reasons.get(kind, job)?.find((reason) => reason.node === node);

test('work fills free room and no more', async (t) => {
  const made = run(makeSnapshot([makeNode(1, 4), makeNode(2, 2, { busy: 1 })], [makeWork(7, 100)]));
  t.equal(assigned(made, { node: 1 }), 4);
  t.equal(assigned(made, { node: 2 }), 1);
  t.ok(made.assignments.every(({ job }) => job === 7));
  t.equal(made.atMs, 1000);
});

test('no more is placed than there is, nor than one plan may', async (t) => {
  const nodes = [makeNode(1, 50), makeNode(2, 50)];
  t.equal(assigned(run(makeSnapshot(nodes, [makeWork(1, 3)]))), 3);
  t.equal(assigned(run(makeSnapshot(nodes, [makeWork(1, 80), makeWork(2, 80)]), { assignmentsMax: 30 })), 30);
  t.equal(assigned(run(makeSnapshot([], [makeWork(1, 3)]))), 0);
  t.same(run(makeSnapshot(nodes, [])).assignments, []);
});

test('equal nodes get equal shares', async (t) => {
  const made = run(
    makeSnapshot(
      [1, 2, 3, 4].map((seq) => makeNode(seq, 8)),
      [makeWork(1, 16)],
    ),
  );
  t.same(
    [1, 2, 3, 4].map((node) => assigned(made, { node })),
    [4, 4, 4, 4],
  );
});

test('a sandbox is asked for, never made up', async (t) => {
  const nodes = [
    makeNode(1, 4, { sandboxes: ['bubblewrap', 'process'], limits: true }),
    makeNode(2, 4, { sandboxes: ['bubblewrap'], limits: true }),
    makeNode(3, 4, { sandboxes: ['process'], limits: true }),
    // An agent of an earlier protocol.
    makeNode(4, 4, { sandboxes: ['process'], limits: false }),
  ];
  const feasible = (more: Partial<Kind>) => {
    const made = run(makeSnapshot(nodes, [makeWork(1, 1, { kind: makeKind(1, {}, more) })]));
    return nodes.filter(({ seq }) => reasonOf(made, seq)?.feasible).map(({ seq }) => seq);
  };
  t.same(feasible({}), [1, 2, 3, 4]);
  t.same(feasible({ sandbox: 'bubblewrap' }), [1, 2]);
  t.same(feasible({ sandbox: 'process' }), [1, 3, 4]);
  t.same(feasible({ limited: true }), [1, 2, 3]);
  const made = run(makeSnapshot(nodes, [makeWork(1, 1, { kind: makeKind(1, {}, { sandbox: 'bubblewrap' }) })]));
  t.match(reasonOf(made, 3)?.reason, /no bubblewrap sandbox/);
});

test('each thing that rules a node out has its reason', async (t) => {
  const kind = makeKind(1, { memoryBytes: 4 * GIB, cpuMillis: 2000 }, { selector: parseSelector('zone in (a,b)') });
  const good = (seq: number, more: Partial<NodeView> = {}) =>
    makeNode(seq, 4, { labels: new Map([['zone', 'a']]), ...more });
  const cases: [NodeView, string][] = [
    [good(1, { revoked: true }), 'its certificate is revoked'],
    [good(2, { state: 'OFFLINE' }), 'it is offline'],
    [good(3, { state: 'SUSPECT' }), 'it is suspect: heartbeats are missing, so it gets nothing new'],
    [good(4, { draining: true }), 'it is draining'],
    [good(5, { executors: new Set(['function']) }), 'it does not run process tasks'],
    [good(6, { total: makeRoom(4, { memoryBytes: GIB }) }), 'asks 4 GiB of memory; the node has 1 GiB'],
    [good(7, { total: makeRoom(1) }), 'asks 2 CPUs; the node has 1'],
    [good(8, { labels: new Map([['zone', 'c']]) }), 'label zone is c, not one of a, b'],
    [good(9), 'it is blocked for this job: it failed what others did not'],
    [good(12, { barred: 'it spoiled several jobs' }), 'it spoiled several jobs'],
    [good(10, { total: makeRoom(0) }), 'it has no slots'],
  ];
  const work = makeWork(1, 100, { kind, blockedNodes: new Set([9]) });
  const made = run(makeSnapshot([...cases.map(([node]) => node), good(11)], [work]));
  for (const [node, reason] of cases)
    t.same(reasonOf(made, node.seq), { node: node.seq, feasible: false, reason, score: undefined, terms: {} });
  t.match(reasonOf(made, 11), { feasible: true, reason: 'chosen: 2 to start, 1 queued' });
  t.equal(assigned(made), 3, 'two that fit, and one that the next room is kept for');
});

test('a task larger than every node says so for GPUs and custom resources too', async (t) => {
  const made = run(
    makeSnapshot(
      [makeNode(1)],
      [
        makeWork(1, 1, { kind: makeKind(1, { gpus: 2 }) }),
        makeWork(2, 1, { kind: makeKind(2, { custom: { tape: 1 } }) }),
        makeWork(3, 1, { kind: makeKind(3, { memoryBytes: 64 * GIB }) }),
      ],
    ),
  );
  t.equal(assigned(made), 0);
  t.equal(reasonOf(made, 1, 1)?.reason, 'asks 2 GPUs; the node has none');
  t.equal(reasonOf(made, 1, 2)?.reason, 'asks 1 of tape; the node has none');
  t.equal(reasonOf(made, 1, 3)?.reason, 'asks 64 GiB of memory; the node has 8 GiB');
  t.same(made.reasons.kinds(), [1, 2, 3]);
  t.equal(made.reasons.get(99), undefined);
});

test('a feasible node says how it stands, with a score that is the sum of its terms', async (t) => {
  const nodes = [
    makeNode(1, 8, { busy: 8, load: 0.6, rttMs: 20 }),
    makeNode(2, 8),
    makeNode(3, 2, { reliability: 0.1 }),
  ];
  const made = run(makeSnapshot(nodes, [makeWork(1, 6, { taskMs: 60_000_000 })]));
  t.equal(reasonOf(made, 1)?.reason, 'full: 8 of 8 slots busy');
  t.equal(reasonOf(made, 2)?.reason, 'chosen: 6 to start');
  t.equal(reasonOf(made, 3)?.reason, 'has room: not needed');
  for (const { feasible, score, terms } of made.reasons.get(1) ?? []) {
    t.ok(feasible);
    const sum = Object.values(terms).reduce((a, b) => a + b, 0);
    t.ok(Math.abs((score ?? Number.NaN) - sum) < 1e-12);
    for (const name of ['rtt', 'load', 'queue', 'reliability'])
      t.ok((terms[name] ?? -1) >= 0 && (terms[name] ?? 2) <= 1);
  }
  t.ok((reasonOf(made, 3)?.score ?? 0) > (reasonOf(made, 2)?.score ?? 0));
});

test('room is shared between kinds: memory, GPUs and custom resources are spent once', async (t) => {
  const total = makeRoom(8, { gpus: 2, memoryBytes: 8 * GIB, custom: new Map([['licence', 1]]) });
  const node = makeNode(1, 8, { total, free: total });
  const made = run(
    makeSnapshot(
      [node],
      [
        makeWork(1, 9, { kind: makeKind(1, { gpus: 1, memoryBytes: 3 * GIB }) }),
        makeWork(2, 9, { kind: makeKind(2, { custom: { licence: 1 } }) }),
        makeWork(3, 9, { kind: makeKind(3, { memoryBytes: GIB }), priority: -1 }),
      ],
    ),
  );
  t.same(
    [1, 2, 3].map((job) => assigned(made, { job })),
    [2, 1, 2],
  );
  t.equal(reasonOf(made, 1, 2)?.reason, 'chosen: 1 to start');
  t.same([...total.custom], [['licence', 1]], 'the snapshot is left as it was');
});

test('a returned task avoids the nodes it failed on while another could run it', async (t) => {
  const returned = (index: number, ...failedNodes: number[]) => ({ index, failedNodes });
  const free = [makeNode(1), makeNode(2)];
  const elsewhere = run(makeSnapshot(free, [makeWork(1, 0, { returned: [returned(5, 1)] })]));
  t.same(elsewhere.assignments, [{ job: 1, node: 2, fresh: 0, returned: [5] }]);

  const full = [makeNode(1), makeNode(2, 4, { busy: 4 })];
  const waits = run(makeSnapshot(full, [makeWork(1, 2, { returned: [returned(5, 1)] })]));
  t.same(waits.assignments, [{ job: 1, node: 1, fresh: 2, returned: [] }], 'it waits, the others go on');

  const everywhere = run(makeSnapshot(free, [makeWork(1, 0, { returned: [returned(5, 1, 2)] })]));
  t.equal(assigned(everywhere), 1, 'no other is left');

  const gone = run(
    makeSnapshot([makeNode(1), makeNode(2, 4, { state: 'OFFLINE' })], [makeWork(1, 0, { returned: [returned(5, 1)] })]),
  );
  t.equal(assigned(gone, { node: 1 }), 1, 'a node that could not run it does not count');
});

test('returned tasks go before fresh ones of their job, once each', async (t) => {
  const work = makeWork(1, 10, {
    returned: [
      { index: 40, failedNodes: [] },
      { index: 41, failedNodes: [] },
    ],
  });
  const made = run(makeSnapshot([makeNode(1, 2), makeNode(2, 1)], [work]));
  t.same(
    made.assignments.flatMap(({ returned }) => returned).sort((a, b) => a - b),
    [40, 41],
  );
  t.equal(
    made.assignments.reduce((sum, { fresh }) => sum + fresh, 0),
    1,
  );
});

test('nodes blocked for one job serve the others of its kind', async (t) => {
  const nodes = [makeNode(1, 3), makeNode(2, 1)];
  const made = run(makeSnapshot(nodes, [makeWork(1, 5, { blockedNodes: new Set([1]) }), makeWork(2, 5)]));
  t.equal(assigned(made, { job: 1, node: 1 }), 0);
  t.equal(assigned(made, { job: 2, node: 1 }), 3);
  t.match(reasonOf(made, 1, 1, 1)?.reason, /^it is blocked for this job/);
  t.match(reasonOf(made, 1, 1, 2)?.reason, /^chosen: 3 to start/);
});

test('a job that has blocked every node goes on, so that its tasks end within their bounds', async (t) => {
  const blockedNodes = new Set([1, 2]);
  const nodes = [makeNode(1, 2), makeNode(2, 2)];
  t.equal(assigned(run(makeSnapshot(nodes, [makeWork(1, 4, { blockedNodes })]))), 4);
  const away = [makeNode(1, 2), makeNode(2, 2), makeNode(3, 2, { state: 'OFFLINE' })];
  t.equal(
    assigned(run(makeSnapshot(away, [makeWork(1, 4, { blockedNodes })]))),
    4,
    'nobody waits for one that is away',
  );
});

test('work that must be fenced goes to agents that can, and the others are told to be upgraded', async (t) => {
  const kind = makeKind(1, {}, { fenced: true });
  const made = run(makeSnapshot([makeNode(1, 4), makeNode(2, 2, { fences: true })], [makeWork(1, 9, { kind })]));
  t.equal(assigned(made, { node: 1 }), 0);
  t.ok(assigned(made, { node: 2 }) >= 2);
  t.match(reasonOf(made, 1, 1, 1), { feasible: false, reason: /too old to stop attempts.*upgrade/ });
});

test('on trial a node gets what starts at once and nothing to wait', async (t) => {
  const node = makeNode(1, 4, { onTrial: true });
  const made = run(makeSnapshot([{ ...node, free: { ...node.free, slots: 1 } }], [makeWork(1, 9), makeWork(2, 9)]));
  t.equal(assigned(made), 1);
});

test('prefill bridges the pipeline delay, after all room is taken', async (t) => {
  const settings = { pipelineDelayMs: 50, prefillMax: 4096 };
  const queue = (taskMs: number | undefined, more: Partial<NodeView> = {}, heldMs?: number) =>
    assigned(
      run(makeSnapshot([makeNode(1, 8, { busy: 8, rttMs: 0, ...more })], [makeWork(1, 1e6, { taskMs })]), {
        ...settings,
        ...(heldMs === undefined ? {} : { heldMs }),
      }),
    );
  t.equal(queue(0.0625), 4096, 'no-ops: thousands, bounded');
  t.equal(queue(4), 100, 'eight slots, 4 ms, 50 ms');
  t.equal(queue(65_536), 1, 'about a minute');
  t.equal(queue(3_600_000), 0, 'an hour');
  t.equal(queue(undefined), 4, 'unknown');
  t.equal(queue(4, { queued: 90 }), 10, 'what waits there counts');
  t.equal(queue(4, {}, 250), 600, 'longer where nodes tell later');
  t.equal(queue(4, { turnoverPerMs: 1 }, 250), 300);
  t.equal(queue(4, { turnoverPerMs: 0.1 }), 5, 'slots held by long tasks do not turn over');
  const two = run(makeSnapshot([makeNode(1, 2, { busy: 2 }), makeNode(2, 2)], [makeWork(1, 2, { taskMs: 1 })]));
  t.equal(assigned(two, { node: 2 }), 2, 'nothing queues where another could start');
  t.equal(reasonOf(two, 1)?.reason, 'full: 2 of 2 slots busy');
});

test('a full queue is part of the reason', async (t) => {
  const made = run(makeSnapshot([makeNode(1, 8, { busy: 8, queued: 9 })], [makeWork(1, 5, { taskMs: 6e7 })]));
  t.equal(reasonOf(made, 1)?.reason, 'full: 8 of 8 slots busy, 9 queued of 9');
});

test('a large task that never finds room at once gets a place that smaller ones cannot take', async (t) => {
  const large = makeKind(2, { cpuMillis: 4000 });
  const nodes = [makeNode(1, 4, { busy: 4 }), makeNode(2, 4, { busy: 3 })];
  const big = makeWork(1, 5, { kind: large, submitter: 'bob' });
  const heldBySubmitter = new Map([['ann', 7]]);
  const made = run(makeSnapshot(nodes, [big, makeWork(2, 50)], { heldBySubmitter }));
  t.same([assigned(made, { job: 1, node: 2 }), assigned(made, { job: 1 })], [1, 1], 'one, where least is missing');
  t.equal(assigned(made, { job: 2 }), 0);
  t.equal(reasonOf(made, 2)?.reason, 'full: what is free is kept for a larger task that waits there');

  const later = [
    makeNode(1, 4, { busy: 3 }),
    makeNode(2, 4, { busy: 2, queued: 1, reserve: { ...costs, cpuMillis: 4000 } }),
  ];
  const prefilled = [{ node: 2, job: 1, count: 1 }];
  const then = run(makeSnapshot(later, [{ ...big, fresh: 4 }, makeWork(2, 50)], { heldBySubmitter, prefilled }));
  t.same([assigned(then, { node: 2 }), assigned(then, { job: 1 })], [0, 0], 'it is kept, and only one waits so');
  t.equal(assigned(then, { job: 2, node: 1 }), 1, 'other nodes go on');
});
const costs = { cpuMillis: 1000, memoryBytes: 0, gpus: 0, custom: [] };

test('strategies: score prefers the better node, the others do not care', async (t) => {
  const nodes = [makeNode(1, 20, { reliability: 0.2 }), makeNode(2, 20), makeNode(3, 20)];
  const share = (strategy: PlanSettings['strategy'], seed: number) => {
    const made = run(makeSnapshot(nodes, [makeWork(1, 12)]), { strategy }, seed);
    return [1, 2, 3].map((node) => assigned(made, { node }));
  };
  t.same(share('score', 1), [0, 6, 6]);
  t.same(share('round-robin', 1), [4, 4, 4]);
  t.equal(
    share('random', 1).reduce((a, b) => a + b, 0),
    12,
  );
  const firsts = new Set<number>();
  for (let seed = 1; seed <= 40; seed++) {
    const made = run(makeSnapshot(nodes, [makeWork(1, 1)]), { strategy: seed % 2 ? 'random' : 'round-robin' }, seed);
    firsts.add(made.assignments[0]?.node ?? 0);
  }
  t.same(
    [...firsts].sort((a, b) => a - b),
    [1, 2, 3],
    'single tasks are spread too',
  );
});

test('score: what the round trip costs depends on how long the task runs', async (t) => {
  const nodes = [makeNode(1, 8, { rttMs: 40, load: 0 }), makeNode(2, 8, { rttMs: 0.2, load: 0.5 })];
  const first = (taskMs: number) => run(makeSnapshot(nodes, [makeWork(1, 1, { taskMs })])).assignments[0]?.node;
  t.equal(first(5), 2, 'short: near, though busy');
  t.equal(first(60_000), 1, 'long: idle, though far');
});

test('score: a newcomer is tried before a slightly better known node, a hopeless one is not', async (t) => {
  const first = (load: number) =>
    run(makeSnapshot([makeNode(1, 8), makeNode(2, 8, { finished: 0, load })], [makeWork(1, 1)])).assignments[0]?.node;
  t.equal(first(0.1), 2);
  t.equal(first(0.9), 1);
});

test('what one kind of work was given counts for the next that is placed', async (t) => {
  const here = makeKind(1, {}, { selector: parseSelector('name=node-1') });
  const work = [makeWork(1, 3, { kind: makeKind(2), submitter: 'bob' }), makeWork(2, 4, { kind: here })];
  const made = run(makeSnapshot([makeNode(1, 8), makeNode(2, 80, { load: 0.3 })], work));
  t.same(
    [1, 2].map((node) => assigned(made, { job: 1, node })),
    [1, 2],
    'the first finds node 1 empty, the next finds it busier than node 2',
  );
});
