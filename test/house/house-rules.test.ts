import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test, type Test } from 'tap';
import { packageRoot } from '../../common/package.js';
import { checkHouse } from '../../scripts/house/house.js';
import { readSource } from '../../scripts/house/source.js';
import { formatViolation } from '../../scripts/house/violation.js';

test('this repository keeps its house rules', async (t) => {
  t.strictSame(checkHouse(packageRoot).map(formatViolation), []);
});

const PACKAGE = { 'package.json': '{"dependencies":{"node-forge":"1","pino":"1","kysely":"1","tinyglobby":"1"}}' };

/** Line of text that holds a planted violation, spelled so that this file breaks no rule. */
const spell = (...parts: string[]): string => parts.join('');

test('each arrow points one way', async (t) => {
  const cases: [string, string, boolean][] = [
    ['common/a.ts', "import { b } from '../link/b.js';", false],
    ['common/a.ts', "import type { b } from '../proto/gen/mesh/v1/agent.js';", false],
    ['common/a.ts', "import { b } from './identity/b.js';", true],
    ['proto/gen/mesh/v1/a.ts', "import { b } from '../../../../common/b.js';", false],
    ['link/a.ts', "import { b } from '../sdk/b.js';", false],
    ['link/a.ts', "import { b } from '../common/b.js';", true],
    ['sdk/a.ts', "import { b } from '../link/b.js';", true],
    ['sdk/a.ts', "import { b } from '../coordinator/ports.js';", false],
    ['cli/commands/a.ts', "import { b } from '../../sdk/b.js';", true],
    ['cli/commands/a.ts', "import { b } from '../../ca/b.js';", false],
    ['cli/commands/a.ts', "import { b } from '../../agent/b.js';", false],
    ['cli/commands/a.ts', "const b = await import('../../coordinator/b.js');", false],
    ['ca/a.ts', "import { b } from '../sdk/b.js';", false],
    ['ca/remote.ts', "import { b } from '../sdk/b.js';", true],
    ['ca/a.ts', "import { b } from '../coordinator/ports.js';", false],
    ['coordinator/core/a.ts', "import { b } from '../ports.js';", false],
    ['coordinator/core/a.ts', "import type { b } from '../../proto/gen/mesh/v1/agent.js';", true],
    ['coordinator/core/a.ts', "import { b } from '../../proto/gen/mesh/v1/agent.js';", false],
    ['coordinator/core/a.ts', "import { type b, type c } from '../../proto/gen/mesh/v1/agent.js';", true],
    ['coordinator/core/a.ts', "import { type b, c } from '../../proto/gen/mesh/v1/agent.js';", false],
    ['coordinator/store/a.ts', "import type { b } from '../ports.js';", true],
    ['coordinator/store/a.ts', "import { b } from '../services/b.js';", false],
    ['coordinator/services/a.ts', "import { b } from '../store/b.js';", false],
    ['coordinator/services/a.ts', "import { b } from '../rpc/b.js';", false],
    ['coordinator/services/a.ts', "import { b } from '../../ca/b.js';", false],
    ['coordinator/rpc/a.ts', "import { b } from '../services/b.js';", true],
    ['coordinator/rpc/a.ts', "import { b } from '../store/b.js';", false],
    ['coordinator/compose.ts', "import { b } from '../ca/b.js';", true],
    ['coordinator/compose.ts', "import { b } from '../agent/b.js';", false],
    ['agent/core/a.ts', "import { b } from '../../common/b.js';", true],
    ['agent/core/a.ts', "import { b } from '../../link/b.js';", false],
    ['agent/session/a.ts', "import { b } from '../../link/b.js';", true],
    ['agent/session/a.ts', "import { b } from '../../ca/b.js';", false],
    ['agent/executors/a.ts', "import { b } from '../staging/b.js';", true],
    ['agent/executors/a.ts', "import { b } from '../session/b.js';", false],
    ['agent/staging/a.ts', "import { b } from '../executors/b.js';", false],
    ['coordinator/door/a.ts', "import { b } from '../../link/b.js';", true],
    ['coordinator/rpc/a.ts', "import { b } from '../http/b.js';", false],
    ['coordinator/http/a.ts', "import { b } from '../rpc/roles.js';", true],
    ['coordinator/http/a.ts', "import { b } from '../rpc/b.js';", false],
    ['agent/main.ts', "import { b } from '../coordinator/ports.js';", false],
    ['agent/a.ts', "import { b } from '../test/support/b.js';", false],
    ['agent/a.ts', "export { b } from './b.test.js';", false],
    ['agent/a.test.ts', "import { b } from '../coordinator/store/b.js';", true],
    ['bench/a.ts', "import { b } from '../coordinator/store/b.js';", true],
    ['elsewhere/a.ts', 'export const a = 1;', false],
  ];
  for (const [path, text, allowed] of cases) {
    const found = checkHouse(tree(t, { [path]: text })).filter(({ rule }) => rule === 'arrows');
    t.equal(found.length === 0, allowed, `${path}: ${text} ${found.map(({ what }) => what).join()}`);
  }
});

test('packages have homes and are declared', async (t) => {
  const cases: [string, string, boolean][] = [
    ['ca/x509.ts', "import forge from 'node-forge';", true],
    ['ca/x509/encode.ts', "import forge from 'node-forge';", true],
    ['ca/issue.ts', "import forge from 'node-forge';", false],
    ['coordinator/door/a.ts', "import forge from 'node-forge';", false],
    ['coordinator/services/a.ts', "import { sql } from 'kysely';", false],
    ['common/a.ts', "import { pino } from 'pino';", true],
    ['common/a.ts', "import { x } from 'left-pad/deep';", false],
    ['common/a.ts', "import { x } from 'fs';", false],
    ['common/a.ts', "import { x } from 'node:fs';", true],
    ['bench/a.ts', "import { run } from 'graphile-worker';", true],
  ];
  for (const [path, text, allowed] of cases) {
    const found = checkHouse(tree(t, { [path]: text })).filter(({ rule }) => rule === 'packages');
    t.equal(found.length === 0, allowed, `${path}: ${text} ${found.map(({ what }) => what).join()}`);
  }
});

test('core is pure, itself and through what it loads', async (t) => {
  const impure = [
    'Date.now()',
    'new Date()',
    'performance.now()',
    'Math.random()',
    'setTimeout(f, 1)',
    'setInterval(f, 1)',
    'process.env.HOME',
    'process.hrtime()',
    'randomUUID()',
    'fetch("http://x")',
  ];
  for (const expression of impure) {
    for (const folder of ['coordinator/core/scheduler', 'agent/core']) {
      const found = checkHouse(tree(t, { [`${folder}/a.ts`]: `const one = 1;\nconst two = ${expression};\n` }));
      t.match(found, [{ line: 2, rule: 'core is pure' }], `${folder}: ${expression}`);
    }
  }
  const through = checkHouse(
    tree(t, {
      'agent/core/a.ts': "import { b } from '../../common/b.js';\n",
      'common/b.ts': "import type { T } from 'node:net';\nimport { c } from './c.js';\nexport const b = c;\n",
      'common/c.ts': "import { readFileSync } from 'node:fs';\nexport const c = readFileSync;\n",
    }),
  );
  t.strictSame(through.map(formatViolation), [
    'agent/core/a.ts:1 core is pure: it would load common/b.ts → common/c.ts → node:fs',
  ]);
  const pure = {
    'agent/core/a.ts': [
      "import type { Socket } from 'node:net';",
      "import type { Clock } from '../../common/clock.js';",
      '// never Date.now() here',
      'const text = "setTimeout(f, 1) and process.env";',
      'const shown = `Math.random() is ${text} not called`;',
      'export const format = (ms: number, socket: Socket, clock: Clock): string => new Date(ms).toISOString() + shown;',
      'export const slash = /Date.now()/g;',
      'export const subprocess = { process: 1 }.process;',
    ].join('\n'),
    'common/clock.ts':
      "import { performance } from 'node:perf_hooks';\nexport interface Clock { p: typeof performance }\n",
  };
  t.strictSame(checkHouse(tree(t, pure)).map(formatViolation), []);
});

test('one clock, one way to print, nothing silenced or left for later', async (t) => {
  const cases: [string, string, string | undefined][] = [
    ['link/a.ts', 'const at = Date.now();', 'one clock'],
    ['link/a.ts', 'const at = `${Date.now()}`;', 'one clock'],
    ['link/a.ts', 'const at = new Date(0);', undefined],
    ['common/clock.ts', 'const at = Date.now();', undefined],
    ['test/e2e/a.test.ts', 'const at = Date.now();', undefined],
    ['coordinator/services/a.ts', 'await new Promise((resolve) => setImmediate(resolve));', 'one clock'],
    ['coordinator/services/a.ts', 'setImmediate(() => log.info(line));', undefined],
    ['coordinator/rpc/a.ts', 'await new Promise((resolve) => setImmediate(resolve));', undefined],
    ['link/a.ts', 'console.log(1);', 'one way to print'],
    ['link/a.ts', spell('// @ts', '-ignore'), 'the compiler is not silenced'],
    ['link/a.ts', spell('/* TO', 'DO */'), 'nothing is left for later'],
    ['link/a.ts', 'const text = "// to be done";', undefined],
    ['link/a.ts', 'export {};\n'.repeat(401), 'file size'],
    ['link/a.ts', 'export {};\n'.repeat(400), undefined],
    ['proto/gen/a.ts', 'export {};\n'.repeat(401), undefined],
  ];
  for (const [path, text, rule] of cases) {
    const found = checkHouse(tree(t, { [path]: text }));
    t.strictSame(
      found.map((violation) => violation.rule),
      rule === undefined ? [] : [rule],
      `${path}: ${text.slice(0, 60)}`,
    );
  }
});

test('tests neither sleep nor hide', async (t) => {
  const cases: [string, string | undefined][] = [
    [spell('test.on', "ly('x', async () => {});"), 'every test runs'],
    [spell("test('x', { on", 'ly: true }, async () => {});'), 'every test runs'],
    [spell("test('x', { skip: ", 'true }, async () => {});'), 'a skip says why'],
    ["test('x', { skip: 'needs root' }, async () => {});", undefined],
    [spell('await new Promise((resolve) => set', 'Timeout(resolve, 50));'), 'tests do not sleep'],
    [spell('await sl', 'eep(50);'), 'tests do not sleep'],
    [spell('await pa', 'use(systemClock, 50);'), 'tests do not sleep'],
    [spell("import { setTimeout } from 'node:timers", "/promises';"), 'tests do not sleep'],
    ["import { setImmediate as nextTurn } from 'node:timers/promises';", undefined],
    ['const slept = pause(clock, 50);', undefined],
  ];
  for (const [text, rule] of cases) {
    const found = checkHouse(tree(t, { 'common/a.test.ts': `${text}\n` }));
    t.strictSame(
      found.map((violation) => violation.rule),
      rule === undefined ? [] : [rule],
      text,
    );
  }
});

test('nothing of one machine is committed', async (t) => {
  const root = tree(t, {
    'docs/a.md': `see\n${spell('/ro', 'ot/')}notes or https://host/work/ or ./work/\n`,
    'package-lock.json': '{\n "resolved": "x" }\n',
    'deploy/.npmrc': spell('regi', 'stry=http://x\n'),
    'ignored/a.md': spell('/wo', 'rk/'),
    '.gitignore': 'ignored\n',
    'image.png': `\0${spell('/wo', 'rk/')}`,
  });
  t.strictSame(checkHouse(root), [], 'left out without a repository');
  execFileSync('git', ['init', '--quiet'], { cwd: root });
  t.match(checkHouse(root), [
    { path: 'deploy/.npmrc', line: 1, rule: 'lockfile' },
    { path: 'docs/a.md', line: 2, rule: 'no machine paths' },
    { path: 'package-lock.json', line: 2, rule: 'lockfile' },
  ]);
});

test('imports are read as they are written', async (t) => {
  const text = [
    '#!/usr/bin/env node',
    "import one from './one.js';",
    'import {',
    '  two,',
    "  type Two, // from './not.js'",
    '} from "./two.js";',
    "import type { Three } from './three.js';",
    "import { type Four } from './four.js';",
    "import './five.js';",
    "export * from './six.js';",
    "export type { Seven } from './seven.js';",
    "const eight = await import('./eight.js');",
    'const text = "import x from \'./string.js\'";',
    "const sum = one / two; // import y from './comment.js'",
    "type Nine = import('./nine.js').Nine;",
    'const quotes = /["\'`]/;',
    "export { ten } from './ten.js';",
  ].join('\n');
  t.strictSame(
    readSource('a.ts', text).imports.map(({ specifier, line, typeOnly }) => [specifier, line, typeOnly]),
    [
      ['./one.js', 2, false],
      ['./two.js', 3, false],
      ['./three.js', 7, true],
      ['./four.js', 8, true],
      ['./five.js', 9, false],
      ['./six.js', 10, false],
      ['./seven.js', 11, true],
      ['./eight.js', 12, false],
      ['./nine.js', 15, false],
      ['./ten.js', 17, false],
    ],
  );
});

function tree(t: Test, files: Record<string, string>): string {
  const root = t.testdir();
  for (const [path, text] of Object.entries({ ...PACKAGE, ...files })) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }
  return root;
}
