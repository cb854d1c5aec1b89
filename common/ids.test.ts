import { test } from 'tap';
import { ID_PATTERN, isName, makeId, nameFrom, randomCharacters } from './ids.js';

test('ids have one shape, sort by time and differ', async (t) => {
  const ids = Array.from({ length: 500 }, (_, i) => makeId(1_800_000_000_000 + i * 1000));
  t.ok(ids.every((id) => ID_PATTERN.test(id)));
  t.same([...ids].sort(), ids);
  t.equal(new Set(Array.from({ length: 2000 }, () => makeId(5))).size, 2000, 'at one moment too');
  t.equal(makeId(0, Buffer.alloc(5)), '0000000000000000');
  t.equal(makeId(2 ** 45 - 1, Buffer.alloc(5, 255)), 'zzzzzzzzzzzzzzzz', 'in the year 3084');
  t.match(randomCharacters(40), /^[0-9a-hjkmnp-tv-z]{40}$/);
});

test('names: what is one, and the nearest to what is none', async (t) => {
  for (const name of ['a', 'a-b', '0', 'x'.repeat(63)]) t.ok(isName(name), name);
  for (const name of ['', '-a', 'a-', 'A', 'a_b', 'a.b', 'x'.repeat(64), 'é', 'a\n', 'а']) t.notOk(isName(name), name);
  t.same(
    [
      "Anna's MacBook.local",
      'UPPER',
      '--x--',
      '日本',
      '',
      'a'.repeat(100),
      `${'a'.repeat(59)}.b`,
      `${'a'.repeat(59)}!b`,
    ].map((text) => nameFrom(text, 'node')),
    ['anna-s-macbook', 'upper', 'x', 'node', 'node', 'a'.repeat(60), 'a'.repeat(59), 'a'.repeat(59)],
  );
});
