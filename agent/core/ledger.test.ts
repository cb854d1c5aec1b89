import { test } from 'tap';
import type { JobBody } from '../../proto/gen/mesh/v1/agent.js';
import { Ledger, type LedgerOptions } from './ledger.js';

const body = (job: number, resources: Partial<NonNullable<JobBody['resources']>> = {}): JobBody => ({
  job,
  jobId: `job-${job}`,
  work: { $case: 'process', value: { argv: ['true'], environment: {} } },
  resources: { cpuMillis: 0, memoryBytes: 0, gpus: 0, custom: {}, ...resources },
  timeoutMs: 0,
  taskCount: 10,
  array: undefined,
  logBytesMax: 0,
  onDisconnect: 1,
  sandbox: 0,
  net: false,
  limits: undefined,
  secrets: [],
});

const make = (slots = 2, options: LedgerOptions = {}, gpus = 0) =>
  new Ledger({ slots, cpuMillis: slots * 1000, memoryBytes: 1000, gpus, custom: { licence: 1 } }, options);

const give = (ledger: Ledger, job: number, indexes: number[], generation = 1) =>
  ledger.assign([{ job, indexes, generations: indexes.map(() => generation), attempts: [], inputs: [] }]);

const refs = (...items: [number, number, number][]) => ({
  jobs: items.map((item) => item[0]),
  indexes: items.map((item) => item[1]),
  generations: items.map((item) => item[2]),
});

const one = () => 1;

test('attempts start in order of arrival, within the slots, and leave on acknowledgement', async (t) => {
  const ledger = make(2);
  ledger.addBodies([body(1)]);
  t.equal(give(ledger, 1, [5, 3, 9]).added, 3);
  const launches = ledger.launch(one);
  t.same(
    launches.map((launch) => launch.attempts.map((attempt) => attempt.index)),
    [[5], [3]],
  );
  t.equal(ledger.slotsHeld, 2);
  t.equal(ledger.queued, 1);
  const [first] = launches[0]!.attempts;
  ledger.started(first!);
  t.equal(first!.state, 'RUNNING');
  t.ok(ledger.ended(first!));
  t.same(ledger.report().unacknowledged, refs([1, 5, 1]));
  t.same(ledger.report().running, refs([1, 3, 1]));
  t.same(ledger.report().prefilled, refs([1, 9, 1]));
  t.equal(ledger.launch(one)[0]!.attempts[0]!.index, 9);
  t.equal(ledger.acknowledge(refs([1, 5, 1])).length, 1);
  t.equal(ledger.acknowledge(refs([1, 5, 1])).length, 0, 'a repeated acknowledgement changes nothing');
  t.equal(ledger.unacknowledged, 0);
});

test('a repeated assignment is ignored, a higher generation supersedes', async (t) => {
  const ledger = make(1);
  ledger.addBodies([body(1)]);
  give(ledger, 1, [0]);
  t.match(give(ledger, 1, [0]), { added: 0, repeated: 1 });
  const [launch] = ledger.launch(one);
  const old = launch!.attempts[0]!;
  const result = give(ledger, 1, [0], 2);
  t.same(result.kill, [old]);
  t.equal(ledger.launch(one).length, 0, 'the dying attempt still holds its slot');
  t.equal(ledger.ended(old), false, 'the end of a superseded attempt is not reported');
  t.equal(ledger.launch(one)[0]!.attempts[0]!.generation, 2);
  t.match(give(ledger, 1, [0], 1), { added: 0, repeated: 1 });
});

test('a task that is assigned anew waits until nothing of its former attempt runs, however much room there is', async (t) => {
  const ledger = make(4);
  ledger.addBodies([body(1)]);
  give(ledger, 1, [0]);
  const old = ledger.launch(one)[0]!.attempts[0]!;
  t.same(give(ledger, 1, [0], 2).kill, [old]);
  t.equal(ledger.launch(one).length, 0);
  give(ledger, 1, [0], 3);
  t.equal(ledger.launch(one).length, 0, 'nor does the next');
  ledger.ended(old);
  t.same(
    ledger.launch(one).map((launch) => launch.attempts.map((attempt) => attempt.generation)),
    [[3]],
  );

  const [other] = [give(ledger, 1, [1]), ledger.launch(one)[0]!.attempts[0]!].slice(1) as [typeof old];
  t.same(ledger.discard(refs([1, 1, 1])), [other], 'superseded in a hello');
  ledger.forgetIdleBodies();
  give(ledger, 1, [1], 2);
  t.equal(ledger.launch(one).length, 0);
  t.same(ledger.retract(refs([1, 1, 2])).dropped, refs([1, 1, 2]), 'it can be given back meanwhile');
  ledger.ended(other);
  t.equal(ledger.launch(one).length, 0);
});

test('a superseded attempt that waited never starts', async (t) => {
  const ledger = make(4);
  ledger.addBodies([body(1)]);
  give(ledger, 1, [0]);
  t.same(give(ledger, 1, [0], 7).kill, []);
  const started = ledger.launch(one).flatMap((launch) => launch.attempts.map((attempt) => attempt.generation));
  t.same(started, [7]);
});

test('retract drops what waits and keeps what started', async (t) => {
  const ledger = make(1);
  ledger.addBodies([body(1)]);
  give(ledger, 1, [0, 1, 2]);
  ledger.launch(one);
  const { dropped, kept } = ledger.retract(refs([1, 0, 1], [1, 1, 1], [1, 8, 1]));
  t.same(dropped, refs([1, 1, 1], [1, 8, 1]));
  t.same(kept, refs([1, 0, 1]));
  t.equal(ledger.queued, 1);
  t.equal(ledger.get(1, 1), undefined);
});

test('cancel ends what waits and names what must be killed', async (t) => {
  const ledger = make(1);
  ledger.addBodies([body(1)]);
  give(ledger, 1, [0, 1]);
  const [launch] = ledger.launch(one);
  const result = ledger.cancel(refs([1, 0, 1], [1, 1, 1], [1, 1, 9], [4, 4, 4]));
  t.same(result.kill, [launch!.attempts[0]]);
  t.same(
    result.ended.map((attempt) => attempt.index),
    [1],
  );
  t.same(result.unknown, refs([1, 1, 9], [4, 4, 4]));
  ledger.ended(launch!.attempts[0]!);
  t.equal(ledger.launch(one).length, 0);
  t.equal(ledger.unacknowledged, 2);
});

test('discard forgets results and returns what runs', async (t) => {
  const ledger = make(1);
  ledger.addBodies([body(1)]);
  give(ledger, 1, [0, 1]);
  const [launch] = ledger.launch(one);
  t.same(ledger.discard(refs([1, 0, 1], [1, 1, 1])), [launch!.attempts[0]]);
  t.same(ledger.report(), { prefilled: refs(), running: refs(), unacknowledged: refs() });
  t.equal(ledger.ended(launch!.attempts[0]!), false);
  t.ok(ledger.idle);
});

test('a smaller attempt passes one that does not fit, but not for ever', async (t) => {
  const ledger = make(4, { passesMax: 2 });
  ledger.addBodies([body(1), body(2, { cpuMillis: 4000 }), body(3, { cpuMillis: 1000 })]);
  give(ledger, 3, [0]);
  ledger.launch(one);
  give(ledger, 2, [0]);
  give(ledger, 3, [1, 2, 3, 4]);
  const passed = ledger.launch(one);
  t.same(
    passed.map((launch) => launch.attempts[0]!.index),
    [1, 2],
    'two pass, then everything waits for the large one',
  );
  for (const launch of passed) ledger.ended(launch.attempts[0]!);
  t.equal(ledger.launch(one).length, 0);
  ledger.ended(ledger.get(3, 0)!);
  t.equal(ledger.launch(one)[0]!.body.job, 2);
});

test('GPUs are allotted by index and released', async (t) => {
  const ledger = make(3, {}, 2);
  ledger.addBodies([body(1, { gpus: 1 })]);
  give(ledger, 1, [0, 1, 2]);
  const [a, b] = ledger.launch(one);
  t.same([a!.gpus, b!.gpus], [[0], [1]]);
  ledger.ended(a!.attempts[0]!);
  t.same(ledger.launch(one)[0]!.gpus, [0]);
});

test('what can never run here is refused with the reason', async (t) => {
  const ledger = make(2);
  ledger.addBodies([body(1, { gpus: 3 }), body(2, { custom: { licence: 2 } }), body(3, { memoryBytes: 1001 })]);
  for (const [job, reason] of [
    [1, /3 GPUs, this node has 0/],
    [2, /2 of licence, this node has 1/],
    [3, /1001 bytes of memory/],
  ] as const) {
    const result = give(ledger, job, [0]);
    t.match(result.impossible[0]?.reason, reason);
    t.equal(result.impossible[0]?.attempt.state, 'ENDED');
  }
  t.same(give(ledger, 9, [0]).unknownJobs, [9]);
});

test('attempts of one job share a launch and a slot; returned ones go first', async (t) => {
  const ledger = make(2);
  ledger.addBodies([body(1), body(2)]);
  give(ledger, 1, [0, 1, 2, 3]);
  give(ledger, 2, [0]);
  const [shared, other] = ledger.launch(() => 10);
  t.equal(shared!.attempts.length, 4);
  t.equal(other!.body.job, 2, 'a launch never mixes jobs');
  t.equal(ledger.slotsHeld, 2);
  t.equal(ledger.queued, 3);
  give(ledger, 1, [4]);
  ledger.ended(other!.attempts[0]!);
  ledger.returned(shared!.attempts.slice(1));
  t.equal(ledger.slotsHeld, 1, 'the first attempt still holds the slot');
  const [next] = ledger.launch(() => 10);
  t.same(
    next!.attempts.map((attempt) => attempt.index),
    [1, 2, 3, 4],
  );
});

test('an attempt superseded while it waited in a launch is not put back', async (t) => {
  const ledger = make(1);
  ledger.addBodies([body(1)]);
  give(ledger, 1, [0, 1]);
  const [launch] = ledger.launch(() => 10);
  give(ledger, 1, [1], 2);
  ledger.returned([launch!.attempts[1]!]);
  ledger.ended(launch!.attempts[0]!);
  const started = ledger.launch(() => 10).flatMap((next) => next.attempts.map((attempt) => attempt.generation));
  t.same(started, [2]);
});

test('random histories never exceed the room and lose nothing', async (t) => {
  let seed = 12345;
  const random = (below: number) => {
    seed = (seed + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), seed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
  const ledger = new Ledger({ slots: 3, cpuMillis: 3000, memoryBytes: 100, gpus: 2, custom: {} });
  ledger.addBodies([
    body(0),
    body(1, { cpuMillis: 1000 }),
    body(2, { cpuMillis: 3000 }),
    body(3, { gpus: 1, memoryBytes: 60 }),
  ]);
  const running = new Set<ReturnType<Ledger['launch']>[number]>();
  let assigned = 0;
  let reported = 0;
  let removed = 0;
  for (let step = 0; step < 20_000; step++) {
    const job = random(4);
    if (step < 15_000 && random(3) === 0) assigned += give(ledger, job, [assigned]).added;
    else if (random(8) === 0) {
      const index = Math.max(0, assigned - 1 - random(30));
      const waits = ledger.get(job, index)?.state === 'PREFILLED';
      ledger.retract(refs([job, index, 1]));
      if (waits) removed++;
    }
    for (const launch of ledger.launch(() => 1 + random(4))) running.add(launch);
    const held = { cpu: 0, memory: 0, gpus: new Set<number>(), gpuCount: 0 };
    for (const launch of running) {
      held.cpu += launch.demand.cpuMillis;
      held.memory += launch.demand.memoryBytes;
      held.gpuCount += launch.gpus.length;
      for (const gpu of launch.gpus) held.gpus.add(gpu);
    }
    if (running.size > 3 || held.cpu > 3000 || held.memory > 100 || held.gpus.size !== held.gpuCount)
      t.fail(`room exceeded at step ${step}`);
    for (const launch of running) {
      if (random(6) !== 0) continue;
      const live = launch.attempts.filter((attempt) => attempt.launch === launch);
      const first = live[0]!;
      if (ledger.ended(first)) reported++;
      if (random(4) === 0) ledger.returned(live.slice(1));
      if (launch.live === 0) running.delete(launch);
    }
  }
  while (running.size > 0) {
    for (const launch of running) {
      for (const attempt of launch.attempts) if (attempt.launch === launch && ledger.ended(attempt)) reported++;
      running.delete(launch);
    }
    for (const launch of ledger.launch(() => 5)) running.add(launch);
  }
  t.ok(ledger.idle);
  t.equal(ledger.queued, 0);
  t.equal(ledger.unacknowledged, reported);
  t.ok(reported > 1000 && removed > 10, `${reported} reported, ${removed} retracted`);
  t.equal(reported + removed, assigned);
});

test('behind the fence only what it allows is launched, and a demand is not held up by those that wait', async (t) => {
  const ledger = make(3);
  ledger.addBodies([{ ...body(1), onDisconnect: 2 }, body(2), { ...body(3), onDisconnect: 0 }]);
  ledger.fence('stop');
  for (const job of [1, 2, 3]) give(ledger, job, [0]);
  t.ok(ledger.holdsStopping);
  const launched = (): number[] => ledger.launch(one).map((launch) => launch.body.job);
  t.same(launched(), [2, 3]);
  ledger.fence('open');
  t.same(launched(), [1]);
  t.notOk(ledger.holdsStopping);
  ledger.ended(ledger.get(1, 0)!);
  give(ledger, 2, [5]);
  ledger.fence('all');
  t.same(launched(), []);
});

test('an attempt goes on under a newer generation, whatever its state', async (t) => {
  const ledger = make(1);
  ledger.addBodies([body(1)]);
  give(ledger, 1, [0, 1]);
  const [launch] = ledger.launch(one);
  const ref = { job: 1, index: 0, generation: 1 };
  t.equal(ledger.renumber(ref, 1), undefined);
  t.equal(ledger.renumber({ ...ref, generation: 2 }, 5), undefined, 'not held in that one');
  t.equal(ledger.renumber({ ...ref, index: 9 }, 5), undefined);
  t.equal(ledger.renumber(ref, 4), launch!.attempts[0]);
  t.equal(ledger.renumber({ ...ref, index: 1 }, 3)?.generation, 3);
  t.same(ledger.report().running, refs([1, 0, 4]));
  t.same(ledger.report().prefilled, refs([1, 1, 3]));
  t.ok(ledger.ended(launch!.attempts[0]!));
  t.equal(ledger.acknowledge(refs([1, 0, 1])).length, 0);
  t.equal(ledger.acknowledge(refs([1, 0, 4])).length, 1);
});
