/**
 * A real mesh for the benches: the built coordinator with its embedded PostgreSQL and built agents as processes of
 * their own, talking mutual TLS. Everything is loaded from `dist`, because that is what people run.
 */
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { packageRoot } from '../common/package.js';
import { systemClock } from '../common/clock.js';
import type { LocalMesh, LocalMeshEvent } from '../cli/local-mesh.js';
import type { Job } from '../proto/gen/mesh/v1/mesh.js';
import type { MeshConnection } from '../sdk/connect.js';
import type { RunOptions } from '../sdk/run.js';
import type { SpecOptions } from '../sdk/submit.js';
import { built } from './built.js';
import type { DatabaseAddress } from './database.js';
import type { Side } from './side.js';
import { RUN_MS_MAX } from './until.js';

export interface BenchMesh {
  mesh: LocalMesh;
  connection: MeshConnection;
  coordinatorPid: number;
  agentPids: number[];
  events: LocalMeshEvent[];
  database: DatabaseAddress;
  submit(spec: Omit<SpecOptions, 'work'> & { work?: SpecOptions['work'] }, items?: Iterable<string>): Promise<Job>;
  wait(id: string): Promise<Job>;
  /** Submits and follows to the end, in one call. */
  run(spec: Omit<SpecOptions, 'work'> & { work?: SpecOptions['work'] }, options?: RunOptions): Promise<Job>;
  /** A second connection, to be closed by whoever asked for it. */
  connectAgain(): Promise<MeshConnection>;
  /** The function that does nothing, as work; its module is uploaded once, then only asked for by digest. */
  noop(): Promise<SpecOptions['work']>;
  stop(): Promise<void>;
}

export interface BenchMeshOptions {
  dataDir: string;
  agents: number;
  slots?: number;
  /** Settings by the name of their variable, such as MESH_RETENTION; defaults for all others. */
  settings?: Record<string, string>;
  /** A free one when absent. */
  port?: number;
}

/** The environment without settings meant for another mesh. */
export const cleanEnvironment = (): NodeJS.ProcessEnv =>
  Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('MESH_')));

/** @throws MeshError of the build when a process does not become ready; an interruption stops everything. */
export async function startBenchMesh(options: BenchMeshOptions): Promise<BenchMesh> {
  const { dataDir, agents, slots, settings, port = 0 } = options;
  const { startLocalMesh } = await built<typeof import('../cli/local-mesh.js')>('cli/local-mesh.js');
  const { connect } = await built<typeof import('../sdk/connect.js')>('sdk/connect.js');
  const { makeSpec, submitJob } = await built<typeof import('../sdk/submit.js')>('sdk/submit.js');
  const { runJob } = await built<typeof import('../sdk/run.js')>('sdk/run.js');
  const { waitForJob } = await built<typeof import('../sdk/watch.js')>('sdk/watch.js');
  const events: LocalMeshEvent[] = [];
  const environment = { ...cleanEnvironment(), ...settings };
  const mesh = await startLocalMesh({
    dataDir,
    agents,
    port,
    slots,
    environment,
    agentName: (number) => `bench-${number}`,
    onEvent: (event) => events.push(event),
  });
  const interrupted = (): void => void mesh.stop().finally(() => process.exit(130));
  process.once('SIGINT', interrupted).once('SIGTERM', interrupted);
  try {
    const connection = await connect({ profile: mesh.adminProfile, environment });
    return {
      mesh,
      connection,
      events,
      coordinatorPid: readyPid(mesh, 'coordinator'),
      agentPids: Array.from({ length: agents }, (_, index) => readyPid(mesh, `agent-${index + 1}`)),
      database: embeddedDatabase(join(dataDir, 'coordinator', 'postgres')),
      submit: async (options, items) => {
        const work = options.work ?? (await noopWork(connection));
        const submission = { spec: makeSpec({ ...options, work }), idempotencyKey: randomUUID() };
        if (!items) return submitJob(connection.mesh, submission);
        const inputs = function* () {
          for (const value of items) yield { value, files: [] };
        };
        return submitJob(connection.mesh, { ...submission, items: inputs() });
      },
      connectAgain: () => connect({ profile: mesh.adminProfile, environment }),
      noop: () => noopWork(connection),
      run: async (options, following) => {
        const work = options.work ?? (await noopWork(connection));
        const run = { spec: makeSpec({ ...options, work }), idempotencyKey: randomUUID() };
        return runJob(connection.mesh, run, following);
      },
      wait: (id) => waitForJob(connection.mesh, id, { timeoutMs: RUN_MS_MAX }),
      stop: async () => {
        process.off('SIGINT', interrupted).off('SIGTERM', interrupted);
        await connection.close();
        await mesh.stop();
      },
    };
  } catch (error) {
    await mesh.stop();
    throw error;
  }
}

function readyPid(mesh: LocalMesh, name: string): number {
  return (JSON.parse(readFileSync(join(mesh.logDir, `${name}.ready`), 'utf8')) as { pid: number }).pid;
}

/** Where the coordinator's PostgreSQL listens, as its own pid file says: line 4 the port, line 5 the socket's folder. */
function embeddedDatabase(folder: string): DatabaseAddress {
  const lines = readFileSync(join(folder, 'data', 'postmaster.pid'), 'utf8').split('\n');
  return {
    host: lines[4]?.trim() || '127.0.0.1',
    port: Number(lines[3]),
    user: 'mesh',
    password: readFileSync(join(folder, 'password'), 'utf8').trim(),
    database: 'mesh',
  };
}

const NOOP = join(packageRoot, 'bench', 'noop.mjs');

async function noopWork(connection: MeshConnection): Promise<SpecOptions['work']> {
  const { uploadFiles } = await built<typeof import('../sdk/blobs.js')>('sdk/blobs.js');
  const stored = await uploadFiles(connection.mesh, [NOOP]);
  const module = stored.get(NOOP);
  if (!module) throw new Error('the module of the bench was not uploaded');
  return { $case: 'function', value: { moduleDigest: module.digest, exportName: 'noop', environment: {} } };
}

/** The mesh as a contender: from the submission to the news of the last commit, over the wire both ways. */
export function makeMeshSide(bench: BenchMesh, config: Record<string, string>): Side {
  return {
    name: 'planetary-mesh',
    config,
    async run(tasks) {
      const work = await bench.noop();
      const from = systemClock.monotonicMs();
      const { id } = await bench.submit({ name: 'noop', work, taskCount: tasks });
      const job = await bench.wait(id);
      const elapsedMs = systemClock.monotonicMs() - from;
      if (job.status !== 'COMPLETED' || job.tasks?.completed !== tasks)
        throw new Error(
          `the job is ${job.status} with ${job.tasks?.completed} of ${tasks} tasks completed: ${job.error}`,
        );
      return elapsedMs;
    },
    stop: async () => undefined,
  };
}
