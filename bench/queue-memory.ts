/** The coordinator's memory with a full queue and nothing to run it: queued tasks belong in the database. */
import { join } from 'node:path';
import type { Bench, BenchOptions } from './bench.js';
import { type BenchMesh, startBenchMesh } from './mesh-side.js';
import { residentMemory, toMiB, watchMemory } from './process-memory.js';
import type { Result, Row } from './report.js';
import { until } from './until.js';

const POLL_MS = 50;

/** Until every row of the job is there; submission is acknowledged before. */
const untilQueued = (mesh: BenchMesh, id: string, tasks: number): Promise<void> =>
  until('queueing', POLL_MS, async () => {
    const { job } = await mesh.connection.mesh.getJob({ id });
    return (job?.tasks?.queued ?? 0) >= tasks;
  });

async function queue(mesh: BenchMesh, tasks: number, items?: Iterable<string>): Promise<number> {
  const watch = watchMemory(mesh.coordinatorPid);
  const job = await mesh.submit({ name: 'queued', taskCount: tasks }, items);
  await untilQueued(mesh, job.id, tasks);
  return (await watch.stop()).highestBytes;
}

async function run({ smoke, tasks: wanted, workDir, say }: BenchOptions): Promise<Result> {
  const tasks = wanted ?? (smoke ? 2000 : 100_000);
  const mesh = await startBenchMesh({ dataDir: join(workDir, 'mesh'), agents: 0 });
  try {
    const idle = residentMemory(mesh.coordinatorPid).nowBytes;
    say(`queueing ${tasks} tasks of an array`);
    const array = await queue(mesh, tasks);
    say(`queueing ${tasks} tasks with an item each`);
    const values = (function* () {
      for (let index = 0; index < tasks; index++) yield JSON.stringify({ path: `input/file-${index}.png` });
    })();
    const items = await queue(mesh, tasks, values);
    const { nowBytes, peakBytes } = residentMemory(mesh.coordinatorPid);
    const row = (what: string, bytes: number): Row => ({
      what,
      unit: 'MiB',
      values: [toMiB(bytes)],
      aims: [{ atMost: 250 }],
    });
    return {
      name: 'queue-memory',
      title: `Coordinator memory (RSS) with ${tasks} tasks queued and no agent`,
      rows: [
        row('idle', idle),
        row('highest while an array was queued', array),
        row('highest while items were queued', items),
        row('with both jobs queued', nowBytes),
        row('highest ever', peakBytes),
      ],
      config: { coordinator: { settings: 'defaults', jobs: `two, of ${tasks} tasks each` } },
      notes: [],
    };
  } finally {
    await mesh.stop();
  }
}

export const queueMemory: Bench = {
  name: 'queue-memory',
  about: 'coordinator memory with 100,000 tasks queued and nothing to run them',
  run,
};
