import { test } from 'tap';
import { SeededRandom } from '../../test/support/random.js';
import { Ledger, type LiveAttempt } from './ledger.js';
import { costOf, fitCount, Space } from './room.js';
import type { Kind, Room } from './scheduler/types.js';

const kindOf = (id: number, ask: Partial<Kind['resources']> = {}): Kind => ({
  id,
  executor: 'process',
  resources: { cpuMillis: 0, memoryBytes: 0, gpus: 0, custom: {}, ...ask },
  selector: [],
});
const roomOf = (slots: number, more: Partial<Room> = {}): Room => ({
  slots,
  cpuMillis: slots * 1000,
  memoryBytes: slots * 1e9,
  gpus: 0,
  custom: new Map(),
  ...more,
});
const small = kindOf(1);
const task = (job: number, index: number, node = 1, generation = 1) => ({
  job,
  index,
  generation,
  node,
  failures: 0,
  losses: 0,
});
const names = (attempts: readonly LiveAttempt[]) => attempts.map(({ job, index }) => `${job}.${index}`);

test('what fits holds room, the rest waits and holds none, and the oldest follows', async (t) => {
  const ledger = new Ledger();
  ledger.setNode(1, roomOf(2));
  const added = [0, 1, 2, 3].map((index) => ledger.add(task(1, index), small, 'ann', 10.4));
  t.same(
    added.map(({ holding }) => holding),
    [true, true, false, false],
  );
  t.equal(added[0]?.assignedAtMs, 10);
  t.equal(ledger.room(1).free.slots, 0);
  t.equal(ledger.room(1).queued, 2);
  t.same(ledger.prefilled(), [{ node: 1, job: 1, count: 2 }]);
  t.equal(ledger.heldBySubmitter().get('ann'), 4);
  ledger.remove(task(1, 1), 1);
  t.ok(ledger.current(1, 2)?.holding, 'the first that waited holds its room');
  t.notOk(ledger.current(1, 3)?.holding);
  t.same(names(ledger.ofNode(1)), ['1.0', '1.2', '1.3']);
});

test('a reference matches one generation on one node', async (t) => {
  const ledger = new Ledger();
  ledger.setNode(1, roomOf(4));
  ledger.setNode(2, roomOf(4));
  ledger.add(task(1, 0, 1, 3), small, 'ann', 0);
  t.ok(ledger.get({ job: 1, index: 0, generation: 3 }, 1));
  t.notOk(ledger.get({ job: 1, index: 0, generation: 3 }, 2), 'another node');
  t.notOk(ledger.get({ job: 1, index: 0, generation: 2 }), 'an older generation');
  t.notOk(ledger.remove({ job: 1, index: 0, generation: 2 }), 'nothing is removed by a stale reference');
  t.equal(ledger.add(task(1, 0, 2, 2), small, 'ann', 0).node, 1, 'an older assignment changes nothing');
  t.equal(ledger.add(task(1, 0, 2, 4), small, 'ann', 0).node, 2, 'a newer one makes the older give way');
  t.equal(ledger.room(1).free.slots, 4);
  t.equal(ledger.size, 1);
});

test("the agent's word overrides the mirror, even beyond the node's room", async (t) => {
  const ledger = new Ledger();
  ledger.setNode(1, roomOf(1));
  ledger.add(task(1, 0), small, 'ann', 0);
  ledger.add(task(1, 1), small, 'ann', 0);
  t.ok(ledger.markRunning(task(1, 1), 1, 55.6));
  t.notOk(ledger.markRunning(task(1, 1, 1, 9), 1, 55), 'stale');
  t.equal(ledger.current(1, 1)?.startedAtMs, 56);
  t.equal(ledger.room(1).free.slots, -1);
  t.equal(ledger.room(1).queued, 0);
  ledger.remove(task(1, 0));
  ledger.remove(task(1, 1));
  t.equal(ledger.room(1).free.slots, 1);
});

test('what is asked back is not asked back twice', async (t) => {
  const ledger = new Ledger();
  ledger.setNode(1, roomOf(1));
  for (let index = 0; index < 5; index++) ledger.add(task(1, index), small, 'ann', 0);
  ledger.add(task(2, 0), small, 'bob', 0);
  t.same(
    ledger.takeBack({ node: 1, job: 1, count: 2 }).map(({ index }) => index),
    [4, 3],
    'the latest first',
  );
  t.same(ledger.prefilled(), [
    { node: 1, job: 1, count: 2 },
    { node: 1, job: 2, count: 1 },
  ]);
  ledger.keep(task(1, 4), 1);
  ledger.remove(task(1, 3), 1);
  t.same(
    ledger.takeBack({ node: 1, job: 1, count: 9 }).map(({ index }) => index),
    [4, 2, 1],
  );
  ledger.remove(task(1, 0));
  t.ok(ledger.current(1, 1)?.holding, 'asked back, but it may start before the question arrives');
  t.same(ledger.prefilled(), [{ node: 1, job: 2, count: 1 }]);
  ledger.keep(task(1, 1), 1);
  t.notOk(ledger.current(1, 1)?.retracting);
});

test('what failed somewhere is told apart from what may be moved anywhere', async (t) => {
  const ledger = new Ledger();
  ledger.setNode(1, roomOf(1));
  for (let index = 0; index < 3; index++) ledger.add(task(1, index), small, 'ann', 0);
  ledger.add({ ...task(1, 3), failedNodes: [2, 4] }, small, 'ann', 0);
  ledger.add({ ...task(1, 4), failedNodes: [2] }, small, 'ann', 0);
  const wary = [
    { node: 1, job: 1, count: 1, index: 3, failedNodes: [2, 4] },
    { node: 1, job: 1, count: 1, index: 4, failedNodes: [2] },
  ];
  t.same(ledger.prefilled(), [{ node: 1, job: 1, count: 2 }, ...wary]);
  const take = (asked: { count: number; index?: number }) =>
    ledger.takeBack({ node: 1, job: 1, ...asked }).map(({ index }) => index);
  t.same(take({ count: 1, index: 3 }), [3]);
  t.same(take({ count: 1, index: 3 }), [], 'not twice');
  t.same(take({ count: 1, index: 1 }), [], 'it failed nowhere, so it goes with its like');
  t.same(take({ count: 9 }), [2, 1]);
  t.same(ledger.prefilled(), wary.slice(1));
  ledger.keep(task(1, 3), 1);
  t.same(ledger.prefilled(), wary);
  ledger.recount(task(1, 4), { failures: 2, losses: 0, failedNodes: [2, 3] });
  ledger.keep(task(1, 2), 1);
  ledger.recount(task(1, 2), { failures: 1, losses: 0, failedNodes: [3] });
  t.same(ledger.prefilled(), [
    wary[0],
    { ...wary[1], failedNodes: [2, 3] },
    { node: 1, job: 1, count: 1, index: 2, failedNodes: [3] },
  ]);
  for (const index of [3, 4, 2]) ledger.remove(task(1, index));
  t.same(ledger.prefilled(), [], 'nothing of them is left behind');
  ledger.remove(task(1, 0));
  t.equal(ledger.current(1, 1)?.holding, true);
});

test('a large attempt that waits is named, so that nothing smaller is put before it', async (t) => {
  const ledger = new Ledger();
  ledger.setNode(1, roomOf(4));
  const large = kindOf(2, { cpuMillis: 4000 });
  for (let index = 0; index < 3; index++) ledger.add(task(1, index), small, 'ann', 0);
  t.equal(ledger.room(1).reserve, undefined);
  ledger.add(task(2, 0), large, 'bob', 0);
  t.equal(ledger.room(1).reserve?.cpuMillis, 4000);
  for (let index = 0; index < 3; index++) ledger.remove(task(1, index));
  t.ok(ledger.current(2, 0)?.holding);
  t.equal(ledger.room(1).reserve, undefined);
});

test('a node that changes keeps what it was given; one that is not known yet has no room', async (t) => {
  const ledger = new Ledger();
  for (let index = 0; index < 3; index++) ledger.add(task(1, index, 7), small, 'ann', 0);
  t.equal(ledger.room(7).queued, 3);
  ledger.setNode(7, roomOf(2));
  t.equal(ledger.room(7).queued, 1);
  ledger.setNode(7, roomOf(8));
  t.same([ledger.room(7).queued, ledger.room(7).free.slots], [0, 5]);
  t.equal(ledger.removeNode(7).length, 3);
  t.same([ledger.size, ledger.heldBySubmitter().size, ledger.room(7).queued], [0, 0, 0]);
});

test('turnover adds up what the busy slots finish', async (t) => {
  const ledger = new Ledger();
  ledger.setNode(1, roomOf(4));
  t.equal(ledger.room(1).turnoverPerMs, undefined);
  for (let index = 0; index < 2; index++) ledger.add(task(1, index), small, 'ann', 0);
  ledger.add(task(2, 0), small, 'ann', 0);
  const turnover = ledger.room(1, (job) => (job === 1 ? 10 : undefined)).turnoverPerMs ?? 0;
  t.ok(Math.abs(turnover - (2 / 10 + 1 / 1000)) < 1e-12);
});

test('over random histories the account adds up', async (t) => {
  for (let seed = 1; seed <= 20; seed++) {
    const random = new SeededRandom(seed);
    const ledger = new Ledger();
    const totals = new Map([1, 2, 3].map((node) => [node, roomOf(random.integer(1, 6), { gpus: 2 })]));
    for (const [node, total] of totals) ledger.setNode(node, total);
    const kinds = [kindOf(1), kindOf(2, { cpuMillis: 2000 }), kindOf(3, { gpus: 1, memoryBytes: 5e8 })];
    const model = new Map<string, { ref: ReturnType<typeof task>; submitter: string }>();
    for (let step = 0; step < 600; step++) {
      const job = random.integer(1, 9);
      if (random.chance(0.55)) {
        const ref = task(job, random.integer(0, 30), random.integer(1, 3), step + 1);
        ledger.add(ref, kinds[job % 3] as Kind, `s${job % 2}`, step);
        model.set(`${ref.job}.${ref.index}`, { ref, submitter: `s${job % 2}` });
      } else if (model.size > 0) {
        const [key, { ref }] = random.pick([...model]);
        if (random.chance(0.1)) ledger.takeBack({ node: ref.node, job: ref.job, count: 2 });
        else if (ledger.remove(ref, ref.node)) model.delete(key);
      }
    }
    check(ledger, totals, model, seed);
  }

  function check(
    ledger: Ledger,
    totals: Map<number, Room>,
    model: Map<string, { ref: ReturnType<typeof task>; submitter: string }>,
    seed: number,
  ) {
    t.equal(ledger.size, model.size, `size, seed ${seed}`);
    const bySubmitter = new Map<string, number>();
    for (const { submitter } of model.values()) bySubmitter.set(submitter, (bySubmitter.get(submitter) ?? 0) + 1);
    t.same(ledger.heldBySubmitter(), bySubmitter, `held, seed ${seed}`);
    for (const [node, total] of totals) {
      const attempts = ledger.ofNode(node);
      const free = new Space(total);
      for (const { holding, kind } of attempts) if (holding) free.take(costOf(kind.resources));
      const room = ledger.room(node);
      t.match(room.free, {
        slots: free.slots,
        cpuMillis: free.cpuMillis,
        memoryBytes: free.memoryBytes,
        gpus: free.gpus,
      });
      t.ok(free.slots >= 0 && free.cpuMillis >= 0 && free.gpus >= 0, 'never overdrawn by its own doing');
      const waiting = attempts.filter(({ holding }) => !holding);
      t.equal(room.queued, waiting.length);
      t.notOk(
        waiting.some(({ kind }) => fitCount(room.free, costOf(kind.resources)) > 0),
        `nothing waits that fits, seed ${seed}`,
      );
    }
  }
});

test('a copied task has two attempts, each with room on its node, until one is removed', async (t) => {
  for (const first of ['original', 'copy'] as const) {
    const ledger = new Ledger();
    for (const node of [1, 2]) ledger.setNode(node, roomOf(1));
    const original = ledger.add(task(1, 0, 1, 1), small, 'ann', 0);
    t.ok(ledger.setAside(original));
    const copy = ledger.add(task(1, 0, 2, 2), small, 'ann', 5);
    t.notOk(ledger.setAside(copy), 'not three');
    t.same(ledger.ofTask(1, 0), [copy, original]);
    t.same(ledger.ofJob(1), [copy, original]);
    t.equal(ledger.heldByJob(1), 2);
    t.equal(ledger.size, 2);
    t.equal(ledger.heldBySubmitter().get('ann'), 2);
    t.same([ledger.room(1).free.slots, ledger.room(2).free.slots], [0, 0]);
    t.equal(ledger.get(original, 1), original);
    t.equal(ledger.get(copy, 2), copy);
    t.notOk(ledger.get(original, 2));
    t.notOk(ledger.get(copy, 1));
    t.equal(ledger.current(1, 0), copy);
    t.same([names(ledger.ofNode(1)), names(ledger.ofNode(2))], [['1.0'], ['1.0']]);
    t.ok(ledger.markRunning(original, 1, 3));
    const [gone, left] = first === 'original' ? [original, copy] : [copy, original];
    ledger.remove(gone);
    t.equal(ledger.current(1, 0), left, `the ${first} is removed first`);
    t.same(ledger.ofTask(1, 0), [left]);
    ledger.recount(left, { failures: 1, losses: 2, failedNodes: [3] });
    t.match(ledger.get(left), { failures: 1, losses: 2, failedNodes: [3] });
    ledger.remove(left);
    t.equal(ledger.size, 0);
    t.equal(ledger.heldByJob(1), 0);
    t.same([ledger.room(1).free.slots, ledger.room(2).free.slots], [1, 1]);
  }
});

test('a later assignment of a copied task makes both of its attempts way', async (t) => {
  const ledger = new Ledger();
  for (const node of [1, 2, 3]) ledger.setNode(node, roomOf(1));
  ledger.setAside(ledger.add(task(1, 0, 1, 1), small, 'ann', 0));
  ledger.add(task(1, 0, 2, 2), small, 'ann', 0);
  const next = ledger.add(task(1, 0, 3, 3), small, 'ann', 0);
  t.same(ledger.ofTask(1, 0), [next]);
  t.same(
    [1, 2, 3].map((node) => ledger.room(node).free.slots),
    [1, 1, 0],
  );
  t.notOk(ledger.setAside(task(1, 0, 1, 1)), 'a superseded one is not set aside');
  ledger.setNode(1, roomOf(1));
  ledger.setAside(next);
  t.same(names(ledger.removeNode(3)), ['1.0'], 'a node takes originals with it');
  t.equal(ledger.size, 0);
});
