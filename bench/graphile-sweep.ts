/** Which settings make graphile-worker fastest here: the best of them is the one `throughput` is measured against. */
import { join } from 'node:path';
import type { Bench, BenchOptions } from './bench.js';
import { createDatabase, describeServer } from './database.js';
import { GRAPHILE_BEST, type GraphileSettings, makeGraphileSide } from './graphile-side.js';
import { startBenchMesh } from './mesh-side.js';
import { installedVersion, type Result } from './report.js';
import { contend } from './throughput.js';
import { takeTurns } from './turns.js';

/** Each differs from the best in what its name says. */
const TRIED: Record<string, Partial<GraphileSettings>> = {
  'the best': {},
  'localQueue 500': { localQueue: 500 },
  'localQueue 1000': { localQueue: 1000 },
  'localQueue 2000': { localQueue: 2000 },
  'localQueue 8000': { localQueue: 8000 },
  'concurrentJobs 24': { concurrentJobs: 24 },
  'concurrentJobs 96': { concurrentJobs: 96 },
  'completeJobBatchDelay 5 ms': { completeDelayMs: 5 },
  'completeJobBatchDelay 100 ms': { completeDelayMs: 100 },
  'insertion, 1000 at a time': { insertBatch: 1000 },
  'insertion, 20000 at a time': { insertBatch: 20_000 },
  'insertion with addJobs': { insertion: 'addJobs' },
};

async function run(options: BenchOptions): Promise<Result> {
  const tasks = options.tasks ?? (options.smoke ? 500 : 60_000);
  const mesh = await startBenchMesh({ dataDir: join(options.workDir, 'mesh'), agents: 0 });
  try {
    const database = await createDatabase(mesh.database, 'graphile');
    const sides = [];
    for (const [name, change] of Object.entries(TRIED))
      sides.push(await makeGraphileSide(name, { ...GRAPHILE_BEST, ...change }, database));
    try {
      const rows = await takeTurns(
        sides.map((side) => contend(side, tasks, database)),
        options,
      );
      const { server_version = '', ...server } = await describeServer(mesh.database);
      const [best] = sides;
      return {
        name: 'graphile-sweep',
        title: 'graphile-worker with other settings, insertion to last commit',
        rows,
        base: 'the best',
        versions: { PostgreSQL: server_version, 'graphile-worker': installedVersion('graphile-worker') },
        config: { 'the best': best?.config ?? {}, PostgreSQL: server },
        notes: [],
      };
    } finally {
      for (const side of sides) await side.stop();
    }
  } finally {
    await mesh.stop();
  }
}

export const graphileSweep: Bench = {
  name: 'graphile-sweep',
  about: 'the settings that make graphile-worker fastest',
  byNameOnly: true,
  run,
};
