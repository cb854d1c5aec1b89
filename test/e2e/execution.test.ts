/** How a task lives on a node: who it is, what it sees, what it may say, and that nothing of it stays. */
import { execFile } from 'node:child_process';
import { existsSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import t, { before, test } from 'tap';
import { isAlive } from '../../common/process-life.js';
import { residentBytes } from '../support/leftovers.js';
import { type Agent, type Mesh, programPath, startMesh } from '../support/mesh.js';
import { FolderSignal, until } from '../support/until.js';

const LOG_BYTES_MAX = 4 * 2 ** 20;
const isRoot = process.getuid?.() === 0;
let mesh: Mesh;
let agent: Agent;

before(async () => {
  mesh = await startMesh(t, { coordinator: ['--max-log-bytes', '4MiB'] });
  // As a first start makes it: nobody else can get in.
  agent = await mesh.startAgent('a1', { mode: 0o700, args: ['--slots', '2', '--kill-grace', '300ms'] });
});

const shell = (script: string, ...words: string[]): string[] => ['--', 'sh', '-c', script, 'sh', ...words];

/** Runs a script as a job of one task; what it printed. */
async function output(script: string, ...options: string[]): Promise<string> {
  const { code, stdout, stderr } = await mesh.cli(
    'submit',
    '--results',
    '--retries',
    '0',
    ...options,
    ...shell(script),
  );
  if (code !== 0) throw new Error(stderr);
  return stdout;
}

test('the environment is what the contract names, and what the job gives', async (t) => {
  const lines = (await output('env -0 | tr "\\n\\0" " \\n"', '--env', 'GIVEN=a b=c')).trimEnd().split('\n');
  const seen = new Map(lines.map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]));
  const [, value] = Object.entries(mesh.environment).find(([name]) => name === 'E2E_RUN') ?? [];
  t.ok(value, 'the agent itself has one more');
  // A shell adds PWD.
  for (const added of ['PWD', 'OLDPWD', 'SHLVL', '_']) seen.delete(added);
  const mesh8 = ['JOB_ID', 'TASK_INDEX', 'INDEX', 'ATTEMPT', 'GENERATION', 'NODE', 'TASK_COUNT', 'ATTEMPT_COOKIE'];
  const expected = ['GIVEN', 'HOME', 'LANG', 'PATH', 'TMPDIR', ...mesh8.map((name) => `MESH_${name}`)];
  t.strictSame([...seen.keys()].sort(), expected.sort());
  t.match(Object.fromEntries(seen), {
    ...{ GIVEN: 'a b=c', MESH_INDEX: '0', MESH_TASK_INDEX: '0', MESH_ATTEMPT: '1', MESH_TASK_COUNT: '1' },
    ...{ MESH_NODE: 'a1', PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' },
  });
  t.equal(seen.get('HOME'), seen.get('TMPDIR'));
});

test('the directory is private, and gone afterwards; standard input is empty', async (t) => {
  const script =
    'pwd; echo "$HOME"; stat -c "%a %U" .; ls -A | wc -l; wc -c; touch left; mkdir -p sub/dir; chmod 0 sub';
  const [directory = '', home, access, entries, stdin] = (await output(script)).split('\n');
  t.equal(home, directory);
  t.equal(access, `700 ${isRoot ? 'nobody' : execUser()}`);
  t.strictSame([entries, stdin].map(Number), [0, 0]);
  const parent = dirname(directory);
  const removals = new FolderSignal(parent);
  t.teardown(() => removals.close());
  await until('the directory to be removed', () => !existsSync(directory), removals);
  t.equal(statSync(parent).mode & 0o066, 0, 'nobody can look around where it was');
});

const execUser = (): string => process.env.USER ?? '';

test('under root it is somebody else', { skip: isRoot ? false : 'needs root' }, async (t) => {
  const key = join(agent.dataDir, 'agent.key');
  const parts = ['id -u', 'id -G', `cat ${key} 2>&1 || true`, `ls ${agent.dataDir} 2>&1 || true`, 'kill -0 $PPID 2>&1'];
  const [user, groups, ...refusals] = (await output(`${parts.join('; ')} || true`)).trimEnd().split('\n');
  t.not(Number(user), 0);
  t.notMatch(groups?.split(' '), ['0']);
  t.equal(refusals.length, 3);
  for (const refusal of refusals) t.match(refusal, /denied|not permitted/i);
});

test('how it ended is told: codes, signals, commands that are not there', async (t) => {
  const run = (...command: string[]) => mesh.submit('--wait', '--retries', '0', '--', ...command);
  const [code, signal, absent, memory] = await Promise.all([
    run('sh', '-c', 'exit 42'),
    run('sh', '-c', 'kill -KILL $$'),
    run('no-such-command'),
    mesh.submit('--wait', ...shell('head -c 40000000 /dev/zero | tail -c 40000000 | wc -c; sleep 0.4 < /dev/null')),
  ]);
  t.match(await mesh.tasks(code.id), [{ status: 'FAILED', exitCode: 42, lastError: /42/ }]);
  t.match(await mesh.tasks(signal.id), [{ status: 'FAILED', exitCode: null, lastError: /SIGKILL/ }]);
  t.match(await mesh.tasks(absent.id), [{ status: 'FAILED', exitCode: 127, lastError: /no-such-command/ }]);
  const [task] = await mesh.tasks(memory.id);
  t.ok((task?.runMs ?? 0) > 0, 'how long it ran');
  t.ok((task?.peakMemoryBytes ?? 0) > 0, 'how much memory it took');
});

test('what it leaves running is ended with it', async (t) => {
  const script =
    'sleep 600 & echo $!; mkfifo f; setsid sh -c "echo \\$\\$ > f; exec sleep 600 > /dev/null 2>&1" & cat f';
  const mark = agent.program.mark();
  const pids = (await output(script)).trimEnd().split('\n').map(Number);
  t.equal(pids.length, 2);
  const [inGroup, escaped] = pids as [number, number];
  t.notOk(isAlive(inGroup), 'the group is gone');
  // Who leaves group, session and output is found by the next sweep.
  await agent.program.logged('task.strays-killed', undefined, mark);
  t.notOk(isAlive(escaped), 'so is the one that left it');
});

test('output without end is cut in the middle, and costs no memory', async (t) => {
  const script = 'printf BEGIN; head -c 50000000 /dev/zero | tr "\\0" x; printf END';
  const job = await mesh.submit('--wait', ...shell(script));
  t.equal(job.status, 'COMPLETED');
  const { stdout, stderr } = await mesh.cli('logs', job.id);
  t.match(stdout.slice(0, 5), 'BEGIN');
  t.match(stdout.slice(-3), 'END');
  // The end is kept in two files by turns (coordinator/services/log-store.ts).
  t.ok(stdout.length <= LOG_BYTES_MAX * 1.5, `${stdout.length} characters were kept`);
  t.ok(stdout.length >= LOG_BYTES_MAX * 0.5, 'and not much less than may be');
  const missing = 50_000_000 + 'BEGINEND'.length - stdout.length;
  // One gap, or several where the output came faster than it could be sent.
  const noted = [...stderr.matchAll(/\[(\d+) bytes of output left out\]/g)].map(([, bytes]) => Number(bytes));
  t.equal(
    noted.reduce((sum, bytes) => sum + bytes, 0),
    missing,
    'with notes of what is missing',
  );
  const [result] = (await mesh.tasks(job.id)).map((task) => String(task.result));
  t.ok(result?.endsWith('END'));
  t.ok((result?.length ?? 0) <= 64 * 1024 + 100, 'the result is the end of it');
  for (const { program } of [agent, mesh.coordinator])
    t.ok(residentBytes(program.pid).peak < 400 * 2 ** 20, `${program.title} stayed small`);
});

test('output is bytes', async (t) => {
  const script = 'i=0; while [ $i -lt 256 ]; do printf "\\\\$(printf %03o $i)"; i=$((i+1)); done';
  const job = await mesh.submit('--wait', ...shell(script));
  const file = join(mesh.root, 'bytes');
  const command = [programPath('mesh'), 'logs', job.id];
  const redirect = ['-c', 'file=$1; shift; exec "$@" > "$file"', 'sh', file, process.execPath, ...command];
  await promisify(execFile)('sh', redirect, { env: mesh.environment, cwd: mesh.root });
  const { stdout: bytes } = await promisify(execFile)('cat', [file], { encoding: 'buffer' });
  t.strictSame([...bytes], [...Array(256).keys()]);
  const { stdout: lines } = await mesh.cli('logs', '--json', job.id);
  t.doesNotThrow(() =>
    lines
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as unknown),
  );
});

test('arguments are a vector: nothing in them is run', async (t) => {
  const words = ['$(id)', '`id`', "'; drop table task; --", 'a\nb', '*', '__proto__', '--json', 'ünïcode ✓'];
  const { stdout, code } = await mesh.cli(
    'submit',
    '--results',
    '--name',
    words[2] as string,
    '--',
    'printf',
    '%s|',
    ...words,
  );
  t.equal(code, 0);
  t.equal(stdout.trimEnd(), `${words.join('|')}|`);
});
