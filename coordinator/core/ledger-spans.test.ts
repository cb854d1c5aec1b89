import { test } from 'tap';
import { SeededRandom } from '../../test/support/random.js';
import { Ledger, type LiveAttempt } from './ledger.js';
import type { Kind, Room } from './scheduler/types.js';

const kind: Kind = {
  id: 1,
  executor: 'function',
  resources: { cpuMillis: 0, memoryBytes: 0, gpus: 0, custom: {} },
  selector: [],
};
const roomOf = (slots: number): Room => ({
  ...{ slots, cpuMillis: slots * 1000, memoryBytes: slots * 1e9, gpus: 0, custom: new Map() },
});
const NODES = [1, 2];
const JOBS = [1, 2, 3];

/** The same ranges and runs, task by task. */
class OneByOne extends Ledger {
  override addSpan(...[{ job, node, from, to }, ...rest]: Parameters<Ledger['addSpan']>): void {
    for (let index = from; index < to; index++)
      this.add({ job, index, generation: 1, node, failures: 0, losses: 0 }, ...rest);
  }

  override liveRun(...[job, node, first, count]: Parameters<Ledger['liveRun']>): ReturnType<Ledger['liveRun']> {
    const singles = Array.from({ length: count }, (_, i) => this.current(job, first + i));
    const live = singles.filter((attempt) => attempt?.generation === 1 && attempt.node === node) as LiveAttempt[];
    if (live.length < count) return undefined;
    return { singles: live, pieces: live.map(({ assignedAtMs }) => ({ size: 1, assignedAtMs })) };
  }

  override removeRun(...[job, node, first, count]: Parameters<Ledger['removeRun']>): void {
    for (let index = first; index < first + count; index++) this.remove({ job, index, generation: 1 }, node);
  }
}

/** What can be seen without asking for single attempts. */
const seen = (ledger: Ledger) => ({
  size: ledger.size,
  prefilled: ledger.prefilled().toSorted((a, b) => a.node - b.node || a.job - b.job),
  held: JOBS.map((job) => ledger.heldBySubmitter().get(`of ${job}`)),
  jobs: JOBS.map((job) => [ledger.heldByJob(job), ledger.occupiedByJob(job), ledger.indexesOf(job, 5).join()]),
  occupants: Array.from(ledger.occupants(), ({ job }) => job).sort((a, b) => a - b),
  nodes: NODES.map((node) => {
    const { free, queued, turnoverPerMs } = ledger.room(node);
    return { free: free.slots, queued, turnoverPerMs, count: ledger.countOn(node) };
  }),
});

const each = (ledger: Ledger) => [
  ...NODES.map((node) =>
    ledger.ofNode(node).map((a) => [a.job, a.index, a.generation, a.holding, a.retracting, a.assignedAtMs].join()),
  ),
  ...JOBS.map((job) =>
    ledger
      .ofJob(job)
      .map(({ index, node }) => `${index} ${node}`)
      .sort(),
  ),
];

/** One step, the same on every ledger. What it returns is compared. */
function step(random: SeededRandom, ends: Map<number, number>, nowMs: number): (ledger: Ledger) => unknown {
  const job = random.pick(JOBS);
  const node = random.pick(NODES);
  const end = ends.get(job) ?? 0;
  const index = random.integer(0, Math.max(0, end - 1));
  const count = random.integer(1, 12);
  const ref = { job, index, generation: random.chance(0.8) ? 1 : 2 };
  const switched = random.integer(0, 11);
  if (switched < 3) {
    // Nearly always what follows; sometimes what was given before, as after an answer that was lost.
    const from = random.chance(0.9) ? end : index;
    ends.set(job, Math.max(end, from + count));
    return (ledger) => ledger.addSpan({ job, node, from, to: from + count }, kind, `of ${job}`, nowMs);
  }
  if (switched < 6)
    return (ledger) => {
      const run = ledger.liveRun(job, node, index, count);
      const since = run?.pieces.flatMap(({ size, assignedAtMs }) => new Array<number>(size).fill(assignedAtMs));
      ledger.removeRun(job, node, index, count);
      return since;
    };
  if (switched === 6)
    return (ledger) => ledger.add({ ...ref, node, failures: 0, losses: 1 }, kind, `of ${job}`, nowMs).node;
  if (switched === 7) return (ledger) => ledger.markRunning(ref, node, nowMs);
  if (switched === 8) return (ledger) => ledger.remove(ref)?.index;
  if (switched === 9)
    return (ledger) => ledger.takeBack({ node, job, count }).map((taken) => Object.values(taken).join());
  if (switched === 10) return (ledger) => [ledger.has(job, index), ledger.setAside(ref), ledger.condemn(ref, node)];
  return (ledger) => {
    ledger.keep(ref, node);
    ledger.release(ref, node);
    ledger.setNode(node, roomOf(count % 4));
    return ledger.runningOf(job).length;
  };
}

for (const seed of [1, 2, 3, 4, 5, 6, 7, 8])
  test(`ranges and runs are as if each task had come and gone by itself (seed ${seed})`, async (t) => {
    const random = new SeededRandom(seed);
    const ledgers = [new Ledger(), new OneByOne()];
    for (const ledger of ledgers) for (const node of NODES) ledger.setNode(node, roomOf(2));
    const ends = new Map<number, number>();
    for (let turn = 0; turn < 400; turn++) {
      const next = step(random, ends, turn);
      const looksClosely = random.chance(0.05);
      const answers = ledgers.map((ledger) => [next(ledger), seen(ledger), looksClosely && each(ledger)]);
      if (JSON.stringify(answers[0]) === JSON.stringify(answers[1])) continue;
      t.same(answers[0], answers[1], `turn ${turn}`);
      return;
    }
    t.same(...(ledgers.map(each) as [unknown, unknown]), 'in the end');
  });

test('what waits as it came is one object, and the tasks of it are found', async (t) => {
  const ledger = new Ledger();
  ledger.setNode(1, roomOf(2));
  ledger.addSpan({ job: 1, node: 1, from: 0, to: 10_000 }, kind, 'ann', 5);
  t.same(
    ledger.liveRun(1, 1, 0, 10_000)?.pieces.map(({ size }) => size),
    [1, 1, 9998],
  );
  t.equal(ledger.get({ job: 1, index: 500, generation: 1 }, 1)?.assignedAtMs, 5);
  t.same(
    ledger.liveRun(1, 1, 0, 10_000)?.pieces.map(({ size }) => size),
    [1, 1, 498, 1, 9499],
  );
  t.equal(ledger.liveRun(1, 2, 0, 10), undefined, 'of another node');
  t.equal(ledger.liveRun(1, 1, 9_999, 2), undefined, 'beyond its end');
  ledger.removeRun(1, 1, 0, 9_000);
  t.same(
    ledger
      .ofNode(1)
      .slice(0, 3)
      .map(({ index, holding }) => [index, holding]),
    [
      [9000, true],
      [9001, true],
      [9002, false],
    ],
  );
  ledger.removeRun(1, 1, 9_000, 1_000);
  t.same([ledger.size, ledger.room(1).free.slots, [...ledger.occupants()].length], [0, 2, 0]);
});
