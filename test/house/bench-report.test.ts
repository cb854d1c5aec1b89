import { spawnSync } from 'node:child_process';
import { test } from 'tap';
import { toConnectionString } from '../../bench/database.js';
import { residentMemory, watchMemory } from '../../bench/process-memory.js';
import { judge } from '../../bench/aims.js';
import { replaceBetween } from '../../bench/keep.js';
import { PatternReader, printer } from '../../bench/pattern.js';
import { plotAims } from '../../bench/plot.js';
import { circumstances, formatResult, formatTable, installedVersion, toJson } from '../../bench/report.js';
import type { Result } from '../../bench/report.js';
import { median, percentile } from '../../bench/statistics.js';
import { takeTurns } from '../../bench/turns.js';
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

test('a percentile is a value that was measured', async (t) => {
  const values = Array.from({ length: 200 }, (_, index) => 200 - index);
  t.equal(percentile(values, 50), 100);
  t.equal(percentile(values, 99), 198);
  t.equal(percentile(values, 100), 200);
  t.equal(percentile([7], 1), 7);
  t.throws(() => percentile([], 50));
  t.throws(() => percentile([1], 0));
});

test('a table shows median, spread and the ratio to the base', async (t) => {
  const cells = formatTable(RESULT)
    .split('\n')
    .map((line) => line.split('|').map((cell) => cell.trim()));
  t.strictSame(cells[2]?.slice(1, -1), ['theirs', '100 000', '3', '11 000 tasks/s', '10 000 … 12 000', '1.00']);
  t.strictSame(cells[3]?.slice(1, -1), ['ours', '100 000', '2', '42 000 tasks/s', '40 000 … 44 000', '3.82']);
  t.match(formatResult(RESULT, circumstances(true)), /smoke run/);
});

const AIMED: Result = {
  ...RESULT,
  rows: [
    ...RESULT.rows.map((row) => (row.what === 'ours' ? { ...row, aims: [{ atLeast: 4, of: 'theirs' }] } : row)),
    { what: 'wait', unit: 'ms', values: [2, 1, 3], aims: [{ atMost: 2 }, { atLeast: 0.0001, of: 'ours' }] },
  ],
};

test('an aim is judged by the median, or by the ratio of two medians', async (t) => {
  const [, ours, wait] = AIMED.rows;
  t.match(judge(AIMED, ours!, { atLeast: 4, of: 'theirs' }), { text: '≥ 4 × theirs', met: false });
  t.equal(judge(AIMED, ours!, { atLeast: 4, of: 'theirs' }).margin.toFixed(3), (42 / 11 / 4).toFixed(3));
  t.strictSame(judge(AIMED, wait!, { atMost: 2 }), { text: '≤ 2 ms', reached: 2, met: true, margin: 1 });
  t.match(judge(AIMED, wait!, { atMost: 1.9 }), { met: false });
  t.match(judge(AIMED, wait!, { atLeast: 2 }), { met: true });
  t.throws(() => judge(AIMED, wait!, { atMost: 1, of: 'nobody' }), { message: 'the bench x has no row nobody' });
});

test('a table says what was aimed at and whether it was reached, a smoke run only the former', async (t) => {
  const cells = (smoke: boolean): (string | undefined)[] =>
    formatTable(AIMED, smoke)
      .split('\n')
      .slice(2)
      .map((line) => line.split('|').at(-2)?.trim());
  t.strictSame(cells(false), ['', '≥ 4 × theirs: **missed**', '≤ 2 ms: met; ≥ 0.0001 × ours (0.00): **missed**']);
  t.strictSame(cells(true), ['', '≥ 4 × theirs', '≤ 2 ms; ≥ 0.0001 × ours']);
  t.notMatch(formatTable(AIMED).split('\n')[4], /0\.00 \|/, 'milliseconds have no ratio to tasks a second');
});

test('the JSON has what the table works out', async (t) => {
  const kept = JSON.parse(toJson({ ...AIMED, versions: { PostgreSQL: '18' } }, circumstances(false)));
  t.match(kept, { name: 'x', versions: { PostgreSQL: '18' }, node: process.version });
  t.match(kept.rows[2], { values: [2, 1, 3], median: 2, min: 1, max: 3, aims: [{ atMost: 2, met: true }, {}] });
  t.strictSame(plotAims([kept]), plotAims([AIMED]), 'a plot can be drawn from it');
});

test('the plot has a bar for each aim, to the side where it belongs', async (t) => {
  const plot = plotAims([{ ...RESULT, name: 'without' }, AIMED]) ?? '';
  t.strictSame(
    [...plot.matchAll(/<rect class="(\w+)"/g)].map(([, side]) => side),
    ['missed', 'met', 'missed'],
  );
  t.notMatch(plot, /without|NaN/);
  t.match(plot, /prefers-color-scheme: dark/);
  t.equal(plotAims([RESULT]), undefined);
  const odd = { ...AIMED, rows: [{ what: 'a<b & "c"', unit: 'MiB', values: [0], aims: [{ atMost: 1 }] }] };
  t.match(plotAims([odd]), />a&lt;b &amp; &quot;c&quot;  ≤ 1 MiB<[^]*>× over 100</, 'nothing of what is allowed');
});

test('contenders take turns after their warm-up', async (t) => {
  const said: string[] = [];
  const contender = (what: string) => ({
    row: { what, unit: 's' },
    warmUp: async () => said.push(`warm ${what}`),
    once: async () => said.push(what),
  });
  const rows = await takeTurns([contender('a'), contender('b')], { runs: 2, say: () => undefined });
  t.strictSame(said, ['warm a', 'warm b', 'a', 'b', 'a', 'b']);
  t.strictSame(rows, [
    { what: 'a', unit: 's', values: [3, 5] },
    { what: 'b', unit: 's', values: [4, 6] },
  ]);
});

test('a reader of printed output notices what is missing, repeated or wrong', async (t) => {
  const [program = '', ...argv] = printer(2, 100).map((word) => word.replace('{index}', '7'));
  const { stdout } = spawnSync(program, argv, { maxBuffer: 1 << 24 });
  const read = (task: number, ...pieces: (Buffer | string)[]) => {
    const reader = new PatternReader(task, 2);
    for (const piece of pieces) {
      if (typeof piece === 'string') reader.skip(piece);
      else reader.take(piece);
    }
    return reader.finish();
  };
  t.match(read(7, stdout), { leftOutBytes: 0, seenBytes: 2_000_019, headBytes: 2_000_019 });
  t.match(read(7, stdout.subarray(0, 12_345), stdout.subarray(12_345)), { leftOutBytes: 0 });
  const note = '[1000000 bytes of output left out]\n';
  t.match(read(7, stdout.subarray(0, 5), note, stdout.subarray(1_000_005)), { leftOutBytes: 1_000_000, headBytes: 5 });
  t.throws(() => read(6, stdout), /wrong output at 0/);
  t.throws(() => read(7, stdout.subarray(0, 20_000), stdout.subarray(10_000)), /wrong output at 20000/);
  t.throws(() => read(7, stdout.subarray(0, 5), note, stdout.subarray(1_000_004)), /wrong output/);
  t.throws(() => read(7, stdout.subarray(0, -20)), /1999999 bytes/);
  t.throws(() => read(7, stdout, stdout.subarray(-19)), /2000038 bytes/);
  t.throws(() => read(7, 'something was left out'), /says nothing of its size/);
});

test('the version of a package is that which is installed', async (t) => {
  t.match(installedVersion('graphile-worker'), /^\d+\.\d+\.\d+/);
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
