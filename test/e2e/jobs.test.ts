/** What people do with jobs, through the commands they type, on a mesh of two agents. */
import { createHash, randomBytes } from 'node:crypto';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { before, test } from 'tap';
import type { JobShape, TaskShape } from '../../sdk/shapes.js';
import { isAlive } from '../../common/process-life.js';
import { type Mesh, type Page, startMesh } from '../support/mesh.js';
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

interface Why {
  job: string;
  index: number | null;
  status: string;
  chosen: string | null;
  nodes: {
    name: string;
    feasible: boolean;
    reason: string;
    score: number | null;
    terms: Record<string, number>;
  }[];
}

const shell = (script: string, ...words: string[]): string[] => ['--', 'sh', '-c', script, 'sh', ...words];
const ISO_TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;
let mesh: Mesh;
/** Where tasks leave their traces. */
let traces: string;

before(async () => {
  mesh = await startMesh(t);
  traces = mesh.witness.folder;
  const agent = ['--stop-grace', '100ms', '--kill-grace', '300ms'];
  await Promise.all([
    mesh.startAgent('a1', { args: [...agent, '--slots', '2', '--label', 'zone=attic'] }),
    mesh.startAgent('a2', { args: [...agent, '--slots', '1'] }),
  ]);
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

test('a task that fails runs again, elsewhere, and every attempt is counted', async (t) => {
  const script = `echo "$MESH_ATTEMPT $MESH_GENERATION $MESH_NODE" >> ${traces}/tries; echo "try $MESH_ATTEMPT"; test $MESH_ATTEMPT = 3`;
  const job = await mesh.submit('--wait', '--retries', '2', '--backoff', '10ms', ...shell(script));
  t.equal(job.status, 'COMPLETED');
  const tries = mesh.witness.lines('tries').map((line) => line.split(' '));
  t.strictSame(
    tries.map(([attempt]) => attempt),
    ['1', '2', '3'],
  );
  t.equal(new Set(tries.slice(0, 2).map(([, , node]) => node)).size, 2, 'not twice where it failed');
  const [task] = await mesh.tasks(job.id);
  t.match(task, {
    ...{ job: job.id, index: 0, status: 'COMPLETED', attempts: 3, maxAttempts: 3, failures: 2, losses: 0, exitCode: 0 },
    ...{ generation: Number(tries[2]?.[1]), node: tries[2]?.[2], result: 'try 3\n' },
    ...{ queuedAt: ISO_TIME, assignedAt: ISO_TIME, startedAt: ISO_TIME, finishedAt: ISO_TIME },
  });
  t.match(await mesh.cli('logs', `${job.id}.0#1`), { stdout: 'try 1\n' });

  const hopeless = await mesh.submit('--wait', '--retries', '1', '--backoff', '10ms', ...shell('exit 9'));
  t.equal(hopeless.status, 'FAILED');
  const expected = { status: 'FAILED', attempts: 2, maxAttempts: 2, failures: 2, exitCode: 9, lastError: /9/ };
  t.match(await mesh.tasks(hopeless.id), [expected]);
});

/** Starts a child in the group, one in a session of its own that closes everything, and names all three. */
const treeScript = (file: string): string =>
  [
    'sleep 600 & group=$!',
    'mkfifo free',
    "setsid sh -c 'echo $$ > free; exec sleep 600 > /dev/null 2>&1' &",
    'read free < free',
    `echo "$$ $group $free" >> ${traces}/${file}`,
    'wait',
  ].join('\n');

async function treeOf(file: string): Promise<number[]> {
  const [line = ''] = await mesh.witness.seen(file);
  return line.split(' ').map(Number);
}

test('a task that takes too long is ended with everything it started', async (t) => {
  const submitting = mesh.submit('--wait', '--timeout', '3s', '--retries', '0', ...shell(treeScript('slow')));
  const pids = await treeOf('slow');
  t.equal(pids.length, 3);
  t.ok(pids.every(isAlive), 'the tree runs');
  const job = await submitting;
  t.equal(job.status, 'FAILED');
  t.match(await mesh.tasks(job.id), [{ status: 'FAILED', attempts: 1, lastError: /timed out after 3 s/ }]);
  t.notOk(pids.some(isAlive), 'none of it is left');
});

test('cancelling ends what runs, and its capacity is free again', async (t) => {
  const job = await mesh.submit('--array', '0-9', '--where', 'name=a2', ...shell(treeScript('cancelled')));
  const pids = await treeOf('cancelled');
  const waiting = mesh.watch('wait', '--json', job.id);
  const cancel = await mesh.cli('cancel', '--json', job.id);
  t.equal(cancel.code, 0);
  t.match(cancel.json(), { id: job.id, cancelled: 10 });
  const ended = await waiting.result;
  t.equal(ended.code, 1);
  t.match(ended.json(), { status: 'CANCELLED', tasks: { cancelled: 10, running: 0, queued: 0, assigned: 0 } });
  // a2 has one slot; it falls free when the agent says that the task is dead.
  const next = await mesh.submit('--wait', '--where', 'name=a2', '--', 'true');
  t.equal(next.status, 'COMPLETED');
  t.notOk(pids.some(isAlive), 'the tree is dead');
  t.equal(mesh.witness.lines('cancelled').length, 1, 'nothing else of it started');
  t.match(await mesh.tasks(`${job.id}.0`), [{ status: 'CANCELLED' }]);
  t.match((await mesh.cli('cancel', '--json', job.id)).error(), { code: 'CONFLICT' });
});

test('what a failed task means for the others is up to the job', async (t) => {
  const script = 'test $MESH_INDEX != 1';
  const run = (policy: string) =>
    mesh.cli(
      'submit',
      '--json',
      '--wait',
      '--array',
      '0-3',
      '--retries',
      '0',
      '--on-failure',
      policy,
      ...shell(script),
    );
  const [finish, partial] = await Promise.all([run('finish'), run('partial')]);
  t.match(finish.json(), { status: 'FAILED', tasks: { completed: 3, failed: 1, cancelled: 0 } });
  t.match(partial.json(), { status: 'PARTIALLY_COMPLETED', tasks: { completed: 3, failed: 1, cancelled: 0 } });
  t.match([finish.code, partial.code], [1, 1], 'only a completed job is success');

  const gate = mesh.witness.gate('fast-gate');
  const fast = await mesh.submit(
    ...['--wait', '--array', '0-40', '--retries', '0', '--on-failure', 'fail-fast'],
    ...shell(`echo $MESH_INDEX >> ${traces}/fast; test $MESH_INDEX != 0 && read x < ${gate.path}`),
  );
  t.match(fast, { status: 'FAILED', tasks: { total: 41, failed: 1, completed: 0, cancelled: 40 } });
  t.match(fast.error, /./, 'it says why');
  t.ok(mesh.witness.lines('fast').length < 41, 'most never started');
});

test('retry runs what did not complete again, as a new job', async (t) => {
  const script = `echo $MESH_INDEX >> ${traces}/again; test $MESH_INDEX != 12 || test -e ${traces}/mended`;
  const job = await mesh.submit('--wait', '--array', '10-13', '--retries', '0', ...shell(script));
  t.equal(job.status, 'FAILED');
  writeFileSync(mesh.witness.path('mended'), '');
  const retried = await mesh.cli('retry', '--json', job.id);
  t.equal(retried.code, 0);
  t.match(retried.json<JobShape>(), { retryOf: job.id, tasks: { total: 1 } });
  const ended = await mesh.wait(retried.json<JobShape>().id);
  t.equal(ended.status, 'COMPLETED');
  t.not(ended.id, job.id);
  t.strictSame(mesh.witness.lines('again').sort(), ['10', '11', '12', '12', '13']);
  t.match(await mesh.job(job.id), { status: 'FAILED' }, 'the first job stays as it was');
  t.equal((await mesh.cli('retry', ended.id)).code, 1, 'nothing is left to retry');
});

test('a higher priority goes first', async (t) => {
  const gate = mesh.witness.gate('order-gate');
  const on = ['--where', 'name=a2'];
  const first = await mesh.submit(...on, ...shell(`echo up >> ${traces}/order-up; read x < ${gate.path}`));
  await mesh.witness.seen('order-up');
  const submit = (priority: number) =>
    mesh.submit(...on, '--priority', `${priority}`, ...shell(`echo ${priority} >> ${traces}/order`));
  const ids = [first.id];
  for (const priority of [-5, 0, 100, 7]) ids.push((await submit(priority)).id);
  gate.open();
  for (const id of ids) t.match(await mesh.wait(id), { status: 'COMPLETED' });
  t.strictSame(mesh.witness.lines('order'), ['100', '7', '0', '-5']);
});

const why = async (target: string): Promise<Why> => (await mesh.cli('why', '--json', target)).json<Why>();

test('why: what ruled each node out, or why it ran where it did', async (t) => {
  const stuck = await mesh.submit('--where', 'zone=moon', '--', 'true');
  const big = await mesh.submit('--memory', '900GiB', '--', 'true');
  const explained = await why(stuck.id);
  t.match(explained, { job: stuck.id, status: 'QUEUED', chosen: null });
  t.strictSame(explained.nodes.map(({ name }) => name).sort(), ['a1', 'a2']);
  for (const node of explained.nodes) {
    t.equal(node.feasible, false);
    t.match(node.reason, /zone/, `${node.name}: ${node.reason}`);
  }
  for (const node of (await why(big.id)).nodes) t.match(node, { feasible: false, reason: /memory/ });
  t.match((await mesh.cli('why', stuck.id)).stdout, /zone/, 'people can read it too');
  await Promise.all([mesh.cli('cancel', stuck.id), mesh.cli('cancel', big.id)]);

  const gate = mesh.witness.gate('why-gate');
  const job = await mesh.submit(
    '--where',
    'zone=attic',
    ...shell(`echo up >> ${traces}/why-up; read x < ${gate.path}`),
  );
  await mesh.witness.seen('why-up');
  const check = (explanation: Why) => {
    t.equal(explanation.chosen, 'a1');
    const chosen = explanation.nodes.find(({ name }) => name === 'a1');
    t.match(chosen, { feasible: true, score: Number });
    for (const term of ['rtt', 'load', 'queue', 'reliability']) t.type(chosen?.terms[term], 'number', term);
    t.match(
      explanation.nodes.find(({ name }) => name === 'a2'),
      { feasible: false, reason: /zone/ },
    );
  };
  check(await why(`${job.id}.0`));
  gate.open();
  await mesh.wait(job.id);
  const afterwards = await why(`${job.id}.0`);
  t.equal(afterwards.status, 'COMPLETED');
  check(afterwards);
});

test('a drained node gets nothing until it is undrained', async (t) => {
  const drain = await mesh.cli('drain', '--json', 'a1');
  t.match(drain.json(), { name: 'a1', draining: true });
  t.match(await mesh.node('a1'), { draining: true, state: 'HEALTHY' });
  const job = await mesh.submit('--wait', '--array', '0-5', '--', 'true');
  t.strictSame([...new Set((await mesh.tasks(job.id)).map(({ node }) => node))], ['a2']);
  const stuck = await mesh.submit('--where', 'name=a1', '--', 'true');
  t.match((await why(stuck.id)).nodes.find(({ name }) => name === 'a1')?.reason, /drain/);
  const undrain = await mesh.cli('undrain', '--json', 'a1');
  t.match(undrain.json(), { name: 'a1', draining: false });
  t.match(await mesh.wait(stuck.id), { status: 'COMPLETED' });
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
