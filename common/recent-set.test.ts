import { test } from 'tap';
import { SeededRandom } from '../test/support/random.js';
import { RecentSet } from './recent-set.js';

test('both ends of a stream remember the same keys after any sequence, so nobody is sent a name it does not know', async (t) => {
  for (let seed = 1; seed <= 200; seed++) {
    const random = new SeededRandom(seed);
    const sizeMax = random.integer(1, 8);
    const sender = new RecentSet<number, true>(sizeMax);
    const receiver = new RecentSet<number, string>(sizeMax);
    for (let message = 0; message < 100; message++) {
      const keys = Array.from({ length: random.integer(1, 12) }, () => random.integer(0, 14));
      const sent = new Map<number, string>();
      for (const key of keys) {
        if (sender.touch(key)) continue;
        sender.put(key, true);
        sent.set(key, `body ${key}`);
      }
      for (const key of keys) {
        const known = receiver.touch(key);
        const body = known ?? sent.get(key);
        if (body !== `body ${key}`) return t.fail(`seed ${seed}: key ${key} is unknown in message ${message}`);
        if (known === undefined) receiver.put(key, body);
      }
    }
  }
  t.pass();
});

test('the least recent is forgotten first', async (t) => {
  const set = new RecentSet<string, number>(2);
  set.put('a', 1);
  set.put('b', 2);
  t.equal(set.touch('a'), 1);
  set.put('c', 3);
  t.same(
    ['a', 'b', 'c'].map((key) => set.touch(key)),
    [1, undefined, 3],
  );
  set.put('a', 9);
  t.equal(set.touch('a'), 9);
});
