import { spawnSync } from 'node:child_process';
import { test } from 'tap';
import { toConnectionString } from '../../bench/database.js';
import { residentMemory, watchMemory } from '../../bench/process-memory.js';
import { circumstances, formatResult, formatTable, median, replaceBetween } from '../../bench/report.js';
import type { Result } from '../../bench/report.js';
import { packageRoot } from '../../common/package.js';

const RESULT: Result = {
  name: 'x',
  title: 'Things a second',
  rows: [
    { what: 'theirs', unit: 'tasks/s', values: [12_000, 10_000, 11_000], tasks: 100_000 },
    { what: 'ours', unit: 'tasks/s', values: [40_000, 44_000], tasks: 100_000 },
  ],
  base: 'theirs',
  config: { theirs: { mode: 'batched' } },
  notes: ['a note'],
};

test('the median', async (t) => {
  t.equal(median([3, 1, 2]), 2);
  t.equal(median([4, 1, 2, 3]), 2.5);
  t.equal(median([7]), 7);
  t.throws(() => median([]));
});

test('a table shows median, spread and the ratio to the base', async (t) => {
  const cells = formatTable(RESULT)
    .split('\n')
    .map((line) => line.split('|').map((cell) => cell.trim()));
  t.strictSame(cells[2]?.slice(1, -1), ['theirs', '100 000', '3', '11 000 tasks/s', '10 000 … 12 000', '1.00']);
  t.strictSame(cells[3]?.slice(1, -1), ['ours', '100 000', '2', '42 000 tasks/s', '40 000 … 44 000', '3.82']);
  t.match(formatResult(RESULT, circumstances(true)), /smoke run/);
});

test('the tables of a file are replaced where their markers are', async (t) => {
  const text = 'a\n<!-- bench:x -->\nold\n<!-- /bench:x -->\nb\n';
  t.equal(replaceBetween(text, 'x', 'new'), 'a\n<!-- bench:x -->\nnew\n<!-- /bench:x -->\nb\n');
  t.equal(replaceBetween('a\n', 'x', 'new'), 'a\n\n<!-- bench:x -->\nnew\n<!-- /bench:x -->\n');
});

test('a socket folder travels as a parameter', async (t) => {
  const address = { host: '/tmp/a b', port: 5432, user: 'mesh', password: 'p@/', database: 'd' };
  const url = new URL(toConnectionString(address));
  t.equal(url.searchParams.get('host'), '/tmp/a b');
  t.equal(decodeURIComponent(url.password), 'p@/');
});

const linux = process.platform === 'linux' ? false : 'reads /proc, which only Linux has';

test('resident memory of a process', { skip: linux }, async (t) => {
  const { nowBytes, peakBytes } = residentMemory(process.pid);
  t.ok(nowBytes > 2 ** 20 && peakBytes >= nowBytes);
  const watched = await watchMemory(process.pid, 1).stop();
  t.ok(watched.highestBytes >= watched.lastBytes);
});

test('wrong usage of the benches is said in one line', async (t) => {
  const run = spawnSync(process.execPath, ['--import=tsx', 'bench/main.ts', 'nosuch'], {
    cwd: packageRoot,
    encoding: 'utf8',
  });
  t.match(run, { status: 2, stderr: /^bench: there is no bench nosuch; there are throughput, [^\n]+\n$/ });
});
