import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'tap';
import { packageRoot } from '../../common/package.js';
import { differences } from '../../scripts/check-generated.js';

test('finish-build makes commands executable and copies what is not compiled', async (t) => {
  const root = t.testdir({
    'package.json': JSON.stringify({ type: 'module', bin: { mesh: 'dist/cli/main.js' } }),
    dist: { cli: { 'main.js': '#!/usr/bin/env node\n' } },
    agent: { executors: { 'worker.mjs': 'export {};\n' } },
    scripts: {},
  });
  cpSync(join(packageRoot, 'scripts/finish-build.mjs'), join(root, 'scripts/finish-build.mjs'));
  symlinkSync(join(packageRoot, 'node_modules'), join(root, 'node_modules'));
  const run = () => spawnSync(process.execPath, [join(root, 'scripts/finish-build.mjs')], { encoding: 'utf8' });
  t.match(run(), { status: 0, stderr: '' });
  t.match(run(), { status: 0, stderr: '' }, 'twice');
  t.equal(statSync(join(root, 'dist/cli/main.js')).mode & 0o777, 0o755);
  t.equal(readFileSync(join(root, 'dist/agent/executors/worker.mjs'), 'utf8'), 'export {};\n');

  writeFileSync(join(root, 'dist/cli/main.js'), 'export {};\n');
  t.match(run(), { status: 1, stderr: /dist\/cli\/main\.js does not start with/ });
});

test('differences between generated and committed are named', async (t) => {
  const root = t.testdir({
    committed: { 'same.ts': '1', 'changed.ts': '1', deep: { 'gone.ts': '1' } },
    fresh: { 'same.ts': '1', 'changed.ts': '2', 'new.ts': '1' },
  });
  t.strictSame(differences(join(root, 'committed'), join(root, 'fresh')), ['changed.ts', 'deep/gone.ts', 'new.ts']);
  t.strictSame(differences(join(root, 'committed'), join(root, 'committed')), []);
});

test('the continuous integration script parses', async (t) => {
  t.doesNotThrow(() => execFileSync('bash', ['-n', join(packageRoot, '.ci/run')]));
});
