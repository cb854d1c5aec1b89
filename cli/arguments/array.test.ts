import { test } from 'tap';
import { parseArray } from './array.js';

test('a range includes both ends, and steps', async (t) => {
  t.same(parseArray('0-9'), { start: 0, step: 1, count: 10 });
  t.same(parseArray('5-5'), { start: 5, step: 1, count: 1 });
  t.same(parseArray('0-9:3'), { start: 0, step: 3, count: 4 });
  t.same(parseArray('1-10:100'), { start: 1, step: 100, count: 1 });
  t.same(parseArray('9000000000000000-9000000000000001'), { start: 9e15, step: 1, count: 2 });
});

test('ten billion tasks are refused with what to do, and so is every larger number', async (t) => {
  for (const text of ['1-10000000000', '0-99999999999999999999999999'])
    t.throws(() => parseArray(text), { code: 'USAGE', message: /would make \d+ tasks/, hint: /at most 10000000/ });
  t.throws(() => parseArray('99999999999999999998-99999999999999999999'), { code: 'USAGE', message: /too large/ });
});

test('what is no range is refused', async (t) => {
  for (const text of ['', '5', 'a-b', '1-', '-1', '1-5:', '1-5:0', '9-1', '1.5-3', '1-5:-1', '0x1-0x5'])
    t.throws(() => parseArray(text), { code: 'USAGE' }, JSON.stringify(text));
});
