import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { type Test, test as tapTest } from 'tap';
import { type Clock, systemClock } from '../../common/clock.js';
import { silentLogger } from '../../common/log.js';
import type { JobBody } from '../../proto/gen/mesh/v1/agent.js';
import { Stream } from '../../proto/gen/mesh/v1/common.js';
import { NodeFault } from '../core/types.js';
import type { FileSource } from '../staging/place.js';
import { ProcessExecutor } from './process.js';
import { readCookie, readPids, readProcess } from './process-table.js';
import { sweepStrays } from './strays.js';
import { makeAttempt, makeBench, makeBody, observe } from '../../test/support/executor-bench.js';
import { makeSpawner, noSpawner } from '../../test/support/spawner.js';
import { tiersOf } from '../../test/support/tiers.js';
import type { TierName } from './sandbox/tier.js';

const noFiles: FileSource = { withFile: () => Promise.reject(new NodeFault('no files here')) };

type TestBody = (t: Test) => unknown;
type Setup = { graceMs?: number; files?: FileSource; clock?: Clock };

async function setupIn(tier: TierName, t: Parameters<typeof makeBench>[0], more: Setup, spawned: boolean) {
  const bench = await makeBench(t);
  const tiers = await tiersOf(tier, bench);
  const spawner = spawned ? await makeSpawner(t) : undefined;
  const executor = new ProcessExecutor({
    ...{ ...bench, tiers, spawner },
    files: noFiles,
    clock: systemClock,
    log: silentLogger,
    nodeName: () => 'node-1',
    ...more,
  });
  return { ...bench, executor };
}

const command = (argv: string[], more: Partial<JobBody> = {}, environment: Record<string, string> = {}) =>
  makeBody({ $case: 'process', value: { argv, environment } }, more);
const shell = (script: string, more: Partial<JobBody> = {}) => command(['sh', '-c', script], more);

const alive = (pid: number) => readProcess(pid)?.zombie === false;
async function untilDead(...pids: number[]): Promise<void> {
  while (pids.some(alive)) await nextTurn();
}
/** What lives of the attempts of this agent, whatever numbers it has in a namespace of its own. */
const livingOf = (marker: string) =>
  readPids().filter((pid) => readCookie(pid)?.startsWith(`${marker}/`) === true && alive(pid));
const numbersIn = (text: string) => [...text.matchAll(/\d+/g)].map((match) => Number(match[0]));

/** What both tiers do in the same way, and what only one can. */
for (const tier of ['process', 'bubblewrap'] as const) {
  suite(tier, false);
  suite(tier, true);
}

/** Whoever starts the processes: the agent itself, or the spawner beside it. */
function suite(tier: TierName, spawned: boolean): void {
  const test = (name: string, ...rest: [body: TestBody] | [options: { skip: string | false }, body: TestBody]) => {
    const [options, body] = rest.length === 1 ? [{ skip: false as const }, rest[0]] : rest;
    void tapTest(`${name}${spawned ? ', spawned' : ''}`, { skip: options.skip || (spawned && noSpawner) }, body);
  };
  const setup = (t: Parameters<typeof makeBench>[0], more: Setup = {}) => setupIn(tier, t, more, spawned);
  const isolated = tier === 'bubblewrap';
  /** Processes that printed their numbers. In a namespace nothing outlives the attempt, not even for a moment. */
  const gone = async (t: { same(found: unknown, wanted: unknown): unknown }, marker: string, pids: number[]) =>
    isolated ? t.same(livingOf(marker), []) : untilDead(...pids);
  const standing = isolated ? ['etc', 'scratch'] : ['scratch'];

  test(`${tier}: a command succeeds: output by stream, exit code, duration`, async (t) => {
    const { executor, janitor, workRoot } = await setup(t);
    const run = observe(executor, [makeAttempt(shell('printf out; printf err >&2; cat'))]);
    const end = await run.end();
    t.match(end, { outcome: 'succeeded', exitCode: 0, signal: undefined, error: undefined, resultJson: undefined });
    t.ok(end.runUs > 0);
    const of = (stream: Stream) =>
      Buffer.concat(
        run
          .chunks(0)
          .filter((chunk) => chunk.stream === stream)
          .map((chunk) => chunk.data),
      ).toString();
    t.equal(of(Stream.STDOUT), 'out');
    t.equal(of(Stream.STDERR), 'err');
    await janitor.idle();
    t.same(readdirSync(workRoot.path), standing, 'the private directory is gone');
  });

  test(`${tier}: failures say how`, async (t) => {
    const { executor } = await setup(t);
    const failing = async (body: JobBody) => observe(executor, [makeAttempt(body)]).end();
    t.match(await failing(shell('exit 3')), { outcome: 'failed', exitCode: 3, error: 'exited with code 3' });
    t.match(await failing(shell('kill -SEGV $$')), {
      outcome: 'failed',
      exitCode: undefined,
      signal: 'SIGSEGV',
      error: 'killed by SIGSEGV',
    });
    t.match(await failing(command(['no-such-command'])), {
      outcome: 'failed',
      exitCode: 127,
      error: /command not found: no-such-command/,
    });
    t.match(await failing(command(['/etc/passwd'])), {
      outcome: 'failed',
      exitCode: 126,
      error: /not allowed to execute/,
    });
    t.match(await failing(command(['x'.repeat(5000)])), { outcome: 'failed', exitCode: 127 });
    t.match(await failing(command(['true', 'a\0b'])), { outcome: 'failed', exitCode: 126, error: /NUL byte/ });
    t.match(await failing(command(['true', 'x'.repeat(3 << 20)])), {
      outcome: 'failed',
      exitCode: 126,
      error: /too long/,
    });
    t.match(await failing(command([])), { outcome: 'failed', error: /empty/ });
  });

  test(`${tier}: arguments are a vector and are filled in once`, async (t) => {
    const { executor } = await setup(t);
    const body = command(['printf', '%s|', '{}', '{/}', 'x{/.}y', '{index}', '$(id)', ';', '{x}', '{{}}'], {
      array: { start: 10, step: 3 },
    });
    const input = { value: 'dir/{index}.tar.gz', files: [] };
    const run = observe(executor, [makeAttempt(body, 2, { input })]);
    await run.end();
    t.equal(run.text(0), 'dir/{index}.tar.gz|{index}.tar.gz|x{index}.tary|16|$(id)|;|{x}|{dir/{index}.tar.gz}|');
    const bare = observe(executor, [makeAttempt(command(['printf', '%s|', '{}', '{/}', '{index}']))]);
    await bare.end();
    t.equal(bare.text(0), '{}|{/}|{index}|');
  });

  test(`${tier}: the environment is what the contract says and nothing of the agent`, async (t) => {
    const { executor } = await setup(t);
    process.env.AGENT_CANARY = 'canary';
    t.teardown(() => delete process.env.AGENT_CANARY);
    const body = command(
      ['env', '-0'],
      {
        array: { start: 5, step: 1 },
        taskCount: 9,
        jobId: 'the-job',
        resources: { cpuMillis: 0, memoryBytes: 0, gpus: 2, custom: {} },
      },
      { GIVEN: 'a b\nc', LANG: 'de_DE', HOME: '/root', MESH_NODE: 'forged' },
    );
    const run = observe(executor, [makeAttempt(body, 3, { generation: 7, attempt: 2 })], { gpus: [1, 3] });
    await run.end();
    const found = Object.fromEntries(
      run
        .text(0)
        .split('\0')
        .filter(Boolean)
        .map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]),
    );
    t.match(found, {
      PATH: /^\/usr\/local\/sbin:/,
      LANG: 'de_DE',
      GIVEN: 'a b\nc',
      MESH_JOB_ID: 'the-job',
      MESH_TASK_INDEX: '3',
      MESH_INDEX: '8',
      MESH_ATTEMPT: '2',
      MESH_GENERATION: '7',
      MESH_NODE: 'node-1',
      MESH_TASK_COUNT: '9',
      CUDA_VISIBLE_DEVICES: '1,3',
    });
    t.equal(found.HOME, found.TMPDIR);
    t.not(found.HOME, '/root');
    t.notOk('AGENT_CANARY' in found);
    // The test runner itself adds some to whatever is spawned.
    const names = Object.keys(found).filter((name) => !name.startsWith('_TAPJS') && name !== 'NODE_OPTIONS');
    t.equal(names.length, 15, names.join(' '));
  });

  test(`${tier}: nothing but the three streams is open`, async (t) => {
    const { executor } = await setup(t);
    const run = observe(executor, [makeAttempt(shell('for fd in 3 4 5 6; do readlink /proc/$$/fd/$fd; done; id -u'))]);
    t.equal((await run.end()).outcome, 'succeeded');
    t.match(run.text(0), /^\d+\n$/);
  });

  test(`${tier}: the private directory is the working directory, private, and removed whatever is in it`, async (t) => {
    const { executor, janitor, workRoot } = await setup(t);
    const script = 'pwd; stat -c %a .; id -u; mkdir -p deep/locked; touch deep/locked/file; chmod 555 deep/locked';
    const run = observe(executor, [makeAttempt(shell(script))]);
    const end = await run.end();
    t.equal(end.outcome, 'succeeded');
    const [cwd, mode, uid] = run.text(0).split('\n');
    t.ok(cwd?.startsWith(workRoot.path));
    t.equal(mode, '700');
    t.equal(Number(uid), workRoot.user?.uid ?? process.getuid?.());
    await janitor.idle();
    t.same(readdirSync(workRoot.path), standing);
  });

  test(`${tier}: a directory that was left empty serves the next command of its job, and no other`, async (t) => {
    const { executor, janitor, workRoot } = await setup(t);
    const one = (script: string) => ({ ...shell(script), job: 1e6 });
    const other = (script: string) => ({ ...shell(script), job: 1e6 + 1 });
    const inDirectory = async (body: JobBody) => {
      const run = observe(executor, [makeAttempt(body)]);
      t.equal((await run.end()).outcome, 'succeeded');
      return run.text(0).trim();
    };
    const lasting = observe(executor, [makeAttempt(other('exec sleep 1000'))]);
    await lasting.whenStarted(0);
    const emptied = () => inDirectory(one('pwd; touch gone; rm gone'));
    let [first, next] = [await emptied(), await emptied()];
    while (spawned && next !== first) [first, next] = [next, await emptied()];
    if (!spawned) t.not(next, first, 'the agent itself looks into none');
    t.not(await inDirectory(other('pwd')), first);
    t.not(await inDirectory(one('pwd; touch left')), await inDirectory(one('pwd; test ! -e left')));
    lasting.running.stop(0, 'cancelled');
    await lasting.end();
    await janitor.idle();
    t.same(readdirSync(workRoot.path), standing);
  });

  const notRoot = process.getuid?.() !== 0 && 'needs root: an ordinary agent runs tasks as itself';

  test(`${tier}: a root agent runs tasks as an unprivileged user without groups`, { skip: notRoot }, async (t) => {
    const { executor, dataDir, workRoot } = await setup(t);
    const secret = join(dataDir, 'agent.key');
    writeFileSync(secret, 'secret', { mode: 0o600 });
    const script = `grep -E '^(Uid|Gid|Groups|CapEff):' /proc/self/status; cat '${secret}'; ls '${workRoot.path}'; cat /proc/${process.pid}/environ`;
    const run = observe(executor, [makeAttempt(shell(script))]);
    const end = await run.end();
    t.equal(end.outcome, 'failed');
    const text = run.text(0);
    t.match(text, /Uid:\t65534\t65534\t65534\t65534/);
    t.match(text, /Gid:\t65534\t65534/);
    t.match(text, /Groups:\s*\n/);
    t.match(text, /CapEff:\t0+\n/);
    t.equal(text.match(isolated ? /No such file/g : /Permission denied/g)?.length, isolated ? 2 : 3, text);
    t.notMatch(text, 'secret');
    t.notOk(workRoot.path.startsWith(dataDir), 'a private data directory cannot be passed through');
    t.equal(statSync(workRoot.path).mode & 0o777, 0o711);
  });

  test(`${tier}: staged files are there, owned by the task`, async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'files-'));
    t.teardown(() => rmSync(folder, { recursive: true }));
    writeFileSync(join(folder, 'digest'), '#!/bin/sh\necho "ran $1"', { mode: 0o600 });
    const { executor } = await setup(t, { files: { withFile: (digest, use) => use(join(folder, digest)) } });
    const files = [{ path: 'bin/my tool', digest: 'digest', sizeBytes: 1, executable: true }];
    const body = command(['./bin/my tool', '{}']);
    const run = observe(executor, [makeAttempt(body, 0, { input: { value: '', files } })]);
    t.equal((await run.end()).outcome, 'succeeded');
    t.equal(run.text(0), 'ran bin/my tool\n');
    const writing = observe(executor, [
      makeAttempt(shell('echo more >> "bin/my tool" && touch bin/new'), 0, { input: { value: '', files } }),
    ]);
    t.equal((await writing.end()).outcome, 'succeeded', writing.text(0));
    t.notMatch(readFileSync(join(folder, 'digest'), 'utf8'), 'more');
    const escaping = [{ path: '../x', digest: 'digest', sizeBytes: 1, executable: false }];
    const refused = await observe(executor, [makeAttempt(body, 0, { input: { value: '', files: escaping } })]).end();
    t.match(refused, { outcome: 'failed', error: /does not stay in its directory/ });
  });

  test(`${tier}: a file that cannot be had is the fault of the node`, async (t) => {
    const { executor } = await setup(t);
    const files = [{ path: 'a', digest: 'digest', sizeBytes: 1, executable: false }];
    const end = await observe(executor, [makeAttempt(command(['true']), 0, { input: { value: '', files } })]).end();
    t.match(end, { outcome: 'node-fault', error: 'no files here', exitCode: undefined });
  });

  test(`${tier}: a timeout ends the whole tree`, async (t) => {
    const { executor, marker } = await setup(t, { graceMs: 60_000 });
    const body = shell('sleep 1000 & echo $! $$; wait', { timeoutMs: 1500 });
    const run = observe(executor, [makeAttempt(body)]);
    const end = await run.end();
    t.match(end, { outcome: 'timed-out', error: 'timed out after 1.5 s', signal: 'SIGTERM' });
    const pids = numbersIn(run.text(0));
    t.equal(pids.length, 2);
    t.same(isolated ? livingOf(marker) : pids.filter(alive), []);
  });

  test(`${tier}: cancel: SIGTERM first, SIGKILL after the grace, escaped processes included`, async (t) => {
    // The grace ends when the test says so.
    const graceMs = 86_400_000;
    const graces: (() => void)[] = [];
    const clock: Clock = {
      monotonicMs: () => systemClock.monotonicMs(),
      wallMs: () => systemClock.wallMs(),
      after: (delayMs, fire, options) => {
        if (delayMs !== graceMs) return systemClock.after(delayMs, fire, options);
        graces.push(fire);
        return { cancel: () => undefined };
      },
    };
    const { executor, marker } = await setup(t, { graceMs, clock });
    const script = `
    trap 'echo term' TERM
    sh -c 'trap "" TERM; echo $$; while :; do sleep 1; done' &
    setsid sh -c 'setsid sh -c "echo \\$\\$; exec sleep 1000" & echo $$; exec sleep 1000' &
    (setsid sleep 1000 & echo $!)
    echo ready
    while :; do sleep 1; done`;
    const run = observe(executor, [makeAttempt(shell(script))]);
    await run.whenPrinted(0, 'ready');
    while (numbersIn(run.text(0)).length < 4) await nextTurn();
    run.running.stop(0, 'cancelled');
    run.running.stop(0, 'shutdown');
    await run.whenPrinted(0, 'term');
    t.equal(graces.length, 1);
    graces[0]?.();
    const end = await run.end();
    t.match(end, { outcome: 'cancelled', error: 'cancelled', signal: 'SIGKILL' });
    const pids = numbersIn(run.text(0));
    t.equal(pids.length, 4);
    await gone(t, marker, pids);
    t.pass('nothing of the tree is left');
  });

  test(`${tier}: an attempt stopped before it began never runs`, async (t) => {
    const { executor } = await setup(t, { files: { withFile: () => new Promise(() => undefined) } });
    const run = observe(executor, [makeAttempt(shell('echo ran'))]);
    run.running.stop(0, 'shutdown');
    t.match(await run.end(), { outcome: 'shutdown', error: 'the agent was stopped', runUs: 0 });
    t.equal(run.text(0), '');
  });

  test(`${tier}: when the main process ends, its group is killed, even with the output held open`, async (t) => {
    const { executor, marker } = await setup(t);
    const run = observe(executor, [makeAttempt(shell('sleep 1000 & echo $!; exit 0'))]);
    t.equal((await run.end()).outcome, 'succeeded');
    await gone(t, marker, numbersIn(run.text(0)));
    const escaped = observe(executor, [
      makeAttempt(shell("setsid sh -c 'echo $$; exec sleep 1000' & while [ ! -s f ]; do echo x > f; done; exit 0")),
    ]);
    t.equal((await escaped.end()).outcome, 'succeeded');
    await gone(t, marker, numbersIn(escaped.text(0)));
    t.pass('both are gone');
  });

  test(`${tier}: a daemon that closed everything ${isolated ? 'dies with its attempt' : 'falls to the next sweep, and to the next agent'}`, async (t) => {
    const { executor, strays, marker } = await setup(t);
    const daemon = `setsid sh -c 'echo $$; exec sleep 1000 >/dev/null 2>&1' &
    while [ "$(cat /proc/$!/comm 2>/dev/null)" != sleep ]; do :; done; exit 0`;
    if (isolated) {
      const run = observe(executor, [makeAttempt(shell(daemon))]);
      t.equal((await run.end()).outcome, 'succeeded');
      t.same(livingOf(marker), []);
      return;
    }
    const start = async () => {
      const run = observe(executor, [makeAttempt(shell(daemon))]);
      await run.end();
      const [pid] = numbersIn(run.text(0));
      t.ok(alive(pid as number), 'it has escaped');
      t.ok(readCookie(pid as number)?.startsWith(`${marker}/test/`));
      return pid as number;
    };
    const first = await start();
    t.equal(await strays.sweep(), 1);
    await untilDead(first);
    const second = await start();
    t.equal(await sweepStrays('another-agent'), 0);
    t.equal(await sweepStrays(marker), 1);
    await untilDead(second);
  });

  test(`${tier}: a sweep spares what still runs`, async (t) => {
    const { executor, strays } = await setup(t);
    const run = observe(executor, [makeAttempt(shell('echo up; sleep 1000'))]);
    await run.whenPrinted(0, 'up');
    t.equal(await strays.sweep(), 0);
    run.running.stop(0, 'cancelled');
    t.equal((await run.end()).outcome, 'cancelled');
  });

  test(`${tier}: peak memory is that of the tree`, async (t) => {
    const { executor } = await setup(t);
    const allocate = 'const b = Buffer.alloc(150 << 20, 1); console.log(b.length); setInterval(() => {}, 1000)';
    const body = command(['sh', '-c', `'${process.execPath}' -e '${allocate}'; true`]);
    const run = observe(executor, [makeAttempt(body)]);
    await run.whenPrinted(0, '157286400');
    run.running.stop(0, 'cancelled');
    const end = await run.end();
    t.ok((end.peakMemoryBytes ?? 0) > 150 << 20, String(end.peakMemoryBytes));
    const short = await observe(executor, [makeAttempt(command(['true']))]).end();
    t.equal(short.peakMemoryBytes, undefined);
  });

  test(`${tier}: 200 MB of output pass with flat memory, the ends kept`, async (t) => {
    const { executor, dataDir } = await setup(t);
    const body = shell('head -c 200000000 /dev/zero | tr "\\0" x; echo end');
    const before = process.memoryUsage().rss;
    const run = observe(executor, [makeAttempt(body)], { path: join(dataDir, 'spool') });
    t.equal((await run.end()).outcome, 'succeeded');
    const grown = process.memoryUsage().rss - before;
    t.ok(grown < 96 << 20, `resident size grew by ${grown >> 20} MiB`);
    t.ok(run.text(0).endsWith('xxend\n'));
    t.equal(run.text(0).length, 65536);
  });
}
