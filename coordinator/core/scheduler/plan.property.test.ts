/** Properties that hold for every plan, over many drawn snapshots, and how its cost grows, in counted operations. */
import { test } from 'tap';
import { SeededRandom } from '../../../test/support/random.js';
import {
  GIB,
  makeKind,
  makeNode,
  makeRoom,
  makeSettings,
  makeSnapshot,
  makeWork,
} from '../../../test/support/snapshot.js';
import { costOf, Space } from '../room.js';
import { parseSelector } from '../../../common/selector.js';
import { ruledOut } from './feasible.js';
import { plan } from './plan.js';
import type { Kind, NodeView, PlanSettings, Snapshot, WorkView } from './types.js';

const KINDS: Kind[] = [
  makeKind(1),
  makeKind(2, { cpuMillis: 2500 }),
  makeKind(3, { memoryBytes: 3 * GIB }),
  makeKind(4, { gpus: 1 }),
  makeKind(5, { custom: { tape: 2 } }, { executor: 'function' }),
  makeKind(6, { cpuMillis: 100 }, { selector: parseSelector('zone=a') }),
];

function drawNode(random: SeededRandom, seq: number): NodeView {
  const slots = random.integer(1, 12);
  const total = makeRoom(slots, { gpus: random.integer(0, 2), custom: new Map([['tape', random.integer(0, 5)]]) });
  const busy = random.integer(0, slots);
  return makeNode(seq, slots, {
    total,
    busy,
    labels: new Map([['zone', random.pick(['a', 'b'])]]),
    executors: new Set(random.pick([['process'], ['process', 'function']])),
    state: random.chance(0.85) ? 'HEALTHY' : random.pick(['SUSPECT', 'OFFLINE']),
    draining: random.chance(0.1),
    revoked: random.chance(0.05),
    queued: random.chance(0.5) ? 0 : random.integer(0, 20),
    load: random.next(),
    rttMs: random.exponential(10),
    reliability: random.next(),
    finished: random.integer(0, 50),
    turnoverPerMs: random.chance(0.5) ? undefined : random.next(),
  });
}

function drawWork(random: SeededRandom, job: number, nodes: number): WorkView {
  const returned = Array.from({ length: random.chance(0.4) ? random.integer(1, 6) : 0 }, (_, at) => ({
    index: 1000 + at,
    failedNodes: random.chance(0.5) ? [] : [random.integer(1, nodes), random.integer(1, nodes)],
  }));
  return makeWork(job, random.chance(0.2) ? 0 : random.integer(1, 200), {
    kind: random.pick(KINDS),
    priority: random.integer(-1, 1),
    submitter: random.pick(['ann', 'bob', 'cem']),
    returned,
    blockedNodes: new Set(random.chance(0.2) ? [random.integer(1, nodes)] : []),
    taskMs: random.pick([undefined, 0.05, 3, 400, 60_000, 7_200_000]),
  });
}

function draw(random: SeededRandom): Snapshot {
  const count = random.integer(1, 15);
  const nodes = Array.from({ length: count }, (_, at) => drawNode(random, at + 1));
  const work = Array.from({ length: random.integer(0, 12) }, (_, at) => drawWork(random, at + 1, count));
  const prefilled = nodes
    .filter((node) => node.queued > 0 && work.length > 0)
    .map((node) => ({ node: node.seq, job: random.pick(work).job, count: random.integer(1, node.queued) }));
  return makeSnapshot(nodes, work, { prefilled, heldBySubmitter: new Map([['ann', random.integer(0, 50)]]) });
}

/** What is wrong with a plan; undefined when nothing is. */
function fault(snapshot: Snapshot, settings: PlanSettings, seed: number): string | undefined {
  const made = plan(snapshot, settings, 0, new SeededRandom(seed).next);
  const again = plan(snapshot, settings, 0, new SeededRandom(seed).next);
  if (JSON.stringify(made.assignments) !== JSON.stringify(again.assignments)) return 'it is not deterministic';
  const works = new Map(snapshot.work.map((work) => [work.job, work]));
  const nodes = new Map(snapshot.nodes.map((node) => [node.seq, node]));
  const beyond = new Map<number, { count: number; free: Space }>();
  let total = 0;
  for (const work of snapshot.work) {
    const own = made.assignments.filter(({ job }) => job === work.job);
    if (own.reduce((sum, { fresh }) => sum + fresh, 0) > work.fresh) return `job ${work.job} got more than is fresh`;
    const back = own.flatMap(({ returned }) => returned);
    if (new Set(back).size !== back.length) return `job ${work.job} got a returned task twice`;
    if (!back.every((index) => work.returned.some((task) => task.index === index))) return 'an unknown task was placed';
  }
  for (const { job, node: seq, fresh, returned } of made.assignments) {
    const work = works.get(job);
    const node = nodes.get(seq);
    if (!work || !node) return 'an unknown job or node';
    const cost = costOf(work.kind.resources);
    const able = snapshot.nodes.filter((other) => !ruledOut(work.kind, cost, other));
    const unblocked = able.filter((other) => !work.blockedNodes.has(other.seq));
    const usable = unblocked.length > 0 ? unblocked : able;
    if (!usable.includes(node))
      return `job ${job} went to node ${seq}: ${ruledOut(work.kind, cost, node) ?? 'blocked'}`;
    for (const index of returned) {
      const failed = work.returned.find((task) => task.index === index)?.failedNodes ?? [];
      const others = usable.some((other) => !failed.includes(other.seq));
      if (failed.includes(seq) && others) return `task ${index} of job ${job} went back to node ${seq}`;
    }
    const count = fresh + returned.length;
    if (count < 1) return 'an empty assignment';
    total += count;
    const state = beyond.get(seq) ?? { count: 0, free: new Space(node.free) };
    state.count += count;
    beyond.set(seq, state);
  }
  if (total > settings.assignmentsMax) return 'more than one plan may';
  for (const [seq, { count }] of beyond) {
    const node = nodes.get(seq) as NodeView;
    if (count > node.free.slots + Math.max(settings.prefillMax - node.queued, 0)) return `node ${seq} is overfull`;
  }
  return retractionFault(snapshot, made.retractions);
}

function retractionFault(
  snapshot: Snapshot,
  asked: { node: number; job: number; count: number }[],
): string | undefined {
  const keys = asked.map(({ node, job }) => `${node}/${job}`);
  if (new Set(keys).size !== keys.length) return 'one question asked twice';
  for (const { node, job, count } of asked) {
    const there = snapshot.prefilled.find((row) => row.node === node && row.job === job)?.count ?? 0;
    if (count < 1 || count > there) return `${count} of ${there} asked back`;
  }
  return undefined;
}

test('every plan keeps its promises', async (t) => {
  for (let seed = 1; seed <= 400; seed++) {
    const random = new SeededRandom(seed);
    const strategy = random.pick(['score', 'round-robin', 'random'] as const);
    const settings = makeSettings({
      strategy,
      prefillMax: random.pick([0, 10, 4096]),
      assignmentsMax: random.pick([7, 20_000]),
    });
    const found = fault(draw(random), settings, seed);
    if (found) t.fail(`seed ${seed}, ${strategy}: ${found}`);
  }
  t.pass('400 snapshots');
});

test('without prefill, nothing goes beyond what is free, in any resource', async (t) => {
  for (let seed = 1; seed <= 200; seed++) {
    const random = new SeededRandom(seed);
    const snapshot = draw(random);
    const made = plan(snapshot, makeSettings({ prefillMax: 0 }), 0, random.next);
    for (const node of snapshot.nodes) {
      const free = new Space(node.free);
      for (const { job, fresh, returned } of made.assignments.filter((one) => one.node === node.seq)) {
        const work = snapshot.work.find((one) => one.job === job) as WorkView;
        free.take(costOf(work.kind.resources), fresh + returned.length);
      }
      const least = Math.min(free.slots, free.cpuMillis, free.memoryBytes, free.gpus, ...free.custom.values());
      if (least < 0) t.fail(`seed ${seed}: node ${node.seq} is overdrawn`);
    }
  }
  t.pass('200 snapshots');
});

test('with room everywhere, everything that can run is placed', async (t) => {
  for (let seed = 1; seed <= 100; seed++) {
    const random = new SeededRandom(seed);
    const nodes = [1, 2, 3].map((seq) => makeNode(seq, 400));
    const work = [1, 2, 3, 4].map((job) => makeWork(job, random.integer(0, 250), { submitter: `s${job % 2}` }));
    const made = plan(makeSnapshot(nodes, work), makeSettings(), 0, random.next);
    const placed = made.assignments.reduce((sum, { fresh }) => sum + fresh, 0);
    t.equal(
      placed,
      work.reduce((sum, { fresh }) => sum + fresh, 0),
    );
  }
});

const fleet = (count: number) => Array.from({ length: count }, (_, at) => makeNode(at + 1, 8));
const operations = (nodes: number, fresh: number, jobs = 1, settings: Partial<PlanSettings> = {}) => {
  const work = Array.from({ length: jobs }, (_, at) => makeWork(at + 1, fresh));
  return plan(makeSnapshot(fleet(nodes), work), makeSettings(settings), 0, new SeededRandom(1).next).operations;
};

test('the cost of a plan does not depend on how much waits', async (t) => {
  t.equal(operations(100, 10_000), operations(100, 10_000_000));
});

test('the cost of a plan grows with nodes, kinds and placements, a few steps each', async (t) => {
  const few = operations(1000, 1);
  t.ok(few < 30 * 1000, `one task at 1,000 nodes: ${few} operations`);
  const many = operations(1000, 8000);
  t.ok(many / 8000 < 60, `8,000 tasks at 1,000 nodes: ${many} operations`);
  const jobs = operations(1000, 1_000_000, 500);
  t.ok(jobs < many + 500 * 40 + 8000 * 40, `500 jobs of one kind cost hardly more than one: ${jobs}`);
  const full = Array.from({ length: 1000 }, (_, at) => makeNode(at + 1, 8, { busy: 8 }));
  const works = Array.from({ length: 500 }, (_, at) =>
    makeWork(at + 1, 1000, { kind: makeKind(1, { cpuMillis: 2000 }) }),
  );
  const stuck = plan(makeSnapshot(full, works), makeSettings(), 0, new SeededRandom(1).next).operations;
  t.ok(stuck < 10_000, `a full mesh is seen to be full once: ${stuck}`);
});

test('prefilling no-ops takes far fewer steps than tasks', async (t) => {
  const nodes = fleet(100).map((node) => ({ ...node, free: { ...node.free, slots: 0 } }));
  const made = plan(
    makeSnapshot(nodes, [makeWork(1, 1e7, { taskMs: 0.05 })]),
    makeSettings({ assignmentsMax: 200_000 }),
    0,
    () => 0,
  );
  const placed = made.assignments.reduce((sum, { fresh }) => sum + fresh, 0);
  t.equal(placed, 200_000);
  t.ok(made.operations < placed / 10, `${made.operations} operations for ${placed} tasks`);
});
