import { test } from 'tap';
import { TestReport } from '../../scripts/testing/report.js';
import { planPhases } from '../../scripts/testing/run.js';

/** What tap prints over four files: one fine with skips, one failing, one that crashed, one skipped as a whole. */
const TAP = `TAP version 14
1..4
# Subtest: a.test.ts
    # Subtest: fine
        ok 1 - should be equal
        1..1
    ok 1 - fine # time=10.2ms

    ok 2 - rooted # SKIP needs root
    # Subtest: outer
        ok 1 - inner # SKIP no bwrap here
        ok 2 - more
        1..2
    ok 3 - outer # time=1ms

    1..3
ok 1 - a.test.ts # time=1532.9ms

# Subtest: b.test.ts
    # Subtest: bad
        not ok 1 - one is two
          ---
          diff: |
            -2
            +1
          ...

    noise of b
        1..1
    not ok 1 - bad # time=60ms

    1..1
not ok 2 - b.test.ts # time=108ms
  ---
  exitCode: 1
  ...

# Subtest: c.test.ts
    1..0 # no tests found
not ok 3 - c.test.ts # time=21ms
  ---
  exitCode: 3
  ...

# Subtest: d.test.ts
    1..0 # no avahi-daemon
ok 4 - d.test.ts # SKIP no avahi-daemon
`;

function read(tap: string, expected: string[]): { lines: string[]; report: TestReport } {
  const lines: string[] = [];
  const report = new TestReport((line) => lines.push(...line.split('\n')));
  const parser = report.parser();
  // In pieces, as a pipe delivers them.
  for (let at = 0; at < tap.length; at += 7) parser.write(tap.slice(at, at + 7));
  parser.end();
  report.expect(expected);
  report.finish();
  return { lines, report };
}

test('tests are counted, failures shown, skips listed with their reasons', async (t) => {
  const { lines, report } = read(TAP, ['a.test.ts', 'b.test.ts', 'c.test.ts', 'd.test.ts']);
  t.strictSame(report.totals, { passed: 2, failed: 2, skipped: 3 });
  t.equal(lines.at(-1), '2 passed, 2 failed, 3 skipped');
  t.ok(lines.includes('    ok    1.5 s  a.test.ts (2 passed, 2 skipped)'));
  t.ok(lines.includes('    ✗ bad › one is two'));
  t.ok(lines.some((line) => line.trim() === '+1'));
  t.ok(lines.some((line) => line.trim() === 'noise of b'));
  t.ok(lines.some((line) => line.trim() === 'exitCode: 3'));
  const skipped = lines.slice(lines.indexOf('Skipped:') + 1).slice(0, 3);
  t.strictSame(skipped, [
    '  a.test.ts › rooted: needs root',
    '  a.test.ts › outer › inner: no bwrap here',
    '  d.test.ts: no avahi-daemon',
  ]);
});

test('a file that never reports is a failure', async (t) => {
  const { lines, report } = read('TAP version 14\n1..0\n', ['lost.test.ts']);
  t.equal(report.totals.failed, 1);
  t.equal(lines.at(-1), '0 passed, 1 failed');
  t.ok(lines.some((line) => line.includes('lost.test.ts: did not report')));
});

test('paths choose files, flags go to tap, whole meshes run two at a time', async (t) => {
  const files = ['common/a.test.ts', 'link/b.test.ts', 'test/e2e/c.test.ts'];
  t.match(planPhases([], files), [
    { name: 'unit', files: ['common/a.test.ts', 'link/b.test.ts'] },
    { name: 'e2e', files: ['test/e2e/c.test.ts'] },
  ]);
  t.match(planPhases(['./link', '--grep=x'], files), [{ files: ['link/b.test.ts'], flags: [/jobs/, '--grep=x'] }]);
  t.ok(planPhases(['e2e'], files)[0]?.flags.includes('--jobs=2'));
  t.strictSame(planPhases(['nowhere'], files), []);
});
