import { join } from 'node:path';
import { Readable } from 'node:stream';
import { test } from 'tap';
import { OnFailure } from '../proto/gen/mesh/v1/mesh.js';
import { functionArgument, parseFunction, prepare, type SubmitOptions } from './submission.js';

const defaults: SubmitOptions = { priority: 0, retries: 2, backoff: 1000, onFailure: 'finish', submitTimeout: 0 };
const around = (cwd: string) => ({ cwd, environment: { HERE: 'x' }, stdin: () => Readable.from(['1\n2\n']) });

test('flags become a specification', async (t) => {
  const options: SubmitOptions = {
    ...defaults,
    ...{ array: { start: 5, step: 2, count: 3 }, env: ['A=b', 'HERE'], cpus: 1.5, memory: 1024, gpus: 1 },
    ...{ where: 'gpu', priority: -5, retries: 0, timeout: 1000, onFailure: 'partial', idempotencyKey: 'k' },
  };
  const { spec, idempotencyKey } = await prepare(options, ['/bin/echo', '{index}'], around('/'));
  t.equal(idempotencyKey, 'k');
  t.match(spec, {
    ...{ name: 'echo', taskCount: 3, array: { start: 5, step: 2 }, where: 'gpu', priority: -5, retries: 0 },
    ...{ timeoutMs: 1000, onFailure: OnFailure.PARTIAL, resources: { cpuMillis: 1500, memoryBytes: 1024, gpus: 1 } },
    work: { $case: 'process', value: { argv: ['/bin/echo', '{index}'], environment: { A: 'b', HERE: 'x' } } },
  });
});

test('two invocations have different keys', async (t) => {
  const keys = await Promise.all([1, 2].map(async () => (await prepare(defaults, ['x'], around('/'))).idempotencyKey));
  t.not(keys[0], keys[1]);
});

test('lines are counted before anything is sent', async (t) => {
  const prepared = await prepare({ ...defaults, each: '-' }, ['x', '{}'], around('/'));
  t.equal(prepared.spec.taskCount, 2);
  prepared.close();
});

test('a function is a module and an export', async (t) => {
  const cwd = t.testdir({ 'm.mjs': '', 'odd#name.mjs': '' });
  t.same(parseFunction('m.mjs', cwd), { module: join(cwd, 'm.mjs'), exportName: 'default' });
  t.same(parseFunction('m.mjs#go', cwd), { module: join(cwd, 'm.mjs'), exportName: 'go' });
  t.same(parseFunction('odd#name.mjs', cwd), { module: join(cwd, 'odd#name.mjs'), exportName: 'default' });
  t.throws(() => parseFunction('gone.mjs#go', cwd), { code: 'BAD_SPEC', message: /gone\.mjs is not there/ });
  t.throws(() => parseFunction('m.mjs#a-b', cwd), { code: 'BAD_SPEC' });
  const { spec } = await prepare({ ...defaults, fn: 'm.mjs#go' }, [], around(cwd));
  t.match(spec, { name: 'm.mjs#go', work: { $case: 'function', value: { exportName: 'go' } } });
});

test('a line is JSON if it can be, and a string otherwise', async (t) => {
  t.equal(functionArgument(' {"a": 1} '), '{"a": 1}');
  t.equal(functionArgument('7'), '7');
  t.equal(functionArgument('{a}'), '"{a}"');
  t.equal(functionArgument('say "hi"'), JSON.stringify('say "hi"'));
});

test('what cannot be meant is refused', async (t) => {
  const array = { start: 0, step: 1, count: 1 };
  await t.rejects(prepare(defaults, [], around('/')), { code: 'BAD_SPEC', message: 'the job has no command' });
  await t.rejects(prepare(defaults, [''], around('/')), { code: 'BAD_SPEC' });
  await t.rejects(prepare(defaults, ['a\0b'], around('/')), { code: 'BAD_SPEC', message: /NUL/ });
  await t.rejects(prepare({ ...defaults, array, each: '-' }, ['x'], around('/')), { code: 'USAGE' });
  await t.rejects(prepare({ ...defaults, fn: 'x.mjs' }, ['x'], around('/')), { code: 'USAGE' });
});
