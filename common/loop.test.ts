import { test } from 'tap';
import { ManualClock } from '../test/support/manual-clock.js';
import { Loop } from './loop.js';

/** A loop whose turns a test ends one by one. */
function makeLoop(everyMs = 1000, inTurn: (turn: number) => void = () => undefined) {
  const clock = new ManualClock();
  const errors: unknown[] = [];
  const open: { end: () => void; fail: (error: Error) => void }[] = [];
  let turns = 0;
  let atOnce = 0;
  let atOnceMax = 0;
  const loop = new Loop({
    ...{ name: 'test', clock, everyMs },
    turn: async () => {
      atOnceMax = Math.max(atOnceMax, ++atOnce);
      inTurn(++turns);
      try {
        await new Promise<void>((end, fail) => open.push({ end, fail }));
      } finally {
        atOnce--;
      }
    },
    onError: (error) => errors.push(error),
  });
  const settle = () => new Promise<void>((resolve) => setImmediate(resolve));
  return {
    ...{ loop, clock, errors, settle },
    turns: () => turns,
    atOnceMax: () => atOnceMax,
    end: async () => {
      open.shift()?.end();
      await settle();
    },
    fail: async () => {
      open.shift()?.fail(new Error('a bad turn'));
      await settle();
    },
  };
}

test('a turn at the start, then one per period, counted from the end of the last', async (t) => {
  const { loop, clock, turns, end, settle } = makeLoop();
  await loop.start();
  t.equal(turns(), 1);
  clock.advance(5000);
  t.equal(turns(), 1, 'never two at a time');
  await end();
  clock.advance(999);
  t.equal(turns(), 1);
  clock.advance(1);
  t.equal(turns(), 2);
  await end();
  const stopped = loop.stop();
  clock.advance(60_000);
  await settle();
  await stopped;
  t.equal(turns(), 2);
  t.same(clock.waiting, []);
});

test('wakes during a turn make one more; a wake in between replaces the timer', async (t) => {
  const { loop, clock, turns, end } = makeLoop();
  await loop.start();
  for (let i = 0; i < 5; i++) loop.wake();
  await end();
  t.equal(turns(), 2);
  await end();
  t.equal(turns(), 2);
  loop.wake();
  t.equal(turns(), 3);
  await end();
  t.same(clock.waiting, [1000], 'one timer');
  await loop.stop();
});

test('a turn that wakes its own loop before it waits for anything does not run beside itself', async (t) => {
  const parts = makeLoop(1000, (turn) => {
    if (turn <= 2) parts.loop.wake();
  });
  await parts.loop.start();
  t.equal(parts.turns(), 1);
  await parts.end();
  await parts.end();
  await parts.end();
  t.equal(parts.turns(), 3);
  t.equal(parts.atOnceMax(), 1);
  await parts.loop.stop();
});

test('a turn that fails is reported, and the next one comes as usual', async (t) => {
  const { loop, clock, turns, fail, end, errors } = makeLoop();
  await loop.start();
  await fail();
  t.match(errors, [{ message: 'a bad turn' }]);
  clock.advance(1000);
  t.equal(turns(), 2);
  await end();
  await loop.stop();
});

test('stop waits for the turn that runs, and drops what was woken meanwhile', async (t) => {
  const { loop, turns, end } = makeLoop();
  await loop.start();
  loop.wake();
  let stopped = false;
  const stopping = loop.stop().then(() => (stopped = true));
  await new Promise((resolve) => setImmediate(resolve));
  t.notOk(stopped);
  await end();
  await stopping;
  t.equal(turns(), 1);
  loop.wake();
  t.equal(turns(), 1, 'a stopped loop does not wake');
  await loop.stop();
});

test('without a period only wakes start a turn', async (t) => {
  const { loop, clock, end } = makeLoop(Number.POSITIVE_INFINITY);
  await loop.start();
  await end();
  t.same(clock.waiting, []);
  await loop.stop();
});
