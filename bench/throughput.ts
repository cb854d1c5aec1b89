/**
 * Durable no-op tasks a second, from submission to the last commit: a real mesh (mutual TLS, processes of their own)
 * next to graphile-worker on the same PostgreSQL server. Runs alternate, so that what else the machine does hits both.
 * Before each run both databases are vacuumed and analysed, outside the measured time.
 */
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import type { Bench, BenchOptions } from './bench.js';
import { createDatabase, type DatabaseAddress, describeServer, settleDatabase } from './database.js';
import { makeGraphileSide } from './graphile-side.js';
import { makeMeshSide, startBenchMesh } from './mesh-side.js';
import { formatNumber, type Result, type Row } from './report.js';
import type { Side } from './side.js';

interface Contender {
  side: Side;
  tasks: number;
  database: DatabaseAddress;
}

async function measure(contenders: Contender[], { runs, say }: BenchOptions): Promise<Row[]> {
  const rows = contenders.map(({ side, tasks }): Row => ({ what: side.name, unit: 'tasks/s', values: [], tasks }));
  const once = async ({ side, tasks, database }: Contender): Promise<number> => {
    await settleDatabase(database);
    return (tasks * 1000) / (await side.run(tasks));
  };
  for (const contender of contenders) {
    // Compiles the code, fills the caches and gives the planner statistics of tables that were not always empty.
    await once({ ...contender, tasks: Math.ceil(contender.tasks / 5) });
  }
  for (let run = 1; run <= runs; run++) {
    for (const [index, contender] of contenders.entries()) {
      const rate = await once(contender);
      rows[index]?.values.push(rate);
      say(`run ${run} of ${runs}: ${contender.side.name}: ${formatNumber(rate)} tasks/s`);
    }
  }
  return rows;
}

async function run(options: BenchOptions): Promise<Result> {
  const { smoke, agents, workDir, say } = options;
  const tasks = options.tasks ?? (smoke ? 2000 : 100_000);
  const slots = availableParallelism();
  say(`starting a mesh with ${agents} agent${agents === 1 ? '' : 's'}`);
  const mesh = await startBenchMesh({ dataDir: join(workDir, 'mesh'), agents, slots });
  const sides: Side[] = [];
  try {
    const contend = async (mode: 'default' | 'batched', count: number): Promise<Contender> => {
      const database = await createDatabase(mesh.database, `graphile_${mode}`);
      const side = await makeGraphileSide(mode, database);
      sides.push(side);
      return { side, tasks: count, database };
    };
    const batched = await contend('batched', tasks);
    const ours = {
      side: makeMeshSide(mesh, {
        coordinator: 'defaults',
        agents: String(agents),
        'slots each': String(slots),
        submission: 'one job, array of N function tasks',
        process: 'coordinator, agents and client in processes of their own, mutual TLS 1.3',
      }),
      tasks,
      database: mesh.database,
    };
    // Its rate does not depend on the number; a tenth keeps the bench short.
    const plain = await contend('default', Math.ceil(tasks / 10));
    const rows = await measure([batched, ours, plain], options);
    const server = await describeServer(mesh.database);
    const config = Object.fromEntries([batched, ours, plain].map(({ side }) => [side.name, side.config]));
    return {
      name: 'throughput',
      title: 'Durable no-op tasks a second, submission to last commit',
      rows,
      base: batched.side.name,
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
  about: 'durable no-op tasks a second, next to graphile-worker on the same PostgreSQL',
  run,
};
