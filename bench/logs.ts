/**
 * Ten tasks that print 10 MB/s each, on two agents, and two people who follow the job: one who reads as fast as it comes,
 * one who reads 1 MB/s until the job ends. Every byte that either sees is checked against what belongs there. First an
 * amount within the log bound of an attempt, of which nothing may be missing; then six times the bound, of which the
 * first and the last half are kept and a note with the exact size of what lies between.
 */
import { join } from 'node:path';
import { pause, systemClock } from '../common/clock.js';
import { Stream } from '../proto/gen/mesh/v1/common.js';
import type { MeshConnection } from '../sdk/connect.js';
import type { Bench, BenchOptions } from './bench.js';
import { type BenchMesh, startBenchMesh } from './mesh-side.js';
import { PatternReader, printer } from './pattern.js';
import { type MemoryWatch, residentMemory, toMiB, watchMemory } from './process-memory.js';
import type { Result, Row } from './report.js';

const AGENTS = 2;
const TASKS = 10;
/** Megabytes that each task prints a second. */
const RATE = 10;
const SLOW_BYTES_A_SECOND = 1_000_000;
/** Megabytes that a task prints within the log bound of 16 MiB, and beyond it. */
const WITHIN = 15;
const BEYOND = 100;
/** Of half the bound this much is certain to be shown: it is given up by the message and by the block. */
const HALF_BYTES_MIN = 7 * 2 ** 20;

type Seen = ReturnType<PatternReader['finish']>[];

/** Follows a job, at `bytesASecond` until `ended` aborts. @throws when something is not what was printed there */
async function follow(
  { mesh }: Pick<MeshConnection, 'mesh'>,
  job: string,
  chunks: number,
  tasks: number,
  slow?: { bytesASecond: number; ended: AbortSignal },
): Promise<Seen> {
  const readers = Array.from({ length: tasks }, (_, task) => new PatternReader(task, chunks));
  const fromMs = systemClock.monotonicMs();
  let bytes = 0;
  for await (const { items } of mesh.readLogs({ job, follow: true })) {
    for (const { index, stream, data } of items) {
      bytes += data.length;
      if (stream === Stream.SYSTEM) readers[index]?.skip(Buffer.from(data).toString());
      else readers[index]?.take(data);
    }
    if (!slow || slow.ended.aborted) continue;
    const dueMs = fromMs + (bytes * 1000) / slow.bytesASecond;
    await pause(systemClock, Math.max(0, dueMs - systemClock.monotonicMs()), slow.ended);
  }
  return readers.map((reader) => reader.finish());
}

/** One job and its readers. */
async function print(mesh: BenchMesh, slowly: MeshConnection, chunks: number, tasks: number) {
  const { id } = await mesh.submit({
    name: 'printers',
    taskCount: tasks,
    array: { start: 0, step: 1 },
    work: { $case: 'process', value: { argv: printer(chunks, RATE), environment: {} } },
  });
  const ended = new AbortController();
  const job = mesh.wait(id).finally(() => ended.abort());
  const [{ status, error }, normal, slow] = await Promise.all([
    job,
    follow(mesh.connection, id, chunks, tasks),
    follow(slowly, id, chunks, tasks, { bytesASecond: SLOW_BYTES_A_SECOND, ended: ended.signal }),
  ]);
  if (status !== 'COMPLETED') throw new Error(`the job is ${status}: ${error}`);
  return { normal, slow, late: await follow(mesh.connection, id, chunks, tasks) };
}

const leftOut = (seen: Seen): number => seen.reduce((bytes, { leftOutBytes }) => bytes + leftOutBytes, 0);

/** Growth over what the process had before anything was printed. */
const growth = async (watches: { idleBytes: number; watch: MemoryWatch }[]): Promise<number> =>
  Math.max(
    ...(await Promise.all(
      watches.map(async ({ idleBytes, watch }) => toMiB((await watch.stop()).highestBytes - idleBytes)),
    )),
  );

const newRows = (): Record<'rate' | 'lost' | 'coordinator' | 'agent' | 'kept' | 'slow', Row> => ({
  rate: { what: 'printed, all tasks together', unit: 'MB/s', values: [], aims: [{ atLeast: 100 }] },
  lost: { what: 'missing of what is within the log bound', unit: 'bytes', values: [], aims: [{ atMost: 0 }] },
  coordinator: { what: 'coordinator, RSS growth', unit: 'MiB', values: [], aims: [{ atMost: 50 }] },
  agent: { what: 'agent, RSS growth, the larger of the two', unit: 'MiB', values: [] },
  kept: { what: 'read afterwards of an attempt beyond the bound, at least', unit: 'MiB', values: [] },
  slow: { what: 'seen by the slow reader of an attempt beyond the bound, at least', unit: 'MiB', values: [] },
});

const watched = (pid: number) => ({ idleBytes: residentMemory(pid).nowBytes, watch: watchMemory(pid) });

async function measure(mesh: BenchMesh, smoke: boolean, rows: ReturnType<typeof newRows>): Promise<void> {
  const [within, beyond] = smoke ? [2, 24] : [WITHIN, BEYOND];
  const slowly = await mesh.connectAgain();
  try {
    const watches = { coordinator: [watched(mesh.coordinatorPid)], agent: mesh.agentPids.map(watched) };
    const small = await print(mesh, slowly, within, TASKS);
    const large = await print(mesh, slowly, beyond, TASKS);
    for (const { headBytes, seenBytes } of [...large.slow, ...large.late])
      if (headBytes < HALF_BYTES_MIN || seenBytes < 2 * HALF_BYTES_MIN)
        throw new Error(`of an attempt only ${headBytes} and ${seenBytes - headBytes} bytes are kept`);
    rows.rate.values.push(large.late.reduce((sum, { tookMs }) => sum + (beyond * 1000) / tookMs, 0));
    rows.lost.values.push(leftOut(small.normal) + leftOut(small.slow) + leftOut(small.late));
    rows.coordinator.values.push(await growth(watches.coordinator));
    rows.agent.values.push(await growth(watches.agent));
    const least = (seen: Seen): number => toMiB(Math.min(...seen.map(({ seenBytes }) => seenBytes)));
    rows.kept.values.push(least(large.late));
    rows.slow.values.push(least(large.slow));
  } finally {
    await slowly.close();
  }
}

/** Each run in a mesh of its own: memory that a process has taken once it mostly keeps. */
async function run({ workDir, smoke, runs, say }: BenchOptions): Promise<Result> {
  const rows = newRows();
  for (let run = 1; run <= runs; run++) {
    const dataDir = join(workDir, `mesh-${run}`);
    const mesh = await startBenchMesh({ dataDir, agents: AGENTS, slots: TASKS / AGENTS });
    try {
      await measure(mesh, smoke, rows);
    } finally {
      await mesh.stop();
    }
    const said = Object.values(rows).map(({ what, unit, values }) => `${what} ${values.at(-1)?.toFixed(1)} ${unit}`);
    say(`run ${run} of ${runs}: ${said.join(', ')}`);
  }
  return {
    name: 'logs',
    title: `${TASKS} tasks that print ${RATE} MB/s each, followed by a slow and by a normal reader`,
    rows: Object.values(rows),
    config: {
      'coordinator, agents': { settings: 'defaults', agents: String(AGENTS), 'slots each': String(TASKS / AGENTS) },
      readers: { normal: 'as fast as it comes', slow: '1 MB/s until the job ends, then as fast as it comes' },
    },
    notes: [
      `A run prints ${WITHIN} MB a task, within the log bound of 16 MiB, then ${BEYOND} MB a task, beyond it, on a mesh of its own.`,
      'Every byte that a reader saw was compared with what was printed there; notes say what was left out, to the byte.',
      'Growth is the highest of a run over what the process had before anything was printed.',
    ],
  };
}

export const logs: Bench = {
  name: 'logs',
  about: '100 MB/s of task output from 10 tasks, with a slow reader: is all of it there, is memory flat?',
  run,
};
