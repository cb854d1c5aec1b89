import { test } from 'tap';
import { TokenBucket } from '../../common/token-bucket.js';
import { ManualClock } from '../../test/support/manual-clock.js';
import { Valve } from './valve.js';

function setUp() {
  const clock = new ManualClock();
  const stream = {
    said: [] as string[],
    pause: () => stream.said.push('pause'),
    resume: () => stream.said.push('resume'),
  };
  return { clock, stream, valve: new Valve(stream, clock) };
}

test('it flows again when the last reason is gone, whichever that is, and each counts once', (t) => {
  const { stream, valve } = setUp();
  const [first, second] = [valve.hold(), valve.hold()];
  first();
  first();
  t.same(stream.said, ['pause'], 'one is left, however often the other ends');
  second();
  t.same(stream.said, ['pause', 'resume']);
  valve.hold()();
  t.same(stream.said, ['pause', 'resume', 'pause', 'resume'], 'and again');
  t.end();
});

test('what is read beyond the rate holds it back until the debt is paid', (t) => {
  const { clock, stream, valve } = setUp();
  const bucket = new TokenBucket({ perSecond: 100, burst: 1000 }, clock.monotonicMs());
  valve.spend(bucket, 1000);
  t.same(stream.said, [], 'a burst passes');
  valve.spend(bucket, 50);
  valve.spend(bucket, 50);
  t.same(stream.said, ['pause']);
  const other = valve.hold();
  clock.advance(999);
  t.same(stream.said, ['pause']);
  clock.advance(1);
  t.same(stream.said, ['pause'], 'something else holds it too');
  other();
  t.same(stream.said, ['pause', 'resume']);
  t.end();
});
