/**
 * How long one task takes on an idle mesh, as its submitter sees it: from the call that submits it to the result in his
 * hands, over mutual TLS both ways, with every commit in between. Next to it graphile-worker in its default mode, which
 * is told of a new job by LISTEN/NOTIFY: from the call that adds a job to the call of its task, in one process.
 * Samples follow one another with a breath between them, so that each finds the mesh idle.
 */
import { join } from 'node:path';
import { makeWorkerUtils, run as runGraphile, runMigrations } from 'graphile-worker';
import { pause, systemClock } from '../common/clock.js';
import { Sandbox } from '../proto/gen/mesh/v1/common.js';
import type { SpecOptions } from '../sdk/submit.js';
import type { Bench, BenchOptions } from './bench.js';
import { createDatabase, type DatabaseAddress, describeServer, toConnectionString } from './database.js';
import { silent } from './graphile-side.js';
import { type BenchMesh, startBenchMesh } from './mesh-side.js';
import { installedVersion, type Result, type Row } from './report.js';
import type { Aim } from './aims.js';
import { percentile } from './statistics.js';

const SAMPLES = 500;
const WARM_UP = 100;
const BREATH_MS = 5;

interface Side {
  name: string;
  /** One sample; resolves to its milliseconds. */
  once: () => Promise<number>;
  aims: Partial<Record<50 | 99, Aim>>;
}

async function once(mesh: BenchMesh, run: Partial<SpecOptions>, withResults: boolean): Promise<number> {
  const fromMs = systemClock.monotonicMs();
  let seen = 0;
  const job = await mesh.run(
    { name: 'one', taskCount: 1, ...run },
    withResults ? { onResults: (results) => void (seen += results.length) } : {},
  );
  const elapsedMs = systemClock.monotonicMs() - fromMs;
  if (job.status !== 'COMPLETED' || (withResults && seen !== 1))
    throw new Error(`the job is ${job.status} with ${seen} results: ${job.error}`);
  return elapsedMs;
}

async function meshSides(mesh: BenchMesh): Promise<Side[]> {
  const work = await mesh.noop();
  const process = { $case: 'process' as const, value: { argv: ['/bin/true'], environment: {} } };
  return [
    {
      name: 'function task, result read',
      once: () => once(mesh, { work }, true),
      aims: { 50: { atMost: 3 }, 99: { atMost: 15 } },
    },
    {
      name: 'function task, job waited for',
      once: () => once(mesh, { work }, false),
      aims: { 50: { atMost: 3 }, 99: { atMost: 15 } },
    },
    {
      name: '/bin/true, sandbox off',
      once: () => once(mesh, { work: process, sandbox: Sandbox.PROCESS }, false),
      aims: { 50: { atMost: 10 } },
    },
    { name: "/bin/true, the node's strongest sandbox", once: () => once(mesh, { work: process }, false), aims: {} },
  ];
}

async function graphileSide(database: DatabaseAddress): Promise<{ side: Side; stop: () => Promise<void> }> {
  const connectionString = toConnectionString(database);
  await runMigrations({ connectionString, logger: silent });
  let ran: () => void = () => undefined;
  const runner = await runGraphile({
    connectionString,
    logger: silent,
    noHandleSignals: true,
    taskList: { noop: () => ran() },
  });
  const utils = await makeWorkerUtils({ connectionString, logger: silent });
  const once = async (): Promise<number> => {
    const fromMs = systemClock.monotonicMs();
    const running = new Promise<void>((resolve) => (ran = resolve));
    await utils.addJob('noop', {});
    await running;
    return systemClock.monotonicMs() - fromMs;
  };
  return {
    side: { name: 'graphile-worker, add → run', once, aims: {} },
    stop: async () => {
      await runner.stop();
      await utils.release();
    },
  };
}

async function sample({ once }: Side, count: number): Promise<number[]> {
  const values: number[] = [];
  for (let index = 0; index < count; index++) {
    values.push(await once());
    await pause(systemClock, BREATH_MS);
  }
  return values;
}

async function measure(sides: readonly Side[], options: BenchOptions): Promise<Row[]> {
  const samples = options.tasks ?? (options.smoke ? 20 : SAMPLES);
  const measured = sides.map((side) => ({
    side,
    rows: ([50, 99] as const).map((percent) => {
      const aim = side.aims[percent];
      const row: Row = { what: `${side.name}: p${percent}`, unit: 'ms', values: [], ...(aim ? { aims: [aim] } : {}) };
      return { percent, row };
    }),
  }));
  for (const side of sides) await sample(side, options.smoke ? 5 : WARM_UP);
  for (let run = 1; run <= options.runs; run++) {
    for (const { side, rows } of measured) {
      const values = await sample(side, samples);
      for (const { percent, row } of rows) row.values.push(percentile(values, percent));
      const said = rows.map(({ percent, row }) => `p${percent} ${row.values.at(-1)?.toFixed(2)} ms`);
      options.say(`run ${run} of ${options.runs}: ${side.name}: ${said.join(', ')}`);
    }
  }
  return measured.flatMap(({ rows }) => rows.map(({ row }) => row));
}

async function run(options: BenchOptions): Promise<Result> {
  const mesh = await startBenchMesh({
    dataDir: join(options.workDir, 'mesh'),
    agents: 1,
    settings: { MESH_SANDBOX: 'optional' },
  });
  try {
    const graphile = await graphileSide(await createDatabase(mesh.database, 'graphile'));
    try {
      const rows = await measure([...(await meshSides(mesh)), graphile.side], options);
      const { server_version = '', ...server } = await describeServer(mesh.database);
      return {
        name: 'latency',
        title: 'One task on an idle mesh, submission to result',
        rows,
        base: `${graphile.side.name}: p50`,
        versions: { PostgreSQL: server_version, 'graphile-worker': installedVersion('graphile-worker') },
        config: {
          'planetary-mesh': {
            settings: 'defaults, sandbox optional',
            client: 'one connection, mutual TLS 1.3',
            agents: '1',
          },
          'graphile-worker': { settings: 'defaults', process: 'adds and runs in the process of the bench' },
          'PostgreSQL, the same server for both': server,
        },
        notes: [
          `A run takes ${options.tasks ?? SAMPLES} samples of each; a row's values are the percentile of each run.`,
          'The time of graphile-worker ends when the task is called; ours when its result, committed, is with the client.',
        ],
      };
    } finally {
      await graphile.stop();
    }
  } finally {
    await mesh.stop();
  }
}

export const latency: Bench = {
  name: 'latency',
  about: 'one task on an idle mesh: submission to result, function and process',
  run,
};
