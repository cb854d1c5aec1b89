import { test } from 'tap';
import { TokenBucket, TokenBuckets } from './token-bucket.js';

test('a bucket lets a burst through, then its rate, and says how long to wait', (t) => {
  const bucket = new TokenBucket({ perSecond: 10, burst: 3 }, 1000);
  t.same(
    [1000, 1000, 1000, 1000].map((nowMs) => bucket.take(nowMs)),
    [0, 0, 0, 100],
  );
  t.equal(bucket.take(1050), 50);
  t.equal(bucket.take(1100), 0, 'what was said is enough');
  t.equal(bucket.take(1100), 100);
  t.equal(bucket.isFull(1200), false);
  t.equal(bucket.isFull(60_000), true);
  t.end();
});

test('what was used already is paid for afterwards', (t) => {
  const bucket = new TokenBucket({ perSecond: 1000, burst: 100 }, 0);
  t.equal(bucket.spend(100, 0), 0);
  t.equal(bucket.spend(500, 0), 500);
  t.equal(bucket.take(400), 101, 'debt delays others of the same bucket');
  t.equal(bucket.spend(0, 500), 0);
  t.end();
});

test('many keys cost no more than they may, and a key that floods stays known', (t) => {
  const buckets = new TokenBuckets({ perSecond: 1, burst: 2 }, 100);
  buckets.take('flood', 0);
  buckets.take('flood', 0);
  for (let i = 0; i < 1000; i++) {
    buckets.take(`key-${i}`, 0);
    t.ok(buckets.size <= 100);
    t.ok(buckets.take('flood', 0) > 0);
  }
  t.equal(buckets.take('flood', 3000), 0, 'and is let in when its time has come');
  t.end();
});
