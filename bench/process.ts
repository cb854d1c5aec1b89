/**
 * Commands a second, their output captured: `/bin/true` through a whole mesh (submission, mutual TLS, every result a
 * durable commit, each with its own directory, user, process group, limits and log) next to `xargs -P` and GNU parallel, which
 * only run it. All are given the same numbers, one to a command, and their output goes to a pipe that is read.
 */
import { spawn, spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { systemClock } from '../common/clock.js';
import { Sandbox } from '../proto/gen/mesh/v1/common.js';
import type { Bench, BenchOptions } from './bench.js';
import { type BenchMesh, startBenchMesh } from './mesh-side.js';
import type { Result } from './report.js';
import { type Contender, takeTurns } from './turns.js';

const TASKS = 5000;
/** Of the slower ones; a rate does not depend on the number. */
const FEWER = 1000;
const COMMAND = '/bin/true';
const SLOTS = 4;
const PARALLELISMS = [1, 2, 3, 4];

/** Runs a program, gives it the numbers from 1 and reads what it prints; resolves to commands a second. */
async function feed(program: string, args: readonly string[], tasks: number): Promise<number> {
  const numbers = Array.from({ length: tasks }, (_, i) => `${i + 1}\n`).join('');
  const fromMs = systemClock.monotonicMs();
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'] });
  child.stdout.resume();
  child.stderr.resume();
  child.stdin.on('error', () => undefined);
  child.stdin.end(numbers);
  const [code, signal] = await new Promise<[number | null, string | null]>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (...how) => resolve(how));
  });
  if (code !== 0) throw new Error(`${program} ended with ${signal ?? `exit code ${code}`}`);
  return (tasks * 1000) / (systemClock.monotonicMs() - fromMs);
}

const xargs = (parallelism: number, tasks: number): Promise<number> =>
  feed('xargs', ['-P', String(parallelism), '-n', '1', COMMAND], tasks);

/** Which `-P` is best here, tried once each. */
async function bestParallelism(tasks: number, say: BenchOptions['say']): Promise<number> {
  let best = { parallelism: 1, rate: 0 };
  for (const parallelism of PARALLELISMS) {
    const rate = await xargs(parallelism, tasks);
    if (rate > best.rate) best = { parallelism, rate };
  }
  say(`xargs is fastest with -P ${best.parallelism}`);
  return best.parallelism;
}

/** The first line that a program says of its version; undefined when it is not installed. */
function versionOf(program: string): string | undefined {
  const { status, stdout } = spawnSync(program, ['--version'], { encoding: 'utf8' });
  return status === 0 ? /\d[\w.]*/.exec(stdout)?.[0] : undefined;
}

interface Sampled {
  tasks: number;
  sampled: number;
}

function meshContender(mesh: BenchMesh, what: string, sandbox: Sandbox, tasks: number, seen: Sampled): Contender {
  const once = async (count: number): Promise<number> => {
    const fromMs = systemClock.monotonicMs();
    const work = { $case: 'process' as const, value: { argv: [COMMAND, '{index}'], environment: {} } };
    const { id } = await mesh.submit({ name: 'true', taskCount: count, array: { start: 1, step: 1 }, sandbox, work });
    const job = await mesh.wait(id);
    const elapsedMs = systemClock.monotonicMs() - fromMs;
    if (job.status !== 'COMPLETED' || job.tasks?.completed !== count)
      throw new Error(`the job is ${job.status} with ${job.tasks?.completed} of ${count} completed: ${job.error}`);
    const { items } = await mesh.connection.mesh.listTasks({ job: id, status: '', limit: 1000, cursor: '' });
    seen.tasks += items.length;
    seen.sampled += items.filter((task) => task.peakMemoryBytes !== undefined).length;
    return (count * 1000) / elapsedMs;
  };
  return {
    row: { what, unit: 'commands/s', tasks },
    warmUp: () => once(Math.ceil(tasks / 5)),
    once: () => once(tasks),
  };
}

async function run(options: BenchOptions): Promise<Result> {
  const { smoke, workDir, say } = options;
  const tasks = options.tasks ?? (smoke ? 100 : TASKS);
  const fewer = Math.min(tasks, FEWER);
  const parallelVersion = versionOf('parallel');
  const hasSandbox = versionOf('bwrap') !== undefined;
  if (parallelVersion === undefined) say('GNU parallel is not installed: there is nothing to compare with in its row');
  if (!hasSandbox) say('bubblewrap is not installed: nothing runs sandboxed');
  const parallelism = await bestParallelism(fewer, say);
  const others: Contender[] = [
    {
      row: { what: `xargs -P ${parallelism}`, unit: 'commands/s', tasks },
      once: () => xargs(parallelism, tasks),
    },
  ];
  if (parallelVersion !== undefined) {
    // The citation notice is a question to people, not part of the work.
    const args = ['--will-cite', '-j', String(SLOTS), COMMAND];
    const row = { what: 'GNU parallel', unit: 'commands/s', tasks: fewer };
    others.push({ row, once: () => feed('parallel', args, fewer) });
  }
  const mesh = await startBenchMesh({
    ...{ dataDir: join(workDir, 'mesh'), agents: 1, slots: SLOTS },
    settings: { MESH_SANDBOX: hasSandbox ? 'optional' : 'process' },
  });
  try {
    const seen: Sampled = { tasks: 0, sampled: 0 };
    const plain = meshContender(mesh, 'planetary-mesh', Sandbox.PROCESS, tasks, seen);
    plain.row.aims = [
      { atLeast: 1.2, of: `xargs -P ${parallelism}` },
      ...(parallelVersion === undefined ? [] : [{ atLeast: 4, of: 'GNU parallel' }]),
    ];
    const boxed = meshContender(mesh, 'planetary-mesh, sandbox on', Sandbox.BUBBLEWRAP, fewer, seen);
    const rows = await takeTurns([...others, plain, ...(hasSandbox ? [boxed] : [])], options);
    return {
      name: 'process',
      title: `Commands a second (${COMMAND}), output captured`,
      rows,
      base: `xargs -P ${parallelism}`,
      versions: {
        xargs: versionOf('xargs') ?? 'unknown',
        ...(parallelVersion === undefined ? {} : { 'GNU parallel': parallelVersion }),
        ...(hasSandbox ? { bubblewrap: versionOf('bwrap') ?? '' } : {}),
      },
      config: {
        xargs: {
          '-P': `${parallelism}, the best of ${PARALLELISMS.join(', ')}`,
          '-n': '1',
          output: 'one pipe for all',
        },
        'GNU parallel': { '-j': String(SLOTS), output: 'grouped by command, its default' },
        'planetary-mesh': {
          coordinator: 'defaults',
          agents: '1',
          slots: String(SLOTS),
          submission: 'one job, array of N commands',
          'each command': 'own directory, user, process group, log; result committed before it counts',
        },
      },
      notes: [
        `Peak memory is sampled: ${seen.sampled} of ${seen.tasks} listed tasks lived long enough to be seen, the others have none.`,
        ...(parallelVersion === undefined ? ['GNU parallel was not installed.'] : []),
        ...(hasSandbox ? [] : ['bubblewrap was not installed.']),
      ],
    };
  } finally {
    await mesh.stop();
  }
}

export const processes: Bench = {
  name: 'process',
  about: 'commands a second with captured output, next to xargs -P and GNU parallel; sandbox off and on',
  run,
};
