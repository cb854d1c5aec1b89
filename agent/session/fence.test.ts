import { test } from 'tap';
import { silentLogger } from '../../common/log.js';
import { ManualClock } from '../../test/support/manual-clock.js';
import type { FenceLevel } from '../core/ledger.js';
import { LeaseClock } from '../core/lease.js';
import { Fence } from './fence.js';
import { SteadyTime } from './steady-time.js';

function setup(leaseMs = 15_000, keepForMs = 60_000) {
  const clock = new ManualClock();
  const boot = { sleptMs: 0 };
  const lease = new LeaseClock(leaseMs);
  const time = new SteadyTime(clock, () => clock.monotonicMs() + boot.sleptMs);
  const fence = new Fence({ lease, time, keepForMs, clock, log: silentLogger });
  const moves: [FenceLevel, number][] = [];
  const fenced = { occupied: true, fence: (level: FenceLevel) => void moves.push([level, time.now()]) };
  fence.around(fenced);
  let sequence = 0;
  const answered = () => {
    lease.sent(++sequence, time.now());
    lease.answered(sequence, time.now());
    return fence.check();
  };
  return { clock, boot, lease, fence, fenced, moves, answered, time };
}

test('stop a margin before the lease ends, all when nobody was there for long enough, open again with an answer', async (t) => {
  const { clock, fence, moves, answered } = setup();
  t.ok(answered());
  fence.watch();
  clock.advance(13_000);
  t.strictSame(moves, [['stop', 13_000]], 'a fifth of the lease, at most 2 s');
  clock.advance(1000);
  t.ok(fence.check(), 'the lease itself still holds');
  clock.advance(1000);
  t.notOk(fence.check());
  clock.advance(60_000);
  t.strictSame(moves[1], ['all', 60_000]);
  t.ok(answered());
  t.strictSame(moves[2]?.[0], 'open');
  t.equal(moves.length, 3);
});

test('a short lease has a short margin', async (t) => {
  const { clock, fence, moves, answered } = setup(1000);
  answered();
  fence.watch();
  clock.advance(1000);
  t.strictSame(moves, [['stop', 800]]);
});

test('an agent that was never granted a lease starts nothing that is to stop', async (t) => {
  const { fence, moves } = setup();
  t.notOk(fence.check());
  t.strictSame(moves, [['stop', 0]]);
});

test('work is not kept for less than the lease', async (t) => {
  const { clock, fence, moves, answered } = setup(15_000, 0);
  answered();
  fence.watch();
  clock.advance(12_999);
  t.strictSame(moves, []);
  clock.advance(1);
  t.strictSame(moves, [['all', 13_000]]);
});

test('sleep counts, and is seen within a second of waking', async (t) => {
  const { clock, boot, fence, moves, answered } = setup();
  answered();
  fence.watch();
  clock.advance(500);
  boot.sleptMs = 14_000;
  clock.advance(1000);
  t.equal(moves[0]?.[0], 'stop');
  t.equal(fence.level, 'stop');
});

test('it looks only while there is something to look after', async (t) => {
  const { clock, fence, fenced, answered } = setup();
  answered();
  fenced.occupied = false;
  fence.watch();
  t.strictSame(clock.waiting, []);
  fenced.occupied = true;
  fence.watch();
  fence.watch();
  t.equal(clock.waiting.length, 1);
  fenced.occupied = false;
  clock.advance(1000);
  t.strictSame(clock.waiting, []);
});

test('the noise of two clocks is no sleep, and a coarse one counts once', async (t) => {
  const { clock, boot, time } = setup();
  for (const noise of [10, -10, 40, 0, 49]) {
    boot.sleptMs = noise;
    t.equal(time.now(), clock.monotonicMs());
  }
  for (const coarse of [900, 0, 700, 100, 900, 930]) {
    boot.sleptMs = coarse;
    time.now();
  }
  t.equal(time.sleptMs, 900);
  boot.sleptMs = 3000;
  clock.advance(5);
  t.equal(time.now(), 3005);
});
