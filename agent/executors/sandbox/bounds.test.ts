/** What a task may use, in both tiers, and what is said when it used more. */
import { test } from 'tap';
import { systemClock } from '../../../common/clock.js';
import { silentLogger } from '../../../common/log.js';
import type { JobBody } from '../../../proto/gen/mesh/v1/agent.js';
import type { Limits, Resources } from '../../../proto/gen/mesh/v1/common.js';
import { makeAttempt, makeBench, makeBody, observe } from '../../../test/support/executor-bench.js';
import { tiersOf } from '../../../test/support/tiers.js';
import { NodeFault } from '../../core/types.js';
import { ProcessExecutor } from '../process.js';
import { boundsOf, UNBOUNDED } from './bounds.js';

const MIB = 2 ** 20;
const asks = (more: Partial<Limits>): Limits => ({
  processes: 0,
  fileSizeBytes: 0,
  openFiles: 0,
  cpuTimeMs: 0,
  ...more,
});
const memory = (memoryBytes: number): Resources => ({ cpuMillis: 0, memoryBytes, gpus: 0, custom: {} });

test('the stricter of what a job asks and what the node allows', async (t) => {
  const node = { ...UNBOUNDED, processes: 100, memoryBytes: 5 };
  t.same(boundsOf(undefined, undefined, node), node);
  t.match(boundsOf(memory(3), asks({ processes: 50, openFiles: 7 }), node), {
    memoryBytes: 3,
    processes: 50,
    openFiles: 7,
  });
  t.match(boundsOf(memory(9), asks({ processes: 500 }), node), { memoryBytes: 5, processes: 100, openFiles: 0 });
});

for (const tier of ['process', 'bubblewrap'] as const) {
  const setup = async (t: Parameters<typeof makeBench>[0], bounds = UNBOUNDED) => {
    const bench = await makeBench(t);
    const files = { withFile: () => Promise.reject(new NodeFault('no files here')) };
    const tiers = await tiersOf(tier, bench, { bounds });
    const executor = new ProcessExecutor({
      ...{ ...bench, tiers, files, clock: systemClock, log: silentLogger, nodeName: () => 'node-1' },
    });
    return (argv: string[], more: Partial<JobBody>, environment: Record<string, string> = {}) =>
      observe(executor, [makeAttempt(makeBody({ $case: 'process', value: { argv, environment } }, more))]);
  };
  const shell = (script: string) => ['sh', '-c', script];

  test(`${tier}: memory of the tree, as what it shares counts once`, async (t) => {
    const start = await setup(t);
    const hold = 'const b = Buffer.alloc(150 << 20, 1); setInterval(() => b.length, 1000)';
    const end = await start([process.execPath, '-e', hold], { resources: memory(128 * MIB) }).end();
    t.match(end, {
      outcome: 'failed',
      error: /^killed: its processes used \d+ MiB, more than the 128 MiB allowed \(--memory\)$/,
    });
  });

  test(`${tier}: processes and threads`, async (t) => {
    const start = await setup(t);
    const script = 'i=0; while [ $i -lt 60 ]; do sleep 1000 & i=$((i+1)); done; wait';
    const end = await start(shell(script), { limits: asks({ processes: 20 }) }).end();
    t.equal(end.outcome, 'failed');
    if (tier === 'process') t.match(end.error, /^killed: it had \d+ processes and threads, more than the 20 allowed/);
    else t.match(end.error, /exited with code|of the 20 processes/, 'it is refused more by the system');
  });

  test(`${tier}: the size of a file, CPU time, open files`, async (t) => {
    const start = await setup(t);
    const big = await start(shell('exec head -c 3000000 /dev/zero > file'), {
      limits: asks({ fileSizeBytes: MIB }),
    }).end();
    t.match(big, {
      outcome: 'failed',
      signal: 'SIGXFSZ',
      error: 'killed by SIGXFSZ: a file grew beyond the 1 MiB allowed (--max-file-size)',
    });
    const busy = await start(shell('while :; do :; done'), { limits: asks({ cpuTimeMs: 1000 }) }).end();
    t.match(busy, {
      outcome: 'failed',
      signal: 'SIGXCPU',
      error: 'killed by SIGXCPU: a process used the 1 s of CPU time allowed (--cpu-time)',
    });
    const files = start(shell('ulimit -n; ulimit -c'), { limits: asks({ openFiles: 33 }) });
    t.equal((await files.end()).outcome, 'succeeded');
    t.equal(files.text(0), '33\n0\n');
  });

  test(`${tier}: what a job has loaded into its programs is not loaded into what limits them`, async (t) => {
    const start = await setup(t);
    const odd = { LD_BIND_NOW: '$(x)"', PS4: '$(id)' };
    const limits = asks({ openFiles: 33 });
    const given = start(shell('ulimit -n; env | grep -E "^(LD_|PS4|MESH_ASIDE)" | sort'), { limits }, odd);
    t.equal((await given.end()).outcome, 'succeeded');
    t.equal(given.text(0), '33\nLD_BIND_NOW=$(x)"\nPS4=$(id)\n', 'the command has what the job gave it');
    // The loader says which programs it begins: one with a library of the job's in it could leave the limits out.
    const loaded = start(['true'], { limits }, { LD_DEBUG: 'files' });
    t.equal((await loaded.end()).outcome, 'succeeded');
    t.same(loaded.text(0).match(/(?<=initialize program: )\S+/g), ['true']);
  });

  test(`${tier}: what cannot be executed is named the same with limits`, async (t) => {
    const start = await setup(t, { ...UNBOUNDED, openFiles: 100 });
    const missing = start(['no-such-command', 'x'], {});
    t.match(await missing.end(), { outcome: 'failed', exitCode: 127, error: /^command not found: no-such-command/ });
    t.equal(missing.text(0), '', 'the launcher does not speak to the job');
    t.match(await start(['/etc'], {}).end(), { exitCode: 126, error: /^not allowed to execute/ });
    const own = start(shell('echo "mesh-: not found" >&2; echo "bwrap: mine" >&2; exit 127'), {});
    t.match(await own.end(), { exitCode: 127, error: 'exited with code 127' });
    t.equal(own.text(0), 'mesh-: not found\nbwrap: mine\n');
    const many = start(['true', ...Array.from({ length: 9000 }, () => 'x')], {});
    if (tier === 'bubblewrap') t.match(await many.end(), { outcome: 'failed', error: /more than bubblewrap takes/ });
    else t.equal((await many.end()).outcome, 'succeeded');
    const alike = start(shell('echo "bwrap: mine" >&2'), {});
    t.equal((await alike.end()).outcome, 'succeeded');
    t.equal(alike.text(0), 'bwrap: mine\n', 'what looks like a launcher but is not is passed on');
  });
}
