/** Several short commands of a job in one launch, one after the other. */
import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { type Test, test as tapTest } from 'tap';
import { systemClock } from '../../common/clock.js';
import { silentLogger } from '../../common/log.js';
import type { JobBody } from '../../proto/gen/mesh/v1/agent.js';
import { makeAttempt, makeBench, makeBody, observe } from '../../test/support/executor-bench.js';
import { makeSpawner, noSpawner } from '../../test/support/spawner.js';
import { tiersOf } from '../../test/support/tiers.js';
import { type AttemptEnd, type AttemptSpec, NodeFault } from '../core/types.js';
import { ProcessExecutor } from './process.js';
import { readProcess } from './process-table.js';

const test = (name: string, body: (t: Test) => unknown) => void tapTest(name, { skip: noSpawner }, body);

async function setup(t: Test) {
  const bench = await makeBench(t);
  const spawner = await makeSpawner(t);
  const executor = new ProcessExecutor({
    ...{ ...bench, tiers: await tiersOf('process', bench), spawner, clock: systemClock, log: silentLogger },
    files: { withFile: () => Promise.reject(new NodeFault('no files here')) },
    nodeName: () => 'node-1',
  });
  return { ...bench, spawner, executor };
}

/** A place that tasks may write to, whoever they are. */
function openFolder(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'chain-'));
  chmodSync(folder, 0o777);
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

const shell = (script: string, more: Partial<JobBody> = {}) =>
  makeBody({ $case: 'process', value: { argv: ['sh', '-c', script, 'sh', '{}'], environment: {} } }, more);

/** One attempt for each value, which is the script's first argument. */
const attemptsOf = (body: JobBody, values: readonly string[]) =>
  values.map((value, index) => makeAttempt(body, index, { input: { value, files: [], arrayIndex: undefined } }));

const alive = (pid: number) => readProcess(pid)?.zombie === false;

interface Run {
  end: AttemptEnd;
  text: string;
}

/** As the agent does: what came back, because another one took long on this machine, runs in a launch of its own. */
async function runAll(executor: ProcessExecutor, attempts: readonly AttemptSpec[]): Promise<Run[]> {
  const runs: Run[] = [];
  for (let left = [...attempts]; left.length > 0; ) {
    const launch = left;
    const seen = observe(executor, launch);
    await seen.running.done;
    if (seen.ends.size === 0) throw new Error('none of them ran');
    seen.ends.forEach((end, position) => {
      runs[(launch[position] as AttemptSpec).index] = { end, text: seen.text(position) };
    });
    left = seen.returned.map((position) => launch[position] as AttemptSpec);
  }
  return runs;
}

const outcomes = (seen: ReturnType<typeof observe>) =>
  [...seen.ends].sort(([a], [b]) => a - b).map(([position, { outcome }]) => `${position} ${outcome}`);

test('they run one after the other, each with its own output and end', async (t) => {
  const { executor } = await setup(t);
  const busy = join(openFolder(t), 'busy');
  const script = `mkdir ${busy} || exit 99; echo "$1 $MESH_TASK_INDEX"; echo err >&2; rmdir ${busy}; exit $1`;
  const runs = await runAll(executor, attemptsOf(shell(script), ['0', '3', '0', '7', '0']));
  t.strictSame(
    runs.map(({ end, text }) => [end.outcome, end.exitCode, text]),
    ['0', '3', '0', '7', '0'].map((value, index) => [
      value === '0' ? 'succeeded' : 'failed',
      Number(value),
      `${value} ${index}\nerr\n`,
    ]),
  );
  t.match(runs[0]?.end, { error: undefined, signal: undefined, peakMemoryBytes: undefined });
  t.ok((runs[0]?.end.runUs ?? 0) > 0);
});

test('each finds what they share and what is its own in its environment, once, whatever the job gives', async (t) => {
  const { executor } = await setup(t);
  const given = {
    GIVEN: 'a b\nc',
    LANG: 'de_DE',
    HOME: '/root',
    MESH_NODE: 'forged',
    MESH_INDEX: '99',
    MESH_ATTEMPT: '99',
  };
  const work = { $case: 'process' as const, value: { argv: ['env', '-0'], environment: given } };
  const body = makeBody(work, { array: { start: 5, step: 1 }, taskCount: 9, jobId: 'the-job' });
  const runs = await runAll(
    executor,
    [0, 1, 2].map((index) => makeAttempt(body, index)),
  );
  runs.forEach(({ text }, index) => {
    const lines = text.split('\0').filter(Boolean);
    const ours = { MESH_JOB_ID: 'the-job', MESH_NODE: 'node-1', MESH_TASK_COUNT: '9', LANG: 'de_DE', GIVEN: 'a b\nc' };
    const own = {
      MESH_TASK_INDEX: String(index),
      MESH_INDEX: String(5 + index),
      MESH_ATTEMPT: '1',
      MESH_GENERATION: '1',
    };
    for (const [name, value] of Object.entries({ ...ours, ...own }))
      t.strictSame(
        lines.filter((line) => line.startsWith(`${name}=`)),
        [`${name}=${value}`],
      );
    t.equal(
      new Set(lines.map((line) => line.slice(0, line.indexOf('=')))).size,
      lines.length,
      'no name is there twice',
    );
  });
  t.notMatch(runs[0]?.text, 'HOME=/root');
});

test('of those that print nothing and succeed several are told of at once', async (t) => {
  const { executor } = await setup(t);
  const body = shell('[ "$1" = loud ] && echo; exit 0');
  let told = 0;
  // On a busy machine each may take so long that it is followed by itself.
  while (told < 2) {
    const seen = observe(executor, attemptsOf(body, ['', '', 'loud', '', '', '']));
    await seen.running.done;
    for (const positions of seen.together) {
      told = Math.max(told, positions.length);
      t.notOk(positions.includes(2), 'what printed has its own end');
      t.strictSame(
        positions,
        [...positions].sort((a, b) => a - b),
      );
    }
    t.equal(new Set([...seen.ends.keys(), ...seen.returned]).size, 6, 'none is forgotten');
    for (const { outcome, exitCode, resultJson } of seen.ends.values())
      t.strictSame([outcome, exitCode, resultJson], ['succeeded', 0, undefined]);
  }
});

test('a signal, a command that is not there and a folder that cannot be executed are each their own end', async (t) => {
  const { executor } = await setup(t);
  const body = makeBody({ $case: 'process', value: { argv: ['{}', '-c', 'kill -9 $$'], environment: {} } });
  const runs = await runAll(executor, attemptsOf(body, ['sh', '/nonexistent', '/tmp', 'sh']));
  const ends = runs.map(({ end }) => end);
  t.match(ends[0], { outcome: 'failed', signal: 'SIGKILL', error: 'killed by SIGKILL' });
  t.match(ends[1], { outcome: 'failed', exitCode: 127, error: /not found: \/nonexistent/ });
  t.match(ends[2], { outcome: 'failed', exitCode: 126, error: /not allowed to execute: \/tmp/ });
  t.match(ends[3], { outcome: 'failed', signal: 'SIGKILL' });
});

test('those behind one that takes long go back to the queue', async (t) => {
  const { executor } = await setup(t);
  const seen = observe(executor, attemptsOf(shell('while :; do sleep 0.1; done'), ['0', '1', '2']));
  await seen.whenStarted(0);
  while (seen.returned.length < 2) await nextTurn();
  t.strictSame(seen.returned, [1, 2]);
  t.ok((seen.started.get(0) ?? 0) > 0, 'it had run for a while when it was told');
  seen.running.stop(1, 'cancelled');
  seen.running.stop(0, 'cancelled');
  await seen.running.done;
  t.strictSame(outcomes(seen), ['0 cancelled']);
});

test('one that is stopped before it begins never begins, and those after it do', async (t) => {
  const { executor } = await setup(t);
  const folder = openFolder(t);
  const script = `: > ${folder}/$1; [ $1 = 0 ] && while [ ! -e ${folder}/go ]; do :; done; exit 0`;
  const seen = observe(executor, attemptsOf(shell(script), ['0', '1', '2']));
  seen.running.stop(1, 'cancelled');
  seen.running.stop(1, 'fenced');
  while (!seen.ends.has(1)) await nextTurn();
  t.match(seen.ends.get(1), { outcome: 'cancelled', error: 'cancelled' });
  seen.running.stop(0, 'fenced');
  await seen.running.done;
  t.match(seen.ends.get(0), { outcome: 'fenced' });
  t.notOk(existsSync(join(folder, '1')));
  t.ok(seen.returned.includes(2) || seen.ends.get(2)?.outcome === 'succeeded');
});

test('all are stopped, the one that runs and those that wait', async (t) => {
  const { executor } = await setup(t);
  const seen = observe(executor, attemptsOf(shell('echo $$; while :; do sleep 1; done'), ['a', 'b', 'c']));
  for (const position of [0, 1, 2]) seen.running.stop(position, 'shutdown');
  await seen.running.done;
  t.strictSame(outcomes(seen), ['0 shutdown', '1 shutdown', '2 shutdown']);
  const pid = Number(seen.text(0));
  t.notOk(pid > 0 && alive(pid));
});

test('one that passes its time limit is killed', async (t) => {
  const { executor } = await setup(t);
  const body = shell('[ $1 = 1 ] && sleep 1000; exit 0', { timeoutMs: 1000 });
  const runs = await runAll(executor, attemptsOf(body, ['0', '1']));
  t.strictSame(
    runs.map(({ end }) => end.outcome),
    ['succeeded', 'timed-out'],
  );
});

test('what one leaves behind is dead before anything follows it', async (t) => {
  const { executor } = await setup(t);
  const file = join(openFolder(t), 'stray');
  const script = `[ $1 = 0 ] && setsid sh -c 'echo $$ > ${file}; while :; do sleep 1; done' & while [ ! -s ${file} ]; do :; done`;
  const body = shell(script);
  const { work: quick } = shell('exit 0');
  const seen = observe(executor, attemptsOf(body, ['0', '1', '2']));
  await seen.running.done;
  t.equal(seen.ends.get(0)?.outcome, 'succeeded');
  t.strictSame(seen.returned, [1, 2], 'it held the output open');
  t.notOk(alive(Number(readFileSync(file, 'utf8'))));
  t.equal(executor.launchMax(body), 1, 'the next one goes alone');
  // Until short ones have been seen.
  while (executor.launchMax(body) === 1)
    await observe(executor, attemptsOf({ ...body, work: quick }, ['1'])).running.done;
});

test('each finds an empty directory, whatever the one before it left', async (t) => {
  const { executor, janitor, workRoot } = await setup(t);
  const script = 'ls -A; [ $1 = 1 ] && exit 0; mkdir -p a/b; : > a/b/c; chmod 500 a; pwd > .here';
  const runs = await runAll(executor, attemptsOf(shell(script), ['0', '0', '1', '0', '1']));
  t.strictSame(
    runs.map(({ end, text }) => `${end.outcome} ${text}`),
    Array(5).fill('succeeded '),
  );
  await janitor.idle();
  t.strictSame(readdirSync(workRoot.path), ['scratch'], 'and nothing of it stays');
});

test('loud ones lose nothing', async (t) => {
  const { executor } = await setup(t);
  const bytes = 300_000;
  const seen = observe(executor, attemptsOf(shell(`head -c ${bytes} /dev/zero; echo $1`), ['0', '1', '2']), {
    path: join(openFolder(t), 'spool'),
  });
  await seen.running.done;
  for (const position of seen.ends.keys()) {
    const last = seen.chunks(position).at(-1);
    t.equal((last?.offset ?? 0) + (last?.data.length ?? 0), bytes + 2);
    t.ok(seen.text(position).endsWith(`${position}\n`));
  }
  t.equal(seen.ends.size + seen.returned.length, 3);
});

test('when the spawner dies none of them is lost', async (t) => {
  const { executor, spawner } = await setup(t);
  const seen = observe(executor, attemptsOf(shell('echo $$; while :; do sleep 1; done'), ['0', '1']));
  await seen.whenPrinted(0, '\n');
  process.kill(spawner.pid as number, 'SIGKILL');
  await seen.running.done;
  t.equal(seen.ends.get(0)?.outcome, 'node-fault');
  t.notOk(alive(Number(seen.text(0))));
  t.ok(seen.returned.includes(1) || seen.ends.get(1)?.outcome === 'node-fault');
});

test('one with files, or that no process can be given, goes alone', async (t) => {
  const { executor } = await setup(t);
  const files = [{ path: 'a', digest: 'none', size: 1, executable: false }];
  const staged = observe(executor, [
    makeAttempt(shell('exit 0'), 0, { input: { value: 'x', files } as never }),
    makeAttempt(shell('exit 0'), 1),
  ]);
  await staged.running.done;
  t.strictSame(outcomes(staged), ['0 node-fault']);
  t.strictSame(staged.returned, [1]);
  const odd = observe(executor, attemptsOf(shell('exit 0'), ['fine', 'a\0b']));
  await odd.running.done;
  t.strictSame(outcomes(odd), ['0 succeeded']);
  t.strictSame(odd.returned, [1]);
});

test('a launch grows with how short commands are, and only where nothing about them is special', async (t) => {
  const { executor } = await setup(t);
  const body = shell('exit 0');
  t.equal(executor.launchMax(body), 1, 'nobody knows yet');
  await observe(executor, attemptsOf(body, ['0'])).running.done;
  t.ok(executor.launchMax(body) >= 1);
  for (const special of [
    { onDisconnect: 2 },
    { timeoutMs: 20 },
    { sandbox: 1 },
    { resources: { cpuMillis: 0, memoryBytes: 2 ** 30, gpus: 0, custom: {} } },
    { secrets: [{ name: 'A', variable: 'A', file: '' }] },
  ] as unknown as Partial<JobBody>[])
    t.equal(executor.launchMax({ ...body, ...special }), 1);
});
