import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'tap';
import { silentLogger } from '../../../common/log.js';
import { packageRoot } from '../../../common/package.js';
import type { JobBody } from '../../../proto/gen/mesh/v1/agent.js';
import type { TaskInput } from '../../../proto/gen/mesh/v1/common.js';
import { JobSecrets } from '../../core/secrets.js';
import { NodeFault } from '../../core/types.js';
import { makeAttempt, makeBench, makeBody, observe } from '../../../test/support/executor-bench.js';
import type { TierName } from '../sandbox/tier.js';
import { FunctionExecutor } from './function.js';
import { tiersOf } from '../../../test/support/tiers.js';

const built = mkdtempSync(join(tmpdir(), 'runner built-'));
process.on('exit', () => rmSync(built, { recursive: true, force: true }));

/** Compiles the runner: what runs in it is never loaded from its source. */
function compile(): string {
  const here = join(packageRoot, 'agent/executors/function');
  const project = join(built, 'tsconfig.json');
  const options = { outDir: join(built, 'out'), rootDir: here, typeRoots: [join(packageRoot, 'node_modules/@types')] };
  writeFileSync(
    project,
    JSON.stringify({
      extends: join(packageRoot, 'tsconfig.json'),
      compilerOptions: options,
      include: [],
      files: ['runner.ts', 'worker.ts'].map((file) => join(here, file)),
    }),
  );
  // Without what the test runner adds to every Node process.
  const compiler = join(packageRoot, 'node_modules/typescript/bin/tsc');
  execFileSync('env', ['-u', 'NODE_OPTIONS', process.execPath, compiler, '-p', project], { stdio: 'inherit' });
  return join(built, 'out');
}

const modules = new Map<string, string>();
const modulePath = join(built, 'modules');
mkdirSync(modulePath);

function addModule(source: string): string {
  const digest = createHash('sha256').update(source).digest('hex');
  const path = join(modulePath, digest);
  if (!existsSync(path)) writeFileSync(path, source, { mode: 0o600 });
  modules.set(digest, path);
  return digest;
}

const runtimeFrom = compile();

async function setupIn(tier: TierName, t: Parameters<typeof makeBench>[0], slots = 2) {
  const bench = await makeBench(t);
  const executor = new FunctionExecutor({
    ...{ ...bench, tiers: await tiersOf(tier, bench) },
    files: {
      withFile: (digest, use) => {
        const path = modules.get(digest);
        return path ? use(path) : Promise.reject(new NodeFault(`there is no file ${digest}`));
      },
    },
    log: silentLogger,
    nodeName: () => 'node-1',
    slots,
    runtimeFrom,
  });
  await executor.prepare();
  t.teardown(() => executor.close());
  return { ...bench, executor };
}

const functionBody = (source: string, more: Partial<JobBody> = {}, exportName = '', environment = {}) =>
  makeBody({ $case: 'function', value: { moduleDigest: addModule(source), exportName, environment } }, more);

const value = (json: unknown): TaskInput => ({ value: JSON.stringify(json), files: [] });
const attempts = (body: JobBody, values: unknown[]) =>
  values.map((json, index) => makeAttempt(body, index, { input: value(json) }));

for (const tier of ['process', 'bubblewrap'] as const) suite(tier);

function suite(tier: TierName): void {
  const setup = (t: Parameters<typeof makeBench>[0], slots = 2) => setupIn(tier, t, slots);
  const isolated = tier === 'bubblewrap';

  test(`${tier}: functions of a job with secrets share their process with no other job`, async (t) => {
    const { executor } = await setup(t);
    const body = () =>
      functionBody(`import { readlinkSync as read } from 'node:fs';
        export default () => [process.env.S0 ?? '', process.pid + read('/proc/self/ns/pid')];`);
    const where = async (value?: string) => {
      const use = { name: 'S', variable: 'S0', file: false, owner: '' };
      const given = value === undefined ? {} : { secrets: new JobSecrets([use], [Buffer.from(value)]) };
      return JSON.parse((await observe(executor, [makeAttempt(body())], given).end()).resultJson ?? '[]') as string[];
    };
    const [plain, one, two, again] = [await where(), await where('one'), await where('two'), await where()];
    t.same([plain[0], one[0], two[0], again[0]], ['', 'one', 'two', '']);
    t.same([new Set([plain[1], one[1], two[1]]).size, again[1]], [3, plain[1]], 'three processes');
  });

  test(`${tier}: a function gets its value and its context, and returns JSON`, async (t) => {
    const { executor } = await setup(t);
    const body = functionBody('export default async (value, context) => ({ value, ...context })', {
      jobId: 'the-job',
      taskCount: 4,
      array: { start: 100, step: 10 },
    });
    const run = observe(executor, [
      makeAttempt(body, 3, { input: value({ a: [1, 'ü'] }), attempt: 2, generation: 5 }),
      makeAttempt(body, 2),
    ]);
    const end = await run.end(0);
    t.match(end, { outcome: 'succeeded', error: undefined, exitCode: undefined });
    t.same(JSON.parse(end.resultJson ?? ''), {
      value: { a: [1, 'ü'] },
      jobId: 'the-job',
      index: 3,
      arrayIndex: 130,
      attempt: 2,
      generation: 5,
      node: 'node-1',
      taskCount: 4,
    });
    t.match(
      JSON.parse(run.ends.get(1)?.resultJson ?? ''),
      { value: 120, index: 2 },
      'without an item: the array index',
    );
  });

  test(`${tier}: every way a function can fail is the failure of its own attempt`, async (t) => {
    const { executor } = await setup(t);
    const body = functionBody(`
    export const mixed = (what) => {
      if (what === 'throw') throw new TypeError('that was wrong');
      if (what === 'text') throw 'just text';
      if (what === 'reject') return Promise.reject(new Error('later'));
      if (what === 'big') return 'x'.repeat(65536);
      if (what === 'fits') return 'x'.repeat(65534);
      if (what === 'bigint') return 1n;
      if (what === 'circular') { const a = {}; a.a = a; return a; }
      if (what === 'function') return () => 1;
      if (what === 'nothing') return;
      return what;
    };`);
    const kinds = ['throw', 'text', 'reject', 'big', 'fits', 'bigint', 'circular', 'function', 'nothing', 'fine'];
    const run = observe(executor, attempts(body, kinds));
    await run.running.done;
    const end = (kind: string) => run.ends.get(kinds.indexOf(kind));
    t.match(end('throw'), {
      outcome: 'failed',
      resultJson: undefined,
      error: /^TypeError: that was wrong\n\s+at mixed/,
    });
    t.notMatch(end('throw')?.error, /planetary-mesh|worker\.js/);
    t.match(end('text'), { outcome: 'failed', error: 'threw just text' });
    t.match(end('reject'), { outcome: 'failed', error: /^Error: later/ });
    t.match(end('big'), { outcome: 'failed', error: /65538 bytes of JSON; at most 65536/ });
    t.match(end('fits'), { outcome: 'succeeded' });
    t.match(end('bigint'), { outcome: 'failed', error: /cannot be written as JSON.*BigInt/ });
    t.match(end('circular'), { outcome: 'failed', error: /cannot be written as JSON/ });
    t.match(end('function'), { outcome: 'failed', error: /it is a function/ });
    t.match(end('nothing'), { outcome: 'succeeded', resultJson: 'null' });
    t.match(end('fine'), { outcome: 'succeeded', resultJson: '"fine"' });
  });

  test(`${tier}: a module that cannot be loaded fails its attempts with the reason`, async (t) => {
    const { executor } = await setup(t);
    const failing = async (source: string, exportName = '') =>
      (await observe(executor, [makeAttempt(functionBody(source, {}, exportName))]).end()).error;
    t.match(await failing('export default ('), /SyntaxError/);
    t.match(await failing('throw new Error("at load")'), /at load/);
    t.match(await failing('export const a = () => 1, b = () => 2'), /no function called default; it exports a, b/);
    t.match(await failing('export const a = 1', 'a'), /no function called a/);
    t.match(await failing("import 'no-such-package'"), /no-such-package/);
    const body = makeBody({
      $case: 'function',
      value: { moduleDigest: 'f'.repeat(64), exportName: '', environment: {} },
    });
    t.match(await observe(executor, [makeAttempt(body)]).end(), { outcome: 'node-fault', error: /there is no file/ });
  });

  test(`${tier}: an endless loop is ended by its timeout; the others of its launch are not`, async (t) => {
    const { executor } = await setup(t);
    const body = functionBody('export default (value) => { if (value === "loop") for (;;); return value; }', {
      timeoutMs: 1500,
    });
    const run = observe(executor, attempts(body, [1, 'loop', 2, 3]));
    await run.running.done;
    t.match(run.ends.get(1), { outcome: 'timed-out', error: 'timed out after 1.5 s' });
    t.ok((run.ends.get(1)?.runUs ?? 0) >= 1_500_000);
    t.equal(run.ends.get(0)?.resultJson, '1');
    t.same(run.returned, [2, 3], 'those behind it are given back to other slots');
    t.ok(run.started.has(1));
    const next = observe(executor, attempts(body, [2, 3]));
    t.equal((await next.end(1)).resultJson, '3', 'the next ones find a worker');
  });

  test(`${tier}: what waits for something is timed out too`, async (t) => {
    const { executor } = await setup(t);
    const body = functionBody('export default () => new Promise(() => {})', { timeoutMs: 200 });
    const run = observe(executor, [makeAttempt(body)]);
    t.match(await run.end(), { outcome: 'timed-out' });
  });

  test(`${tier}: stop ends what runs and what has not begun`, async (t) => {
    const { executor } = await setup(t);
    const body = functionBody('export default (value) => value === "wait" ? new Promise(() => {}) : value');
    const run = observe(executor, attempts(body, ['first', 'wait']));
    await run.whenStarted(1);
    run.running.stop(1, 'shutdown');
    run.running.stop(0, 'cancelled');
    await run.running.done;
    t.match(run.ends.get(1), { outcome: 'shutdown', error: 'the agent was stopped' });
    t.match(run.ends.get(0), { outcome: 'succeeded' });
    const before = observe(executor, attempts(body, ['wait', 'wait', 'second']));
    before.running.stop(0, 'cancelled');
    before.running.stop(1, 'cancelled');
    await before.running.done;
    t.match([before.ends.get(0), before.ends.get(1)], [{ outcome: 'cancelled' }, { outcome: 'cancelled' }]);
    t.equal(before.ends.get(2)?.resultJson, '"second"');
  });

  test(`${tier}: a worker that exits or runs out of memory takes one attempt with it`, async (t) => {
    const { executor } = await setup(t);
    const body = functionBody(
      `export default async (value) => {
      if (value === 'exit') process.exit(7);
      if (value === 'late') { setTimeout(() => { throw new Error('from a timer'); }); await new Promise(() => {}); }
      if (value === 'memory') { const all = []; for (;;) all.push(new Array(10000).fill(all.length)); }
      return value;
    }`,
      { resources: { cpuMillis: 0, memoryBytes: 64 << 20, gpus: 0, custom: {} } },
    );
    const run = observe(executor, attempts(body, ['a', 'exit', 'b', 'late']));
    await run.running.done;
    t.match(run.ends.get(1), { outcome: 'failed', error: 'ended its worker: process.exit(7)' });
    t.match(run.ends.get(3), { outcome: 'failed', error: /crashed its worker: Error: from a timer/ });
    t.match([run.ends.get(0), run.ends.get(2)], [{ resultJson: '"a"' }, { resultJson: '"b"' }]);
    const memory = observe(executor, attempts(body, ['memory']));
    t.match(await memory.end(), { outcome: 'failed', error: /ran out of memory/ });
  });

  test(`${tier}: a runner that is killed is replaced; only who killed it fails`, async (t) => {
    const { executor } = await setup(t);
    const source = `export default (value) => {
      if (value === 'kill') process.kill(process.pid, 'SIGKILL');
      return value === 'long' ? new Promise((resolve) => setTimeout(resolve, 300, 'long')) : value;
    }`;
    const long = observe(executor, attempts(functionBody(source), ['long']));
    await long.whenStarted(0);
    const run = observe(executor, attempts(functionBody(source), ['a', 'kill', 'b']));
    await run.running.done;
    t.match(run.ends.get(1), { outcome: 'failed', error: 'the function ended its runner process: killed by SIGKILL' });
    t.match([run.ends.get(0), run.ends.get(2)], [{ resultJson: '"a"' }, { resultJson: '"b"' }]);
    t.equal((await long.end()).resultJson, '"long"');
    const single = observe(executor, attempts(functionBody(source), ['kill']));
    t.match(await single.end(), { outcome: 'failed', error: /killed by SIGKILL/ });
    t.equal((await observe(executor, attempts(functionBody(source), ['c'])).end()).resultJson, '"c"');
  });

  test(`${tier}: what a function prints is its output, while it still runs`, async (t) => {
    const { executor } = await setup(t);
    const body = functionBody(`export default async (value) => {
      console.log('hello', value); console.error('oops'); process.stdout.write(Buffer.from('bytes\\n'));
      if (value === 'wait') await new Promise(() => {});
    }`);
    const run = observe(executor, attempts(body, ['x', 'wait']));
    await run.whenPrinted(1, 'bytes');
    t.equal(run.text(0), 'hello x\noops\nbytes\n');
    t.same(
      run.chunks(0).map((chunk) => chunk.stream),
      [1, 2, 1],
    );
    run.running.stop(1, 'cancelled');
    await run.running.done;
    const flood = observe(executor, [
      makeAttempt(
        functionBody('export default () => { for (let i = 0; i < 3000; i++) console.log("x".repeat(1000)); }'),
      ),
    ]);
    t.equal((await flood.end()).outcome, 'succeeded');
    t.match(flood.text(0), /the rest left out/);
  });

  test(`${tier}: a function sees a clean environment, another user, and its files`, async (t) => {
    const umask = process.umask(0o077);
    t.teardown(() => process.umask(umask));
    const { executor, user, workRoot, janitor } = await setup(t);
    process.env.AGENT_CANARY = 'canary';
    t.teardown(() => delete process.env.AGENT_CANARY);
    const body = functionBody(
      `import { readFileSync, writeFileSync, statSync } from 'node:fs';
    import { execFileSync } from 'node:child_process';
    export default (value, context) => {
      writeFileSync(context.directory + '/made', 'x');
      let agent; try { agent = readFileSync('/proc/' + process.ppid + '/environ', 'utf8'); } catch (e) { agent = e.code; }
      return {
        env: { ...process.env }, uid: process.getuid(), groups: process.getgroups(), agent,
        inherited: execFileSync('sh', ['-c', 'echo $MESH_INDEX'], { encoding: 'utf8' }).trim(),
        child: execFileSync('id', ['-u'], { encoding: 'utf8' }).trim(),
        mode: statSync(context.directory).mode & 0o777, directory: context.directory,
        file: value === 'files' ? readFileSync(context.directory + '/in/a.txt', 'utf8') : undefined,
      };
    }`,
      {},
      '',
      { GIVEN: 'yes' },
    );
    const digest = addModule('the content');
    const files = [{ path: 'in/a.txt', digest, sizeBytes: 11, executable: false }];
    const run = observe(executor, [
      makeAttempt(body, 0, { input: { value: '"files"', files } }),
      makeAttempt(body, 1, { input: value('none') }),
    ]);
    await run.running.done;
    t.equal(run.ends.get(0)?.error, undefined);
    const [first, second] = [0, 1].map((position) => JSON.parse(run.ends.get(position)?.resultJson ?? 'null'));
    t.equal(first.file, 'the content');
    t.equal(first.env.GIVEN, 'yes');
    t.notOk('AGENT_CANARY' in first.env);
    t.equal(first.env.HOME, isolated ? join(workRoot.path, 'room-1/scratch') : workRoot.scratch);
    t.match(first.env, { MESH_JOB_ID: body.jobId, MESH_TASK_INDEX: '0', MESH_NODE: 'node-1', MESH_GENERATION: '1' });
    t.equal(second.env.MESH_TASK_INDEX, '1');
    t.equal(second.inherited, '1');
    for (const seen of [first, second]) t.equal(seen.mode, 0o700);
    const uid = user?.uid ?? process.getuid?.();
    t.equal(first.uid, uid);
    t.equal(Number(first.child), uid);
    if (user) {
      t.same(first.groups, [user.gid]);
      if (isolated) t.notMatch(first.agent, 'canary');
      else t.equal(first.agent, 'EACCES');
    }
    await janitor.idle();
    t.same(readdirSync(first.env.HOME), []);
    t.notOk(existsSync(first.directory));
  });

  test(`${tier}: a cpu-bound attempt does not hold back the others of its launch`, async (t) => {
    const { executor } = await setup(t);
    const body = functionBody(
      'export default (value) => { if (value !== "busy") return value; const end = Date.now() + 1000; while (Date.now() < end); return "done"; }',
    );
    const run = observe(executor, attempts(body, ['busy', 1, 2]));
    await run.running.done;
    t.same(run.returned, [1, 2]);
    t.equal(run.ends.get(0)?.resultJson, '"done"');
    t.same([...run.ends.keys()], [0]);
  });

  test(`${tier}: batches grow to what a few milliseconds hold`, async (t) => {
    const { executor } = await setup(t);
    const quick = functionBody('export default (value) => value + 1');
    t.equal(executor.launchMax(quick), 1);
    await observe(executor, attempts(quick, [1])).running.done;
    for (let round = 0; round < 8; round++)
      await observe(
        executor,
        attempts(
          quick,
          Array.from({ length: executor.launchMax(quick) }, (_, i) => i),
        ),
      ).running.done;
    t.ok(executor.launchMax(quick) > 1, String(executor.launchMax(quick)));
    const many = observe(
      executor,
      attempts(
        quick,
        Array.from({ length: 1000 }, (_, i) => i),
      ),
    );
    await many.running.done;
    t.same(
      [...many.ends.values()].map((end) => end.resultJson),
      Array.from({ length: 1000 }, (_, i) => String(i + 1)),
    );
    const slow = functionBody('export default () => new Promise((resolve) => setTimeout(resolve, 20))');
    await observe(executor, attempts(slow, [1])).running.done;
    t.equal(executor.launchMax(slow), 1);
  });

  test(`${tier}: stopping the executor ends what runs as a shutdown`, async (t) => {
    const { executor } = await setup(t);
    const run = observe(executor, attempts(functionBody('export default () => new Promise(() => {})'), [1]));
    await run.whenStarted(0);
    await executor.close();
    t.match(await run.end(), { outcome: 'shutdown' });
  });
}
