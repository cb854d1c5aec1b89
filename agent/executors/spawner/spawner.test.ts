import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { test } from 'tap';
import { systemClock } from '../../../common/clock.js';
import { silentLogger } from '../../../common/log.js';
import { makeAttempt, makeBench, makeBody, observe } from '../../../test/support/executor-bench.js';
import { collect, makeSpawner, noSpawner, outcome, PATH, plan } from '../../../test/support/spawner.js';
import { tiersOf } from '../../../test/support/tiers.js';
import { NodeFault } from '../../core/types.js';
import { ChildHere, type DirectoryCare, type StartPlan } from '../child.js';
import { ProcessExecutor } from '../process.js';
import { readProcess } from '../process-table.js';
import { UNBOUNDED } from '../sandbox/bounds.js';
import { SpawnedChild } from './child.js';
import { FrameReader } from './frames.js';
import { findSpawner } from './program.js';
import { Spawner } from './spawner.js';

const spawned = { skip: noSpawner };
const notRoot = noSpawner || (process.getuid?.() !== 0 && 'needs root: an ordinary agent runs tasks as itself');
const NOBODY = { name: 'nobody', uid: 65534, gid: 65534 };

const alive = (pid: number) => readProcess(pid)?.zombie === false;
async function untilDead(pid: number): Promise<void> {
  while (alive(pid)) await nextTurn();
}

/** What is open in the spawner, as the kernel counts it: its own, and two for each process that runs. */
const openIn = (pid: number) => readdirSync(`/proc/${pid}/fd`).length;

test('arguments and variables arrive byte for byte', spawned, async (t) => {
  const spawner = await makeSpawner(t);
  const nasty = [
    '',
    ' ',
    "'",
    '"',
    '\\',
    '\n',
    '\t\r',
    '$(id)',
    '`id`',
    '*',
    '{}',
    '-n',
    '--',
    '\u0001\u0081\u0088',
    '𝄞',
  ];
  const { out } = await outcome(spawner.starter(plan(['printf', '%s\\0', ...nasty])));
  t.same(Buffer.from(out, 'latin1').toString(), nasty.map((text) => `${text}\0`).join(''));
  const environment = { PATH, 'A.B-C': nasty.join('|'), 'BASH_FUNC_x%%': '() { id; }', E: '', IFS: ' ', LD_DEBUG: '' };
  const seen = await outcome(spawner.starter(plan(['env', '-0'], { environment })));
  const lines = Buffer.from(seen.out, 'latin1').toString().split('\0').filter(Boolean).sort();
  t.same(
    lines,
    Object.entries(environment)
      .map(([name, value]) => `${name}=${value}`)
      .sort(),
  );
  const long = 'x'.repeat(120_000);
  const { out: length } = await outcome(
    spawner.starter(plan(['sh', '-c', 'echo ${#1} $#', 'sh', long, ...Array(4000).fill('y')])),
  );
  t.equal(length, '120000 4001\n');
});

test('what cannot be started says why', spawned, async (t) => {
  const spawner = await makeSpawner(t);
  const code = (argv: string[], more: Partial<StartPlan> = {}) =>
    spawner.starter(plan(argv, more)).exited.then(
      (ended) => ended,
      (error: NodeJS.ErrnoException) => error.code ?? error.message,
    );
  t.equal(await code(['no-such-command']), 'ENOENT');
  t.equal(await code(['/etc/passwd']), 'EACCES');
  t.equal(await code(['true', 'x'.repeat(3 << 20)]), 'E2BIG');
  t.equal(await code(['true'], { directory: '/nonexistent' }), 'ENOENT');
  t.equal(
    await code(['true'], { directory: '/nonexistent/below', directoryCare: 'make' }),
    'no working directory could be made: ENOENT',
  );
  t.throws(() => spawner.starter(plan(['true', 'a\0b'])), { code: 'ERR_INVALID_ARG_VALUE' });
  t.throws(() => spawner.starter(plan(['true', 'x'.repeat(9 << 20)])), { code: 'E2BIG' });
  t.match(await outcome(spawner.starter(plan(['true']))), { exitCode: 0 }, 'and it goes on');
});

test('exit codes and signals are told apart, 128 and more too', spawned, async (t) => {
  const spawner = await makeSpawner(t);
  const how = async (script: string) => outcome(spawner.starter(plan(['sh', '-c', script])));
  for (const exitCode of [0, 1, 126, 127, 128, 130, 137, 141, 143, 255])
    t.same(await how(`exit ${exitCode}`), { exitCode, out: '', err: '' });
  for (const signal of ['SIGINT', 'SIGKILL', 'SIGPIPE', 'SIGTERM', 'SIGSEGV'])
    t.same(await how(`kill -${signal.slice(3)} $$`), { signal, out: '', err: '' });
});

test('a command finds default signals, a session of its own, empty input and three descriptors', spawned, async (t) => {
  const spawner = await makeSpawner(t);
  const others = Array.from({ length: 8 }, () => spawner.starter(plan(['sleep', '1000'])));
  const child = spawner.starter(
    plan([
      'sh',
      '-c',
      'i=3; while [ $i -lt 300 ]; do [ -e /proc/$$/fd/$i ] && echo $i; i=$((i+1)); done; readlink /proc/$$/fd/0; cat; grep -E "^Sig(Blk|Ign)" /proc/self/status; cut -d" " -f5,6 /proc/$$/stat; echo $$',
    ]),
  );
  const { out } = await outcome(child);
  const lines = out.trim().split('\n');
  t.equal(lines[0], '/dev/null');
  t.match(lines[1], /SigBlk:\t0+$/);
  t.match(lines[2], /SigIgn:\t0+$/);
  t.equal(lines[3], `${lines[4]} ${lines[4]}`);
  t.equal(child.pid, Number(lines[4]));
  for (const other of others) other.signalGroup('SIGKILL');
  for (const other of others) t.match(await other.exited, { signal: 'SIGKILL' });
});

test('limits are set, and one beyond what is there is none', spawned, async (t) => {
  const spawner = await makeSpawner(t);
  const bounds = { ...UNBOUNDED, openFiles: 64, fileSizeBytes: 1000, cpuTimeMs: 1500 };
  const script = 'ulimit -c; ulimit -n; ulimit -f; ulimit -S -t; ulimit -H -t';
  t.equal((await outcome(spawner.starter(plan(['sh', '-c', script], { bounds })))).out, '0\n64\n2\n2\n7\n');
  const loose = { ...UNBOUNDED, openFiles: 2 ** 40 };
  const same = async (more: Partial<StartPlan>) =>
    (await outcome(spawner.starter(plan(['sh', '-c', 'ulimit -n'], more)))).out;
  t.equal(await same({ bounds: loose }), await same({}));
});

test('a root agent: another user, no groups, no rights, and no way to what started it', {
  skip: notRoot,
}, async (t) => {
  const spawner = await makeSpawner(t);
  const folder = mkdtempSync(join(tmpdir(), 'spawner-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const { pid } = spawner;
  const script = `grep -E '^(Uid|Gid|Groups|CapEff):' /proc/self/status; cat /proc/${pid}/environ /proc/${pid}/mem; ls /proc/${pid}/fd; kill -9 ${pid}`;
  const { out, err } = await outcome(spawner.starter(plan(['sh', '-c', script], { user: NOBODY })));
  t.match(out, /Uid:\t65534\t65534\t65534\t65534\nGid:\t65534\t65534\t65534\t65534\nGroups:\s*\nCapEff:\t0+\n$/);
  t.equal(err.match(/Permission denied|not permitted/gi)?.length, 4, err);
  t.equal(spawner.pid, pid);
});

test('its directory is made, and looked at in the end', spawned, async (t) => {
  const spawner = await makeSpawner(t);
  const folder = mkdtempSync(join(tmpdir(), 'spawner-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const own = (name: string, script: string, directoryCare: DirectoryCare = 'make') =>
    spawner.starter(plan(['sh', '-c', script], { directory: join(folder, name), directoryCare }));
  const empty = own('empty', 'pwd; stat -c %a .');
  const { text } = collect(empty);
  t.match(await empty.exited, { exitCode: 0, directoryPristine: true });
  t.equal(text[0], `${join(folder, 'empty')}\n700\n`);
  t.match(await own('empty', 'touch a && rm a', 'check').exited, { exitCode: 0, directoryPristine: true });
  for (const [name, script] of Object.entries({
    full: 'touch file',
    hidden: 'mkdir .a',
    open: 'chmod 755 .',
    gone: 'rmdir "$PWD"',
    linked: 'cd .. && rmdir linked && ln -s empty linked',
    marked: 'setfattr -n user.a -v b . 2>/dev/null || touch file',
  }))
    t.match(await own(name, script).exited, { exitCode: 0, directoryPristine: false }, name);
  await t.rejects(own('empty', 'true').exited, /no working directory could be made: EEXIST/);
});

test('the group is killed before the end is reported, whoever holds the output open', spawned, async (t) => {
  const spawner = await makeSpawner(t);
  for (const held of ['', ' >/dev/null 2>&1']) {
    const child = spawner.starter(
      plan([
        'sh',
        '-c',
        `(sh -c 'echo $$; exec sleep 1000${held}' & wait) & sh -c 'echo $$; exec sleep 1000${held}' & while [ $(ps -o comm= -g $$ | grep -c sleep) -lt 2 ]; do :; done; exit 3`,
      ]),
    );
    const { text } = collect(child);
    t.match(await child.exited, { exitCode: 3 });
    await child.closed;
    const pids = text[0].trim().split('\n').map(Number);
    t.equal(pids.length, 2);
    for (const pid of pids) await untilDead(pid);
  }
});

test('streams keep apart, in the order they are written, however much it is', spawned, async (t) => {
  const spawner = await makeSpawner(t);
  const lines = await outcome(
    spawner.starter(plan(['sh', '-c', 'i=0; while [ $i -lt 2000 ]; do echo o$i; echo e$i >&2; i=$((i+1)); done'])),
  );
  const expected = (letter: string) => Array.from({ length: 2000 }, (_, i) => `${letter}${i}\n`).join('');
  t.equal(lines.out, expected('o'));
  t.equal(lines.err, expected('e'));
  const large = spawner.starter(plan(['sh', '-c', 'head -c 50000000 /dev/zero; head -c 1000000 /dev/zero >&2']));
  const got = [0, 0];
  large.onOutput((stream, data) => {
    got[stream] = (got[stream] ?? 0) + data.length;
  });
  t.match(await large.exited, { exitCode: 0 });
  await large.closed;
  t.same(got, [50_000_000, 1_000_000]);
});

test('a paused stream stops its writer, and nobody else', spawned, async (t) => {
  const spawner = await makeSpawner(t);
  const writer = spawner.starter(plan(['sh', '-c', 'head -c 10000000 /dev/zero; echo done >&2']));
  let bytes = 0;
  let said = '';
  writer.onOutput((stream, data) => {
    if (stream === 1) said += data.toString();
    if (stream !== 0) return;
    if (bytes === 0) writer.pause(0);
    bytes += data.length;
  });
  const first = await outcome(spawner.starter(plan(['head', '-c', '5000000', '/dev/zero'])));
  t.equal(first.out.length, 5_000_000, 'another one passes');
  t.ok(bytes < 5_000_000, `${bytes} bytes were on their way`);
  t.equal(said, '', 'it waits');
  t.ok(writer.paused);
  writer.resume(0);
  await writer.exited;
  await writer.closed;
  t.equal(bytes, 10_000_000);
  t.equal(said, 'done\n');
});

test('abandoned output ends the wait for who holds it', spawned, async (t) => {
  const spawner = await makeSpawner(t);
  const child = spawner.starter(
    plan(['sh', '-c', 'setsid sleep 1000 & echo $!; while [ "$(cat /proc/$!/comm)" != sleep ]; do :; done']),
  );
  const { text } = collect(child);
  t.match(await child.exited, { exitCode: 0 });
  const pid = Number(text[0]);
  t.ok(alive(pid), 'it left the group');
  child.abandon();
  await child.closed;
  process.kill(pid, 'SIGKILL');
  await untilDead(pid);
});

test('thousands of commands leave nothing behind', spawned, async (t) => {
  const spawner = await makeSpawner(t);
  const folder = mkdtempSync(join(tmpdir(), 'spawner-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  await outcome(spawner.starter(plan(['true'])));
  const before = openIn(spawner.pid as number);
  let started = 0;
  const lane = async () => {
    while (started < 2000) {
      started++;
      const child = spawner.starter(plan(['true'], { directory: folder, directoryCare: 'check' }));
      collect(child);
      if ((await child.exited).directoryPristine !== true) t.fail('a directory is not as it was');
      await child.closed;
    }
  };
  await Promise.all(Array.from({ length: 8 }, lane));
  t.same(readdirSync(folder), []);
  t.equal(openIn(spawner.pid as number), before);
  const children = readFileSync(`/proc/${spawner.pid}/task/${spawner.pid}/children`, 'latin1');
  t.equal(children.trim(), '', 'all were waited for');
});

test(
  'when the spawner is killed its processes die, their attempts are the fault of the node, and a new one comes',
  spawned,
  async (t) => {
    const bench = await makeBench(t);
    const spawner = await makeSpawner(t);
    const tiers = await tiersOf('process', bench);
    const files = { withFile: () => Promise.reject(new NodeFault('no files here')) };
    const executor = new ProcessExecutor({
      ...{ ...bench, tiers, spawner, files, clock: systemClock, log: silentLogger, nodeName: () => 'node-1' },
    });
    const shell = (script: string) =>
      makeBody({ $case: 'process', value: { argv: ['sh', '-c', script], environment: {} } });
    const first = spawner.pid as number;
    // One in its group, one that left it: the kernel ends the main process, the cookie leads to the others.
    const run = observe(executor, [
      makeAttempt(shell("sleep 1000 & echo $$ $!; setsid sh -c 'echo $$; exec sleep 1000' & sleep 1; echo up; wait")),
    ]);
    await run.whenPrinted(0, 'up');
    process.kill(first, 'SIGKILL');
    t.match(await run.end(), { outcome: 'node-fault', error: /what had started the process has ended \(SIGKILL\)/ });
    const pids = [...run.text(0).matchAll(/\d+/g)].map((match) => Number(match[0]));
    t.equal(pids.length, 3);
    for (const pid of pids) await untilDead(pid);
    t.match(await observe(executor, [makeAttempt(shell('exit 4'))]).end(), { outcome: 'failed', exitCode: 4 });
    t.not(spawner.pid, first);
  },
);

test('when the agent is killed the spawner and what it started die with it', spawned, async (t) => {
  const script = `
    import { Spawner } from './spawner.js';
    import { findSpawner } from './program.js';
    import { silentLogger } from '../../../common/log.js';
    const spawner = new Spawner(findSpawner(), silentLogger);
    await spawner.start();
    const plan = { argv: ['sh', '-c', 'echo $$; exec sleep 1000'], environment: { PATH: '${PATH}' }, directory: '/', user: undefined };
    const bounds = { memoryBytes: 0, processes: 0, openFiles: 0, fileSizeBytes: 0, cpuTimeMs: 0 };
    spawner.starter({ ...plan, bounds }).onOutput((_, data) => console.log(spawner.pid, String(data)));
  `;
  const here = dirname(fileURLToPath(import.meta.url));
  const file = join(here, `killed-${process.pid}.tmp.mts`);
  writeFileSync(file, script);
  t.teardown(() => rmSync(file, { force: true }));
  const agent = spawn(process.execPath, ['--import=tsx', file], { stdio: ['ignore', 'pipe', 'inherit'] });
  const said = await new Promise<string>((resolve) =>
    agent.stdout.once('data', (data: Buffer) => resolve(String(data))),
  );
  const pids = [...said.matchAll(/\d+/g)].map((match) => Number(match[0]));
  t.equal(pids.length, 2);
  for (const pid of pids) t.ok(alive(pid));
  agent.kill('SIGKILL');
  for (const pid of pids) await untilDead(pid);
});

test('without a program, or with one that does not run, the agent starts processes itself', async (t) => {
  const none = new Spawner(undefined, silentLogger);
  await none.start();
  t.notOk(none.available);
  const broken = new Spawner('/nonexistent/spawner', silentLogger);
  await broken.start();
  const refusing = new Spawner('/bin/false', silentLogger);
  await refusing.start();
  for (const spawner of [none, broken]) {
    const child = spawner.starter(plan(['sh', '-c', 'exit 5']));
    t.ok(child instanceof ChildHere);
    t.match(await outcome(child), { exitCode: 5 });
    await spawner.stop();
  }
  for (let turn = 0; refusing.available; turn++) {
    const child = refusing.starter(plan(['true']));
    if (child instanceof SpawnedChild) await t.rejects(child.exited, NodeFault);
  }
  t.ok(refusing.starter(plan(['true'])) instanceof ChildHere);
  t.equal(findSpawner('/nonexistent'), undefined);
  t.notOk(existsSync('/nonexistent'));
});

test('frames are put together from any pieces', (t) => {
  const frame = (type: number, id: number, body: number[]) => {
    const bytes = Buffer.alloc(9 + body.length);
    new Uint32Array(bytes.buffer, bytes.byteOffset, 1)[0] = 5 + body.length;
    bytes[4] = type;
    bytes.set(new Uint8Array(new Uint32Array([id]).buffer), 5);
    bytes.set(body, 9);
    return bytes;
  };
  const all = Buffer.concat([frame(2, 7, [0, 104, 105]), frame(9, 8, []), frame(4, 7, [])]);
  for (let size = 1; size <= all.length; size++) {
    const reader = new FrameReader();
    const seen: string[] = [];
    for (let at = 0; at < all.length; at += size)
      reader.read(all.subarray(at, at + size), (report) =>
        seen.push(
          report.kind === 'data'
            ? `${report.id} ${report.stream} ${report.data.toString()}`
            : `${report.kind} ${report.id}`,
        ),
      );
    t.same(seen, ['7 0 hi', 'closed 7'], `pieces of ${size}`);
  }
  t.end();
});
