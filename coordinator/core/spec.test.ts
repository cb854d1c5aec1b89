import { test } from 'tap';
import { MeshError } from '../../common/errors.js';
import { Limits, Sandbox } from '../../proto/gen/mesh/v1/common.js';
import { JobSpec, OnFailure } from '../../proto/gen/mesh/v1/mesh.js';
import { canonicalSpec, pathFault, validateInput, validateSpec } from './spec.js';

const digest = 'a'.repeat(64);
const job = (more: Partial<JobSpec> = {}): JobSpec =>
  JobSpec.fromPartial({
    work: { $case: 'process', value: { argv: ['echo', 'hello'], environment: {} } },
    taskCount: 1,
    ...more,
  });
const command = (argv: string[], environment: Record<string, string> = {}): Partial<JobSpec> => ({
  work: { $case: 'process', value: { argv, environment } },
});
const fn = (moduleDigest: string, exportName = ''): Partial<JobSpec> => ({
  work: { $case: 'function', value: { moduleDigest, exportName, environment: {} } },
});
const limits = (more: Partial<Limits>): Limits => Limits.fromPartial(more);
const resources = (more: object) => ({ resources: { cpuMillis: 0, memoryBytes: 0, gpus: 0, custom: {}, ...more } });

test('a good job passes and gets its defaults', async (t) => {
  const checked = validateSpec(job({ where: 'os=linux,gpu', array: { start: -5, step: 3 }, taskCount: 10_000_000 }));
  t.equal(checked.executor, 'process');
  t.equal(checked.taskCount, 10_000_000);
  t.equal(checked.selector.length, 2);
  t.equal(checked.spec.onFailure, OnFailure.FINISH);
  t.same(checked.spec.resources, checked.resources);
  t.equal(validateSpec(job(fn(digest, 'resize'))).executor, 'function');
  validateSpec(job({ ...command(['x'], { A_1: 'ä', _: '' }), priority: -100, retries: 100 }));
});

test('what came later and says nothing leaves the digest as it was', async (t) => {
  const old = canonicalSpec(job());
  for (const name of ['sandbox', 'net', 'limits'] as const) t.notOk(name in old, name);
  t.notOk('limits' in canonicalSpec(job({ limits: limits({}) })), 'limits of nothing');
  const asking = job({ sandbox: Sandbox.BUBBLEWRAP, net: true, limits: limits({ openFiles: 9 }) });
  t.match(canonicalSpec(asking), { sandbox: Sandbox.BUBBLEWRAP, net: true, limits: { openFiles: 9 } });
});

const refused: [string, Partial<JobSpec>, RegExp][] = [
  ['no work', { work: undefined }, /no command/],
  ['empty argv', command([]), /no command/],
  ['empty command', command(['  ']), /command is empty/],
  ['NUL in argv', command(['echo', 'a\0b']), /argument 1 holds a NUL/],
  ['an argument too long', command(['echo', 'x'.repeat(200_000)]), /argument 1 has 200000 bytes/],
  ['a command too long', command(Array.from({ length: 20 }, () => 'x'.repeat(100_000))), /more than 1048576/],
  ['a bad variable', command(['x'], { '1A': '' }), /"1A" is no name/],
  ['a variable with =', command(['x'], { 'A=B': '' }), /no name of an environment variable/],
  ['NUL in a variable', command(['x'], { A: '\0' }), /variable A holds a NUL/],
  ['a reserved variable', command(['x'], { MESH_INDEX: '1' }), /MESH_INDEX is reserved/],
  ['a sandbox that does not exist', { sandbox: 9 as Sandbox }, /9 is no sandbox/],
  ['the network without a sandbox', { sandbox: Sandbox.PROCESS, net: true }, /given the network and run without/],
  ['limits out of range', { limits: limits({ processes: 5_000_000 }) }, /number of processes is 5000000/],
  ['CPU time of a function', { ...fn(digest), limits: limits({ cpuTimeMs: 1 }) }, /CPU time of a function/],
  ['a module without digest', fn('beef'), /SHA-256/],
  ['upper case digest', fn('A'.repeat(64)), /SHA-256/],
  ['a bad export', fn(digest, 'a b'), /no name of an export/],
  ['no tasks', { taskCount: 0 }, /no tasks/],
  ['a range of ten billion', { taskCount: 10_000_000_000 }, /10,000,000,000 tasks, more than the 10,000,000/],
  ['a step of zero', { array: { start: 0, step: 0 } }, /step of zero/],
  ['values that are not exact', { array: { start: 2 ** 53 - 5, step: 1 }, taskCount: 100 }, /range of whole numbers/],
  ['priority', { priority: 101 }, /priority is 101, not a whole number from -100 to 100/],
  ['retries', { retries: 101 }, /retries is 101/],
  ['timeout', { timeoutMs: 1e15 }, /timeout/],
  ['memory', resources({ memoryBytes: 2 ** 60 }), /memory/],
  ['cpus', resources({ cpuMillis: 0.5 }), /CPUs/],
  ['a custom resource', resources({ custom: { 'Tape Drive': 1 } }), /"Tape Drive" is no name/],
  ['a name with a newline', { name: 'a\nb' }, /control characters/],
  ['a long name', { name: 'x'.repeat(201) }, /201 characters/],
  ['an unknown policy', { onFailure: 9 as OnFailure }, /no policy/],
];

for (const [what, more, message] of refused) {
  test(`refused: ${what}`, async (t) => {
    t.throws(() => validateSpec(job(more)), { code: 'BAD_SPEC', message });
    try {
      validateSpec(job(more));
    } catch (error) {
      t.ok(error instanceof MeshError && error.hint.length > 0);
      t.notMatch((error as Error).message, /[\n\0]/, 'one line');
    }
  });
}

test('a selector that does not parse says which part', async (t) => {
  t.throws(() => validateSpec(job({ where: 'os=linux,=x' })), { code: 'BAD_SELECTOR', message: /"=x"/ });
});

test('staged paths stay where they are put', async (t) => {
  for (const path of ['a', 'data/a.txt', '.hidden', 'a..b', 'ä/ö', '...'])
    t.equal(pathFault(path), undefined, JSON.stringify(path));
  for (const path of ['', '/etc/passwd', '..', 'a/../b', './a', 'a//b', 'a/', 'a\\b', 'C:x', 'a\0', 'x'.repeat(300)])
    t.type(pathFault(path), 'string', JSON.stringify(path));
});

test('a task input is checked: text, files, digests, collisions', async (t) => {
  const file = (path: string, more: object = {}) => ({ path, digest, sizeBytes: 1, executable: false, ...more });
  const input = (...files: ReturnType<typeof file>[]) => ({ value: '', files });
  validateInput(input(file('a/b'), file('a/c'), file('d')));
  const bad = { code: 'BAD_SPEC' };
  t.throws(() => validateInput({ value: 'a\0', files: [] }, 3), { ...bad, message: /input of task 3 holds a NUL/ });
  t.throws(() => validateInput({ value: '{', files: [] }, 3, 'function'), { ...bad, message: /task 3 is not JSON/ });
  validateInput({ value: '{"a":1}', files: [] }, 3, 'function');
  t.throws(() => validateInput(input(file('../x')), 4), { ...bad, message: /"..\/x" of task 4 leaves/ });
  t.throws(() => validateInput(input(file('x', { digest: 'beef' }))), { ...bad, message: /no valid SHA-256/ });
  t.throws(() => validateInput(input(file('x', { sizeBytes: -1 }))), { ...bad, message: /impossible size/ });
  t.throws(() => validateInput(input(file('x'), file('x'))), { ...bad, message: /two staged files/ });
  t.throws(() => validateInput(input(file('x'), file('x/y'))), { ...bad, message: /both a staged file and a folder/ });
  t.throws(() => validateInput(input(file('x/y'), file('x'))), { ...bad, message: /both a staged/ }, 'in either order');
});

test('equal jobs are equal as text, whatever the order of their maps', async (t) => {
  const one = job({ ...command(['x'], { B: '2', A: '1' }), ...resources({ custom: { b: 1, a: 2 } }) });
  const two = job({ ...command(['x'], { A: '1', B: '2' }), ...resources({ custom: { a: 2, b: 1 } }) });
  t.equal(JSON.stringify(canonicalSpec(one)), JSON.stringify(canonicalSpec(two)));
  t.not(JSON.stringify(canonicalSpec(one)), JSON.stringify(canonicalSpec(job(command(['x'], { A: '1', B: '3' })))));
});
