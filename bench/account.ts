/** Where the processor time of a no-op task goes, process by process: what bounds `throughput` where all share the cores. */
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import type { Bench, BenchOptions } from './bench.js';
import { describeServer, settleDatabase } from './database.js';
import { type BenchMesh, makeMeshSide, startBenchMesh } from './mesh-side.js';
import { cpuMs, treeCpuMs } from './process-cpu.js';
import type { Result, Row } from './report.js';

const PARTS = ['coordinator', 'PostgreSQL', 'agent', 'function runner', 'client'] as const;

type Part = (typeof PARTS)[number];

/** Milliseconds of CPU so far. PostgreSQL is a child of the coordinator, the runner of the agent. */
function usage(mesh: BenchMesh, agentPid: number): Record<Part, number> {
  const [coordinator, agent] = [cpuMs(mesh.coordinatorPid).own, cpuMs(agentPid).own];
  const { user, system } = process.cpuUsage();
  return {
    coordinator,
    PostgreSQL: treeCpuMs(mesh.coordinatorPid) - coordinator,
    agent,
    'function runner': treeCpuMs(agentPid) - agent,
    client: (user + system) / 1000,
  };
}

async function run({ smoke, runs, tasks: wanted, workDir, say }: BenchOptions): Promise<Result> {
  const tasks = wanted ?? (smoke ? 2000 : 200_000);
  const slots = availableParallelism();
  const mesh = await startBenchMesh({ dataDir: join(workDir, 'mesh'), agents: 1, slots });
  try {
    const side = makeMeshSide(mesh, {});
    const agentPid = mesh.agentPids[0] as number;
    const rows = [...PARTS, 'all together', 'wall clock'].map((what): Row => ({ what, unit: 'µs', values: [], tasks }));
    await side.run(Math.ceil(tasks / 5));
    for (let turn = 1; turn <= runs; turn++) {
      await settleDatabase(mesh.database);
      const before = usage(mesh, agentPid);
      const elapsedMs = await side.run(tasks);
      const after = usage(mesh, agentPid);
      const spentMs = PARTS.map((part) => after[part] - before[part]);
      [...spentMs, spentMs.reduce((sum, ms) => sum + ms, 0), elapsedMs].forEach((ms, position) =>
        rows[position]?.values.push((ms * 1000) / tasks),
      );
      say(`run ${turn} of ${runs}`);
    }
    const { server_version = '', ...server } = await describeServer(mesh.database);
    return {
      name: 'account',
      title: 'Processor time of a no-op task, by process',
      rows,
      versions: { PostgreSQL: server_version },
      config: { 'planetary-mesh': { agents: '1', 'slots each': String(slots) }, PostgreSQL: server },
      notes: [`${slots} cores, shared by all of them: the sum over the cores is the least a task can take.`],
    };
  } finally {
    await mesh.stop();
  }
}

export const account: Bench = {
  name: 'account',
  about: 'processor time of a no-op task in each process',
  run,
};
