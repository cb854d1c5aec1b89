/**
 * Durable no-op tasks a second, from submission to the last commit: a real mesh (mutual TLS, processes of their own)
 * next to graphile-worker on the same PostgreSQL server. Runs alternate, so that what else the machine does hits both.
 * Before each run both databases are vacuumed and analysed, outside the measured time.
 */
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import type { Bench, BenchOptions } from './bench.js';
import { createDatabase, type DatabaseAddress, describeServer, settleDatabase } from './database.js';
import { makeBossSide } from './boss-side.js';
import {
  GRAPHILE_API,
  GRAPHILE_BEST,
  GRAPHILE_DEFAULT,
  type GraphileSettings,
  makeGraphileSide,
} from './graphile-side.js';
import { makeMeshSide, startBenchMesh } from './mesh-side.js';
import { installedVersion, type Result } from './report.js';
import type { Side } from './side.js';
import { type Contender, takeTurns } from './turns.js';

/** A side as a contender; each run finds its database vacuumed and analysed. */
export function contend(side: Side, tasks: number, database: DatabaseAddress): Contender & { side: Side } {
  const once = async (count: number): Promise<number> => {
    await settleDatabase(database);
    return (count * 1000) / (await side.run(count));
  };
  return {
    side,
    row: { what: side.name, unit: 'tasks/s', tasks },
    // Gives the planner statistics of tables that were not always empty, too.
    warmUp: () => once(Math.ceil(tasks / 5)),
    once: () => once(tasks),
  };
}

/** Their rates do not depend on the number of tasks; fewer keep the bench short. */
const SHARE = { 'pg-boss': 0.2, 'graphile-worker, addJobs': 0.5, 'graphile-worker, default': 0.1 };

async function run(options: BenchOptions): Promise<Result> {
  const { smoke, agents, workDir, say } = options;
  const tasks = options.tasks ?? (smoke ? 2000 : 200_000);
  const slots = availableParallelism();
  say(`starting a mesh with ${agents} agent${agents === 1 ? '' : 's'}`);
  const mesh = await startBenchMesh({ dataDir: join(workDir, 'mesh'), agents, slots });
  const sides: Side[] = [];
  try {
    const graphile = async (name: string, settings: GraphileSettings, count: number) => {
      const database = await createDatabase(mesh.database, `graphile_${sides.length}`);
      const side = await makeGraphileSide(name, settings, database);
      sides.push(side);
      return contend(side, count, database);
    };
    const best = await graphile('graphile-worker, batched', GRAPHILE_BEST, tasks);
    const api = await graphile(
      'graphile-worker, batched, by addJobs',
      GRAPHILE_API,
      Math.ceil(tasks * SHARE['graphile-worker, addJobs']),
    );
    const plain = await graphile(
      'graphile-worker, default',
      GRAPHILE_DEFAULT,
      Math.ceil(tasks * SHARE['graphile-worker, default']),
    );
    const bossDatabase = await createDatabase(mesh.database, 'boss');
    const boss = await makeBossSide(bossDatabase);
    sides.push(boss);
    const meshSide = makeMeshSide(mesh, {
      coordinator: 'defaults',
      agents: String(agents),
      'slots each': String(slots),
      submission: 'one job, array of N function tasks',
      process: 'coordinator, agents and client in processes of their own, mutual TLS 1.3',
    });
    const ours = contend(meshSide, tasks, mesh.database);
    ours.row.aims = [{ atLeast: 3, of: best.row.what }];
    const theirs = contend(boss, Math.ceil(tasks * SHARE['pg-boss']), bossDatabase);
    const rows = await takeTurns([ours, best, api, plain, theirs], options);
    const { server_version = '', ...server } = await describeServer(mesh.database);
    const config = Object.fromEntries([meshSide, ...sides].map((side) => [side.name, side.config]));
    return {
      name: 'throughput',
      title: 'Durable no-op tasks a second, submission to last commit',
      rows,
      base: best.row.what,
      versions: {
        PostgreSQL: server_version,
        'graphile-worker': installedVersion('graphile-worker'),
        'pg-boss': installedVersion('pg-boss'),
      },
      config: { ...config, 'PostgreSQL, the same server for all': server },
      notes: ['Insertion counts on all sides; every completion is a durable commit.'],
    };
  } finally {
    for (const side of sides) await side.stop();
    await mesh.stop();
  }
}

export const throughput: Bench = {
  name: 'throughput',
  about: 'durable no-op tasks a second, next to graphile-worker and pg-boss on the same PostgreSQL',
  run,
};
