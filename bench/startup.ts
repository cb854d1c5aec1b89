/** How long people wait: for the coordinator, for an agent to be registered, and for a command to answer. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { systemClock } from '../common/clock.js';
import { packageRoot } from '../common/package.js';
import type { Bench, BenchOptions } from './bench.js';
import { type BenchMesh, cleanEnvironment, startBenchMesh } from './mesh-side.js';
import type { Result } from './report.js';

const COMMANDS_A_RUN = 5;

const readyAfterMs = (mesh: BenchMesh, event: 'coordinator.ready' | 'agent.ready'): number => {
  const found = mesh.events.find((candidate) => candidate.event === event);
  if (!found || !('afterMs' in found)) throw new Error(`there was no ${event}`);
  return found.afterMs;
};

async function commandMs(mesh: BenchMesh): Promise<number> {
  const environment = { ...cleanEnvironment(), MESH_PROFILE: mesh.mesh.adminProfile };
  const fromMs = systemClock.monotonicMs();
  await promisify(execFile)(process.execPath, [join(packageRoot, 'dist/cli/main.js'), 'jobs'], { env: environment });
  return systemClock.monotonicMs() - fromMs;
}

async function run({ smoke, runs, workDir, say }: BenchOptions): Promise<Result> {
  const measured = {
    cold: [] as number[],
    warm: [] as number[],
    join: [] as number[],
    rejoin: [] as number[],
    jobs: [] as number[],
  };
  for (let turn = 1; turn <= (smoke ? 1 : runs); turn++) {
    const dataDir = join(workDir, `mesh-${turn}`);
    const first = await startBenchMesh({ dataDir, agents: 1 });
    measured.cold.push(readyAfterMs(first, 'coordinator.ready'));
    measured.join.push(readyAfterMs(first, 'agent.ready'));
    for (let count = 0; count < COMMANDS_A_RUN; count++) measured.jobs.push(await commandMs(first));
    await first.stop();
    const second = await startBenchMesh({ dataDir, agents: 1 });
    measured.warm.push(readyAfterMs(second, 'coordinator.ready'));
    measured.rejoin.push(readyAfterMs(second, 'agent.ready'));
    await second.stop();
    say(`run ${turn} of ${runs}`);
  }
  return {
    name: 'startup',
    title: 'Start and answer times',
    rows: [
      {
        what: 'coordinator, empty data directory → ready',
        unit: 'ms',
        values: measured.cold,
      },
      { what: 'coordinator, started again → ready', unit: 'ms', values: measured.warm, aims: [{ atMost: 3000 }] },
      {
        what: 'agent with a token → found, enrolled, registered',
        unit: 'ms',
        values: measured.join,
        aims: [{ atMost: 1000 }],
      },
      { what: 'agent, started again → registered', unit: 'ms', values: measured.rejoin, aims: [{ atMost: 1000 }] },
      { what: 'mesh jobs → answered', unit: 'ms', values: measured.jobs, aims: [{ atMost: 400 }] },
    ],
    config: { 'coordinator, agent': { settings: 'defaults', discovery: 'mDNS' } },
    notes: ['Times of processes count from their start, so that loading Node.js and the program is in them.'],
  };
}

export const startup: Bench = {
  name: 'startup',
  about: 'coordinator start to ready, agent start to registered, mesh jobs answered',
  run,
};
