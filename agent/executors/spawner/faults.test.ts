/** What goes wrong around the spawner, or is raced by it: kills that come early, floods, deaths, numbers given back. */
import { spawn, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type Test, test } from 'tap';
import { systemClock } from '../../../common/clock.js';
import { silentLogger } from '../../../common/log.js';
import { makeAttempt, makeBench, makeBody, observe } from '../../../test/support/executor-bench.js';
import { makeSpawner, noSpawner } from '../../../test/support/spawner.js';
import { tiersOf } from '../../../test/support/tiers.js';
import { NodeFault } from '../../core/types.js';
import { type Child, ChildHere, type StartPlan } from '../child.js';
import { ProcessExecutor } from '../process.js';
import { readProcess } from '../process-table.js';
import { UNBOUNDED } from '../sandbox/bounds.js';
import { SpawnedChild } from './child.js';
import { findSpawner } from './program.js';
import type { Spawner } from './spawner.js';

const spawned = { skip: noSpawner };
const PATH = '/usr/bin:/bin';
const here = dirname(fileURLToPath(import.meta.url));

const plan = (argv: string[], more: Partial<StartPlan> = {}): StartPlan => ({
  ...{ argv, environment: { PATH }, directory: '/', user: undefined, bounds: UNBOUNDED },
  ...more,
});

const shell = (script: string) =>
  makeBody({ $case: 'process', value: { argv: ['sh', '-c', script], environment: {} } });

/** An executor whose processes are started by a spawner, each seen by `watch` before the executor sees it. */
async function setup(t: Test, watch: (child: Child, spawner: Spawner) => void = () => undefined) {
  const bench = await makeBench(t);
  const tiers = await tiersOf('process', bench);
  const spawner = await makeSpawner(t);
  const starter = (started: StartPlan) => {
    const child = spawner.starter(started);
    watch(child, spawner);
    return child;
  };
  const executor = new ProcessExecutor({
    ...{ ...bench, tiers, clock: systemClock, log: silentLogger, nodeName: () => 'node-1' },
    spawner: { available: true, starter } as unknown as Spawner,
    files: { withFile: () => Promise.reject(new NodeFault('no files here')) },
  });
  return { ...bench, spawner, executor };
}

function makeFolder(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'spawner-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

const alive = (pid: number) => readProcess(pid)?.zombie === false;
async function untilDead(pid: number): Promise<void> {
  while (alive(pid)) await nextTurn();
}

async function output(child: Child): Promise<string> {
  let text = '';
  child.onOutput((_, data) => void (text += data.toString()));
  await child.exited;
  await child.closed;
  return text;
}

test('one that was started just now is killed, and told to end, before it has a group', spawned, async (t) => {
  const spawner = await makeSpawner(t);
  for (const signal of ['SIGKILL', 'SIGTERM'] as const)
    for (let i = 0; i < 50; i++) {
      const child = spawner.starter(plan(['sleep', '1000']));
      child.signalGroup(signal);
      t.match(await child.exited, { signal });
    }
});

test('an attempt that is fenced as soon as it has started does not run to its end', spawned, async (t) => {
  const { executor } = await setup(t);
  for (let i = 0; i < 30; i++) {
    const run = observe(executor, [makeAttempt(shell('sleep 1000'))]);
    await run.whenStarted(0);
    run.running.stop(0, 'fenced');
    t.match(await run.end(), { outcome: 'fenced', signal: 'SIGKILL' });
  }
});

test('one that prints little is heard among those that print without an end', spawned, async (t) => {
  const { executor, spawner } = await setup(t);
  const floods = Array.from({ length: 12 }, () => spawner.starter(plan(['yes'])));
  let bytes = 0;
  for (const flood of floods) flood.onOutput((_, data) => void (bytes += data.length));
  let most = 0;
  for (let i = 0; i < 20; i++) {
    const child = spawner.starter(plan(['echo', 'hello']));
    const text = output(child);
    await child.exited;
    const before = bytes;
    t.equal(await text, 'hello\n');
    most = Math.max(most, bytes - before);
  }
  // Its text and its end have each to wait for one piece (64 KiB) of every other.
  t.ok(most < 4 << 20, `${most} bytes of the others came between its end and its last word`);
  const run = observe(executor, [makeAttempt(shell('echo hello'))]);
  t.match(await run.end(), { outcome: 'succeeded' });
  t.equal(run.text(0), 'hello\n');
  for (const flood of floods) flood.signalGroup('SIGKILL');
  for (const flood of floods) await flood.closed;
});

test('a spawner that dies with output on its way leaves no success behind', spawned, async (t) => {
  const unit = new SpawnedChild(1, () => undefined);
  const exit = { kind: 'exit', id: 1, status: 0, step: undefined, errno: 0, runUs: 1, pid: 2 } as const;
  unit.take({ ...exit, closed: false, directoryPristine: false, directoryAside: false });
  unit.lost(new NodeFault('gone'));
  t.match(await unit.exited, { exitCode: 0 });
  await t.rejects(unit.closed, NodeFault);

  const { executor } = await setup(t, (child, { pid }) => {
    void child.exited.then(() => process.kill(pid as number, 'SIGKILL'));
  });
  // It ends, and what left its group holds the output open.
  const run = observe(executor, [
    makeAttempt(shell("setsid sh -c 'echo $$ > f; exec sleep 1000' & while [ ! -s f ]; do :; done; cat f; exit 0")),
  ]);
  t.match(await run.end(), { outcome: 'node-fault', error: /what had started the process has ended/ });
  await untilDead(Number(run.text(0)));
});

test('a number that was given back is nobody of the attempt', spawned, async (t) => {
  const bystander = spawn('sleep', ['1000'], { detached: true, stdio: 'ignore' });
  const gone = new Promise((resolve) => bystander.once('exit', resolve));
  const { executor } = await setup(t, (child) => {
    // As if its number were another's as soon as the end is known.
    void child.exited.then(() => Object.defineProperty(child, 'pid', { get: () => bystander.pid }));
  });
  const run = observe(executor, [
    makeAttempt(shell("setsid sh -c 'echo $$ > f; exec sleep 1000' & while [ ! -s f ]; do :; done; cat f; exit 0")),
  ]);
  t.match(await run.end(), { outcome: 'succeeded' });
  await untilDead(Number(run.text(0)));
  t.equal(bystander.signalCode, null);
  t.ok(alive(bystander.pid as number), 'it lives');
  bystander.kill('SIGKILL');
  await gone;
});

test('started here, it finds its directory made, too, or it is the fault of the node', async (t) => {
  const directory = join(makeFolder(t), 'private');
  const made = new ChildHere(plan(['sh', '-c', 'pwd; stat -c %a .'], { directory, directoryCare: 'make' }));
  t.equal(await output(made), `${directory}\n700\n`);
  t.throws(() => new ChildHere(plan(['true'], { directory: `${directory}/a/b`, directoryCare: 'make' })), NodeFault);
});

test(
  'what a spawner is not given because it is too long starts in its own directory all the same',
  spawned,
  async (t) => {
    const bench = await makeBench(t);
    const tiers = await tiersOf('bubblewrap', bench);
    const spawner = await makeSpawner(t);
    const executor = new ProcessExecutor({
      ...{ ...bench, tiers, spawner, clock: systemClock, log: silentLogger, nodeName: () => 'node-1' },
      files: { withFile: () => Promise.reject(new NodeFault('no files here')) },
    });
    const environment = Object.fromEntries(Array.from({ length: 6 }, (_, i) => [`LONG${i}`, 'x'.repeat(100_000)]));
    const argv = ['sh', '-c', 'touch file && echo ${#LONG5}'];
    const run = observe(executor, [makeAttempt(makeBody({ $case: 'process', value: { argv, environment } }))]);
    t.match(await run.end(), { outcome: 'succeeded', exitCode: 0 }, run.text(0));
  },
);

test('a spawner that cannot be started for want of descriptors is no end of the agent', spawned, async (t) => {
  const script = `
    import { closeSync, openSync } from 'node:fs';
    import { Spawner } from './spawner.js';
    import { findSpawner } from './program.js';
    import { silentLogger } from '../../../common/log.js';
    const bounds = { memoryBytes: 0, processes: 0, openFiles: 0, fileSizeBytes: 0, cpuTimeMs: 0 };
    const plan = { argv: ['true'], environment: { PATH: '${PATH}' }, directory: '/', user: undefined, bounds };
    const spawner = new Spawner(findSpawner(), silentLogger);
    const held = [];
    try { for (;;) held.push(openSync('/dev/null')); } catch {}
    await spawner.start();
    const none = spawner.pid;
    for (const fd of held) closeSync(fd);
    const child = spawner.starter(plan);
    const { exitCode } = await child.exited;
    console.log(none, exitCode, spawner.pid > 0);
    await spawner.stop();
  `;
  const file = join(here, `starved-${process.pid}.tmp.mts`);
  writeFileSync(file, script);
  t.teardown(() => rmSync(file, { force: true }));
  const argv = ['-c', 'ulimit -n 64; exec "$0" --import=tsx "$1"', process.execPath, file];
  const agent = spawn('sh', argv, { stdio: ['ignore', 'pipe', 'inherit'] });
  let said = '';
  agent.stdout.on('data', (data: Buffer) => void (said += data.toString()));
  t.equal(await new Promise((resolve) => agent.once('close', resolve)), 0);
  t.equal(said, 'undefined 0 true\n');
});

test('an agent that stops listening ends it', spawned, async (t) => {
  const program = spawn(findSpawner() as string, [String(process.pid)], { stdio: ['pipe', 'pipe', 'ignore'] });
  const ended = new Promise((resolve) => program.once('exit', resolve));
  program.stdout.destroy();
  t.equal(await ended, 0);
});

test('a directory that somebody was in while it lay about is put aside', spawned, async (t) => {
  const spawner = await makeSpawner(t);
  const directory = join(makeFolder(t), 'private');
  const look = (directoryCare: 'make' | 'check') =>
    spawner.starter(plan(['sh', '-c', 'ls -A; stat -c %a .'], { directory, directoryCare }));
  const first = look('make');
  t.equal(await output(first), '700\n');
  t.match(await first.exited, { directoryPristine: true, directoryAside: undefined });
  writeFileSync(join(directory, 'planted'), '');
  const second = look('check');
  t.equal(await output(second), '700\n');
  const { directoryPristine, directoryAside } = await second.exited;
  t.equal(directoryPristine, true);
  t.same(readdirSync(`${directory}${directoryAside}`), ['planted']);
  t.same(readdirSync(directory), []);
  rmdirSync(directory);
  t.equal(await output(look('check')), '700\n', 'one that is gone is made');
});

test('an attempt finds its directory empty, whoever was in it since the last one', spawned, async (t) => {
  const { executor, workRoot, janitor } = await setup(t);
  const body = shell('pwd; ls -A');
  // While something runs, directories wait for the next attempt of their job.
  const other = observe(executor, [makeAttempt(shell('echo up; sleep 1000'))]);
  await other.whenPrinted(0, 'up');
  const first = observe(executor, [makeAttempt(body, 0)]);
  t.match(await first.end(), { outcome: 'succeeded' });
  const directory = first.text(0).trim();
  t.ok(statSync(directory).isDirectory(), 'it waits');
  writeFileSync(join(directory, 'planted'), '');
  const second = observe(executor, [makeAttempt(body, 1)]);
  t.match(await second.end(), { outcome: 'succeeded' });
  t.equal(second.text(0), first.text(0));
  other.running.stop(0, 'fenced');
  await other.end();
  await janitor.idle();
  t.same(readdirSync(workRoot.path), ['scratch']);
});

const mounted = (t: Test, path: string): boolean => {
  const { status } = spawnSync('mount', ['-t', 'tmpfs', '-o', 'mode=700', 'none', path]);
  if (status === 0) t.teardown(() => spawnSync('umount', ['-l', path]));
  return status === 0;
};

test('what is mounted in place of a directory is neither looked into nor used', spawned, async (t) => {
  const directory = join(makeFolder(t), 'private');
  mkdirSync(directory, { mode: 0o700 });
  if (!mounted(t, directory)) return t.comment('nothing can be mounted here');
  const spawner = await makeSpawner(t);
  await t.rejects(spawner.starter(plan(['true'], { directory, directoryCare: 'check' })).exited, /EBUSY/);
});
