#!/usr/bin/env node
/**
 * The first minute: a mesh of a coordinator and three agents on this machine, which find each other over mDNS and trust
 * each other by a join token, and a real job on it, the license audit of everything in `node_modules`.
 */
import { randomUUID } from 'node:crypto';
import { rmSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../common/clock.js';
import { MeshError } from '../common/errors.js';
import { packageRoot } from '../common/package.js';
import { reportError } from '../common/program.js';
import { formatDuration } from '../common/units.js';
import type { Job } from '../proto/gen/mesh/v1/mesh.js';
import { uploadFiles } from '../sdk/blobs.js';
import { connect, type MeshConnection } from '../sdk/connect.js';
import { makeSpec, submitJob } from '../sdk/submit.js';
import { requireCompleted } from '../sdk/watch.js';
import { awaitJob } from './await-job.js';
import { type LocalMesh, type LocalMeshEvent, startLocalMesh } from './local-mesh.js';
import { type InstalledPackage, installedPackages } from './packages.js';
import { freshDataDir } from './quickstart-data.js';
import { renderTable } from './render/table.js';
import { bold, safe } from './render/terminal.js';
import { stageAs } from './submission.js';

const AGENTS = 3;
/** Two, so that one task can wait for its files while another runs. */
const SLOTS_MIN = 2;
const MODULE = join(packageRoot, 'examples', 'license-audit', 'audit.mjs');
const PAGE = 1000;
const say = (line: string) => process.stdout.write(`${line}\n`);

interface Audit {
  license: string;
}

async function main(): Promise<void> {
  const beganMs = systemClock.monotonicMs();
  const interrupted = interruption();
  const packages = installedPackages(packageRoot);
  if (packages.length === 0)
    throw new MeshError('NOT_FOUND', 'there are no packages in node_modules', { hint: 'run: npm ci' });
  const data = freshDataDir(packageRoot);
  say(`Starting a mesh on this machine: a coordinator and ${AGENTS} agents (data in ${data.path})`);
  const mesh = await startLocalMesh({
    dataDir: data.path,
    signal: interrupted,
    agents: AGENTS,
    agentName: (number) => `node-${number}`,
    slots: Math.max(SLOTS_MIN, Math.ceil(availableParallelism() / AGENTS)),
    environment: withoutMeshVariables(process.env),
    onEvent: (event) => say(`  ${describe(event)}`),
  });
  try {
    const failed = mesh.failure.then((error) => {
      throw error;
    });
    await Promise.race([work(mesh, packages), failed, rejectionOf(interrupted)]);
  } finally {
    await mesh.stop();
  }
  if (data.temporary) rmSync(data.path, { recursive: true, force: true });
  say(`\nDone in ${formatDuration(systemClock.monotonicMs() - beganMs)}; everything is stopped again.`);
}

/** The mesh of the quickstart takes nothing from settings that were meant for another. */
const withoutMeshVariables = (environment: NodeJS.ProcessEnv): NodeJS.ProcessEnv =>
  Object.fromEntries(Object.entries(environment).filter(([name]) => !name.startsWith('MESH_')));

function interruption(): AbortSignal {
  const controller = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, () => controller.abort());
  return controller.signal;
}

const rejectionOf = (signal: AbortSignal): Promise<never> =>
  new Promise((_resolve, reject) => {
    const interrupt = () => reject(new MeshError('INTERRUPTED', 'interrupted', { hint: 'everything is stopped' }));
    if (signal.aborted) interrupt();
    signal.addEventListener('abort', interrupt, { once: true });
  });

function describe(event: LocalMeshEvent): string {
  switch (event.event) {
    case 'coordinator.ready':
      return `coordinator ready at ${event.address} after ${formatDuration(event.afterMs)}`;
    case 'agent.ready':
      return `${event.name} found it over mDNS and joined with a token, ${formatDuration(event.afterMs)} after its start`;
    case 'agent.exited':
      return `${event.reason}; it is started again in ${formatDuration(event.restartInMs)}`;
  }
}

async function work(mesh: LocalMesh, packages: InstalledPackage[]): Promise<void> {
  const connection = await connect({ profile: mesh.adminProfile });
  try {
    const submittedMs = systemClock.monotonicMs();
    const job = await submit(connection, packages);
    say(`\nAuditing the licenses of ${packages.length} packages, one task each (job ${job.id})`);
    const ended = await awaitJob(connection.mesh, job.id, { title: 'license audit' });
    const tookMs = systemClock.monotonicMs() - submittedMs;
    await report(connection, ended, tookMs);
    requireCompleted(ended);
  } finally {
    await connection.close();
  }
}

async function submit({ mesh }: MeshConnection, packages: InstalledPackage[]): Promise<Job> {
  const sources = packages.flatMap(({ files }) => files.map(({ source }) => source));
  const stored = await uploadFiles(mesh, [MODULE, ...sources]);
  const moduleDigest = stored.get(MODULE)!.digest;
  return submitJob(mesh, {
    idempotencyKey: randomUUID(),
    spec: makeSpec({
      name: 'license-audit',
      work: { $case: 'function', value: { moduleDigest, exportName: 'audit', environment: {} } },
      taskCount: packages.length,
    }),
    items: packages.map(({ name, path, files }) => ({
      value: JSON.stringify({ package: name, path }),
      files: files.map((file) => stageAs(file.path, stored.get(file.source)!)),
    })),
  });
}

async function report(connection: MeshConnection, job: Job, tookMs: number): Promise<void> {
  const [licenses, nodes] = [await countLicenses(connection, job.id), await countNodes(connection, job.id)];
  const right = 'right' as const;
  say(`\n${bold('Licenses')}`);
  const byCount = [...licenses].sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1));
  const licenseRows = byCount.map(([license, count]) => [safe(license), String(count)]);
  process.stdout.write(renderTable([{ title: 'LICENSE' }, { title: 'PACKAGES', align: right }], licenseRows));
  say(`\n${bold('What each node did')}`);
  const nodeRows = [...nodes]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, { tasks, busyMs }]) => [safe(name), String(tasks), formatDuration(busyMs)]);
  const columns = [{ title: 'NODE' }, { title: 'TASKS', align: right }, { title: 'BUSY', align: right }];
  process.stdout.write(renderTable(columns, nodeRows));
  const { completed = 0, total = 0 } = job.tasks ?? {};
  say(`\n${completed} of ${total} tasks completed in ${formatDuration(tookMs)}, shipping their files included.`);
}

async function countLicenses({ mesh }: MeshConnection, job: string): Promise<Map<string, number>> {
  const counts = new Map<string, number>();
  for await (const { items } of mesh.readResults({ job, follow: false })) {
    for (const { status, resultJson } of items) {
      const license = status === 'COMPLETED' ? (JSON.parse(resultJson) as Audit).license : `(task ${status})`;
      counts.set(license, (counts.get(license) ?? 0) + 1);
    }
  }
  return counts;
}

async function countNodes({ mesh }: MeshConnection, job: string) {
  const nodes = new Map<string, { tasks: number; busyMs: number }>();
  let cursor = '';
  do {
    const page = await mesh.listTasks({ job, status: '', limit: PAGE, cursor });
    for (const { node, runUs = 0 } of page.items) {
      const { tasks, busyMs } = nodes.get(node) ?? { tasks: 0, busyMs: 0 };
      nodes.set(node, { tasks: tasks + 1, busyMs: busyMs + runUs / 1000 });
    }
    cursor = page.next;
  } while (cursor !== '');
  return nodes;
}

try {
  await main();
} catch (error) {
  process.exitCode = reportError('quickstart', error, false);
}
