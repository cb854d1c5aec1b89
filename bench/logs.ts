/** One task that prints about 20 MB/s: is every byte that is kept streamed, and does memory stay flat? */
import { join } from 'node:path';
import { systemClock } from '../common/clock.js';
import type { Bench, BenchOptions } from './bench.js';
import { startBenchMesh } from './mesh-side.js';
import { toMiB, watchMemory } from './process-memory.js';
import type { Result, Row } from './report.js';

const CHUNK_BYTES = 2_000_000;
const CHUNKS_A_SECOND = 10;

/** Prints `seconds` times CHUNKS_A_SECOND chunks, each at its own time, so that what printing costs is not added. */
const printer = (seconds: number): string => `
const line = 'x'.repeat(99) + '\\n';
const chunk = line.repeat(${CHUNK_BYTES / 100});
const from = performance.now();
let sent = 0;
function next() {
  if (sent === ${seconds * CHUNKS_A_SECOND}) return;
  sent++;
  const write = () => process.stdout.write(chunk, next);
  setTimeout(write, Math.max(0, from + sent * ${1000 / CHUNKS_A_SECOND} - performance.now()));
}
next();
`;

async function run({ smoke, workDir, say }: BenchOptions): Promise<Result> {
  const seconds = smoke ? 1 : 10;
  const mesh = await startBenchMesh({ dataDir: join(workDir, 'mesh'), agents: 1 });
  const [agentPid] = mesh.agentPids;
  if (agentPid === undefined) throw new Error('there is no agent');
  try {
    const watches = { coordinator: watchMemory(mesh.coordinatorPid), agent: watchMemory(agentPid) };
    say(`a task prints ${CHUNKS_A_SECOND * CHUNK_BYTES} bytes a second for ${seconds} s, somebody follows it`);
    const fromMs = systemClock.monotonicMs();
    const argv = [process.execPath, '-e', printer(seconds)];
    const { id } = await mesh.submit({
      name: 'printer',
      taskCount: 1,
      work: { $case: 'process', value: { argv, environment: {} } },
    });
    let received = 0;
    for await (const { items } of mesh.connection.mesh.readLogs({ job: id, follow: true })) {
      for (const item of items) received += item.data.length;
    }
    const job = await mesh.wait(id);
    const elapsedMs = systemClock.monotonicMs() - fromMs;
    if (job.status !== 'COMPLETED') throw new Error(`the job is ${job.status}: ${job.error}`);
    const coordinator = await watches.coordinator.stop();
    const agent = await watches.agent.stop();
    const row = (what: string, bytes: number): Row => ({ what, unit: 'MiB', values: [toMiB(bytes)] });
    return {
      name: 'logs',
      title: `A task that prints ${formatRate()} for ${seconds} s, followed by one reader`,
      rows: [
        row('coordinator RSS before', coordinator.firstBytes),
        row('coordinator RSS highest', coordinator.highestBytes),
        row('agent RSS before', agent.firstBytes),
        row('agent RSS highest', agent.highestBytes),
        row('output printed', seconds * CHUNKS_A_SECOND * CHUNK_BYTES),
        row('output that reached the reader', received),
        { what: 'submission → end of the job', unit: 'ms', values: [elapsedMs] },
      ],
      config: { 'coordinator, agent': { settings: 'defaults' } },
      notes: ['An attempt keeps the first and the last half of its log bound; what is between them is left out.'],
    };
  } finally {
    await mesh.stop();
  }
}

const formatRate = (): string => `${(CHUNK_BYTES * CHUNKS_A_SECOND) / 1e6} MB/s`;

export const logs: Bench = {
  name: 'logs',
  about: 'one task printing 20 MB/s for 10 s: memory of agent and coordinator',
  run,
};
