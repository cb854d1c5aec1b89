import { test } from 'tap';
import { formatDuration, formatSize, parseDuration, parseSize } from './units.js';

test('durations and sizes as people write them', async (t) => {
  t.same(['500ms', '30s', '5m', '2h', '1d', '1.5h', ' 0s '].map(parseDuration), [
    ...[500, 30_000, 300_000, 7_200_000, 86_400_000, 5_400_000, 0],
  ]);
  t.same(['64KiB', '512MiB', '2GiB', '1KB', '3 MB', '1.5GB', '7', '7B', '1TiB'].map(parseSize), [
    ...[65_536, 536_870_912, 2_147_483_648, 1000, 3_000_000, 1_500_000_000, 7, 7, 2 ** 40],
  ]);
});

test('what is none says so, with an example', async (t) => {
  for (const text of ['', '5', '5 minutes', '-5s', '1e3s', 's', '5S', 'NaN', '1d2h'])
    t.throws(() => parseDuration(text), { code: 'USAGE', hint: /500ms, 30s/ }, text);
  for (const text of ['', 'KiB', '-1', '1XB', '1 KiBs', '0x10', '1kb'])
    t.throws(() => parseSize(text), { code: 'USAGE', hint: /64KiB/ }, text);
  t.throws(() => parseDuration(`${'9'.repeat(400)}d`), { code: 'USAGE' }, 'infinity is no duration');
  t.throws(() => parseSize('99999999999TiB'), { code: 'USAGE' });
});

test('and back', async (t) => {
  t.same([5, 999, 1500, 59_000, 61_000, 3_600_000, 7_260_000].map(formatDuration), [
    ...['5 ms', '999 ms', '1.5 s', '59.0 s', '1 min 1 s', '1 h 0 min', '2 h 1 min'],
  ]);
  t.same([0, 1023, 1024, 1536, 200 * 1024, 2 ** 30, 2 ** 50].map(formatSize), [
    ...['0 B', '1023 B', '1.0 KiB', '1.5 KiB', '200 KiB', '1.0 GiB', '1024 TiB'],
  ]);
});
