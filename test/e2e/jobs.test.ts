/** What people do with jobs, through the commands they type, on a mesh of two agents. */
import { createHash, randomBytes } from 'node:crypto';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { before, test } from 'tap';
import type { JobShape, TaskShape } from '../../sdk/shapes.js';
import { ISO_TIME, shell, startAtticMesh } from '../support/attic-mesh.js';
import type { Mesh, Page } from '../support/mesh.js';
import { until } from '../support/until.js';

interface Result {
  index: number;
  status: string;
  result: unknown;
}

interface LogLine {
  job: string;
  index: number;
  attempt: number;
  stream: string;
  at: string;
  text: string;
}

let mesh: Mesh;
/** Where tasks leave their traces. */
let traces: string;

before(async () => {
  mesh = await startAtticMesh(t);
  traces = mesh.witness.folder;
});

test('an array: one task per number, results in index order as JSON lines', async (t) => {
  const script = 'echo "$GREETING $MESH_INDEX $MESH_TASK_INDEX $MESH_TASK_COUNT $1"';
  const options = ['--array', '2-8:3', '--env', 'GREETING=good day', '--results', '--json'];
  const { code, stderr, ...result } = await mesh.cli('submit', ...options, ...shell(script, '<{index}>'));
  t.equal(code, 0);
  t.equal(stderr, '');
  t.strictSame(result.lines<Result>(), [
    { index: 0, status: 'COMPLETED', result: 'good day 2 0 3 <2>\n' },
    { index: 1, status: 'COMPLETED', result: 'good day 5 1 3 <5>\n' },
    { index: 2, status: 'COMPLETED', result: 'good day 8 2 3 <8>\n' },
  ]);
});

test('one task per line, of standard input and of a file', async (t) => {
  const input = 'beta/one.tar.gz\n\n$(touch owned); "x"\n';
  const command = ['--', 'printf', '%s|%s|%s', '{}', '{/}', '{/.}'];
  const piped = await mesh.cliWith({ input }, 'submit', '--each', '-', '--results', '--json', ...command);
  const expected = [
    'beta/one.tar.gz|one.tar.gz|one.tar',
    '$(touch owned); "x"|$(touch owned); "x"|$(touch owned); "x"',
  ];
  t.strictSame(
    piped.lines<Result>().map(({ result }) => result),
    expected,
  );
  const cwd = mesh.folder('lines');
  writeFileSync(join(cwd, 'list.txt'), input);
  const read = await mesh.cliWith({ cwd }, 'submit', '--each', 'list.txt', '--results', '--json', ...command);
  t.strictSame(read.lines<Result>(), piped.lines<Result>());
});

test('one task per file: contents are shipped into the private directory of each task', async (t) => {
  const cwd = mesh.folder('files');
  mkdirSync(join(cwd, 'in/deep'), { recursive: true });
  const contents: Record<string, Buffer> = {
    'in/a.bin': randomBytes(300_000),
    'in/b.bin': Buffer.alloc(0),
    'in/deep/c.bin': Buffer.from('small\n'),
  };
  for (const [path, content] of Object.entries(contents)) writeFileSync(join(cwd, path), content);
  const drained = await mesh.cli('drain', 'a1');
  t.equal(drained.code, 0);
  // Waits for a node, so that the files here are gone by the time it runs.
  const blocker = mesh.witness.gate('files-gate');
  const holding = await mesh.submit(...shell(`echo up >> ${traces}/files-up; read x < ${blocker.path}`));
  await mesh.witness.seen('files-up');
  const script = 'sha256sum < "$1"; pwd; find . -type f; stat -c "%a" .';
  const submitted = await mesh.cliWith(
    { cwd },
    ...['submit', '--json', '--each', 'in/**/*.bin', ...shell(script, '{}')],
  );
  const job = submitted.json<JobShape>();
  t.equal(job.tasks.total, 3);
  rmSync(cwd, { recursive: true });
  blocker.open();
  t.equal((await mesh.wait(job.id)).status, 'COMPLETED');
  const results = (await mesh.cli('results', '--json', job.id)).lines<Result>();
  const directories = new Set<string>();
  Object.entries(contents).forEach(([path, content], index) => {
    const [digest, directory, ...rest] = String(results[index]?.result).trimEnd().split('\n');
    t.equal(digest, `${createHash('sha256').update(content).digest('hex')}  -`, path);
    t.strictSame(rest, [`./${path}`, '700'], 'its own file and no other');
    t.notMatch(directory, cwd);
    directories.add(directory as string);
  });
  t.equal(directories.size, 3, 'a directory for each');
  t.equal((await mesh.wait(holding.id)).status, 'COMPLETED');
  t.equal((await mesh.cli('undrain', 'a1')).code, 0);
});

test('exit codes say what became of it', async (t) => {
  const [done, failed, bare] = await Promise.all([
    mesh.cli('submit', '--wait', '--json', '--', 'true'),
    mesh.cli('submit', '--wait', '--json', '--retries', '0', ...shell('exit 3')),
    mesh.cli('submit', '--', 'true'),
  ]);
  t.equal(done.code, 0);
  t.match(done.json<JobShape>(), { status: 'COMPLETED', completedAt: ISO_TIME, error: null });
  t.equal(failed.code, 1);
  t.match(failed.json<JobShape>(), { status: 'FAILED', tasks: { failed: 1 } });
  t.match(failed.error(), { code: 'JOB_FAILED' });
  t.equal(bare.code, 0);
  t.match(bare.stdout, /^[a-z0-9]+\n$/, 'without --json the id alone');
  const id = bare.stdout.trim();
  const codes = await Promise.all([
    mesh.cli('wait', id),
    mesh.cli('wait', failed.json<JobShape>().id),
    mesh.cli('job', 'nosuchjob'),
    mesh.cli('node', 'nosuchnode'),
    mesh.cli('tasks', `${id}.7`),
    mesh.cli('cancel', id),
  ]);
  t.strictSame(
    codes.map(({ code }) => code),
    [0, 1, 5, 5, 5, 1],
  );
});

test('waiting ends with 6 when time runs out and with 130 when interrupted; the job goes on', async (t) => {
  const gate = mesh.witness.gate('wait-gate');
  const job = await mesh.submit(...shell(`echo up >> ${traces}/wait-up; read x < ${gate.path}`));
  await mesh.witness.seen('wait-up');
  const timedOut = await mesh.cli('wait', '--json', '--timeout', '50ms', job.id);
  t.equal(timedOut.code, 6);
  t.match(timedOut.error(), { code: 'TIMED_OUT' });
  const followed = mesh.watch('logs', '-f', job.id);
  const submitting = mesh.watch('submit', '--wait', ...shell(`read x < ${gate.path}`));
  const [id] = await until('the id of the job', () => submitting.lines.length > 0 && submitting.lines, submitting);
  submitting.child.kill('SIGINT');
  const interrupted = await submitting.result;
  t.equal(interrupted.code, 130);
  t.match(interrupted.stderr, /interrupted/);
  t.match(await mesh.job(job.id), { status: 'RUNNING' });
  gate.open(2);
  const ended = await Promise.all([mesh.wait(job.id), mesh.wait(id as string)]);
  t.match(ended, [{ status: 'COMPLETED' }, { status: 'COMPLETED' }]);
  t.match(await followed.result, { code: 0, stdout: '' });
});

test('logs of a finished job: raw, per task, and as JSON lines', async (t) => {
  const job = await mesh.submit(
    ...['--wait', '--array', '0-1', ...shell('echo "out $MESH_INDEX"; echo "err $MESH_INDEX" >&2; printf tail')],
  );
  const [whole, one, json] = await Promise.all([
    mesh.cli('logs', job.id),
    mesh.cli('logs', `${job.id}.1`),
    mesh.cli('logs', '--json', job.id),
  ]);
  t.match([whole.code, one.code, json.code], [0, 0, 0]);
  t.match(whole.stdout, /out 0/);
  t.match(whole.stdout, /out 1/);
  t.match(one.stdout, /out 1\n/);
  t.notMatch(one.stdout, /out 0/);
  const lines = json.lines<LogLine>();
  const text = (index: number, stream: string) =>
    lines.flatMap((line) => (line.index === index && line.stream === stream ? [line.text] : [])).join('');
  for (const index of [0, 1]) {
    t.match(text(index, 'stdout').replaceAll('\n', ''), `out ${index}tail`);
    t.match(text(index, 'stderr').replaceAll('\n', ''), `err ${index}`);
  }
  for (const line of lines) t.match(line, { job: job.id, attempt: 1, at: ISO_TIME });
});

test('following shows a line while the task runs, and ends with the task', async (t) => {
  const gate = mesh.witness.gate('follow-gate');
  const job = await mesh.submit(...shell(`echo first; read x < ${gate.path}; echo second`));
  const following = mesh.watch('logs', '-f', `${job.id}.0`);
  await until('the first line', () => following.lines.includes('first'), following);
  t.match(await mesh.job(job.id), { status: 'RUNNING', tasks: { running: 1 } });
  t.notOk(following.lines.includes('second'));
  gate.open();
  t.match(await following.result, { code: 0, stdout: 'first\nsecond\n' });
});

test('lists are filtered and paged', async (t) => {
  const job = await mesh.submit('--wait', '--array', '0-6', '--retries', '0', ...shell('test $MESH_INDEX != 4'));
  const page = async <T>(...args: string[]) => (await mesh.cli(...args, '--json')).json<Page<T>>();
  const seen: number[] = [];
  let pages = 0;
  for (let cursor: string | null = ''; cursor !== null; pages++) {
    const next: string[] = cursor === '' ? [] : ['--cursor', cursor];
    const { items, next: following }: Page<TaskShape> = await page('tasks', job.id, '--limit', '3', ...next);
    seen.push(...items.map(({ index }) => index));
    cursor = following;
  }
  t.strictSame(seen, [0, 1, 2, 3, 4, 5, 6]);
  t.equal(pages, 3);
  const failed = await page<TaskShape>('tasks', job.id, '--status', 'failed');
  t.match(failed, { items: [{ index: 4, status: 'FAILED' }], next: null });

  const latest = await page<JobShape>('jobs', '--limit', '1');
  t.match(latest.items, [{ id: job.id }]);
  const before = await page<JobShape>('jobs', '--limit', '1', '--cursor', String(latest.next));
  t.equal(before.items.length, 1);
  t.not(before.items[0]?.id, job.id);
  for (const { status } of (await page<JobShape>('jobs', '--status', 'failed')).items) t.equal(status, 'FAILED');
});

test('the same idempotency key gives the same job, and only for the same specification', async (t) => {
  const once = ['--idempotency-key', 'nightly-1', ...shell(`echo ran >> ${traces}/once`)];
  const [first, second] = await Promise.all([mesh.submit(...once), mesh.submit(...once)]);
  t.equal(first.id, second.id);
  await mesh.wait(first.id);
  t.equal((await mesh.submit(...once)).id, first.id, 'also after its end');
  const other = await mesh.cli('submit', '--json', '--idempotency-key', 'nightly-1', '--', 'false');
  t.equal(other.code, 2);
  t.match(other.error(), { code: 'IDEMPOTENCY_CONFLICT' });
  t.equal(mesh.witness.lines('once').length, 1);
});

test('functions: arguments and results are JSON', async (t) => {
  const cwd = mesh.folder('functions');
  const source = [
    'export default (item) => ({ item, type: typeof item });',
    'export async function spell({ word }) { if (!word) throw new TypeError("no word"); return [...word]; }',
  ].join('\n');
  writeFileSync(join(cwd, 'work.mjs'), source);
  const run = (input: string, ...args: string[]) =>
    mesh.cliWith({ cwd, input }, 'submit', '--json', '--results', '--each', '-', '--retries', '0', ...args);
  const plain = await run('{"a":1}\ntext\n7\n', '--fn', 'work.mjs');
  t.equal(plain.code, 0, plain.stderr);
  t.strictSame(
    plain.lines<Result>().map(({ result }) => result),
    [
      { item: { a: 1 }, type: 'object' },
      { item: 'text', type: 'string' },
      { item: 7, type: 'number' },
    ],
  );
  const named = await run('{"word":"hi"}\n{}\n', '--fn', 'work.mjs#spell');
  t.equal(named.code, 1);
  t.match(named.lines<Result>(), [
    { index: 0, status: 'COMPLETED', result: ['h', 'i'] },
    { index: 1, status: 'FAILED', result: null },
  ]);
  const [job] = (await mesh.cli('jobs', '--json', '--limit', '1')).json<Page<JobShape>>().items;
  t.match(job, { type: 'function', status: 'FAILED' });
  t.match(await mesh.tasks(`${job?.id}.1`), [{ lastError: /no word/ }]);
});
