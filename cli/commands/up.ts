import { hostname } from 'node:os';
import { dirname, resolve } from 'node:path';
import type { Command } from 'commander';
import { pause, systemClock } from '../../common/clock.js';
import { MeshError, toMeshError } from '../../common/errors.js';
import { defaultDataDir } from '../../common/files.js';
import { nameFrom } from '../../common/ids.js';
import { asInteger } from '../../common/numbers.js';
import { asText } from '../../common/settings.js';
import { formatDuration } from '../../common/units.js';
import type { MeshConnection } from '../../sdk/connect.js';
import { jobShape, nodeShape } from '../../sdk/shapes.js';
import { makeCommand, optionsOf, parsedOption } from '../context.js';
import { listWaiting } from '../waiting.js';
import { type LocalMesh, type LocalMeshEvent, startLocalMesh } from '../local-mesh.js';
import { jsonLine } from '../render/terminal.js';
import { liveView, plainView, type StatusView } from '../render/status-view.js';

interface Options {
  data?: string;
  agents: number;
  port: number;
  approveNodes?: boolean;
}

const TOKEN_TTL_MS = 15 * 60_000;
const REFRESH_MS = 1000;
const JOBS_SHOWN = 5;

export function build(): Command {
  return makeCommand(
    'up',
    'Run a coordinator and agents on this machine, in the foreground, until Ctrl-C. Prints the command with which other machines join.',
    [
      'mesh up',
      'mesh up --agents 0            # only coordinate',
      'mesh up --data ./lab --port 0',
      'mesh up --approve-nodes        # others wait until you have let them in',
    ],
  )
    .addOption(
      parsedOption('--data <dir>', 'where everything is kept; otherwise the XDG data directory, or MESH_HOME', asText),
    )
    .addOption(parsedOption('--agents <n>', 'agents on this machine', asInteger(0, 64), { value: 1, shown: '1' }))
    .addOption(
      parsedOption('--port <n>', 'the port; 0 picks one', asInteger(0, 65_535), { value: 7443, shown: '7443' }),
    )
    .option('--approve-nodes', 'other machines wait until you let them in: mesh nodes approve')
    .action(async (_options: Options, command: Command) => {
      const options = optionsOf<Options>(command);
      await up(options, options.json === true);
    });
}

async function up(options: Options, json: boolean): Promise<void> {
  const standard = dirname(defaultDataDir('coordinator', process.env));
  const dataDir = options.data === undefined ? standard : resolve(options.data);
  const host = nameFrom(hostname(), 'node');
  const view = json ? silentView : process.stdout.isTTY ? liveView(process.stdout) : plainView(process.stdout);
  const ending = onSignals();
  const early = new AbortController();
  void ending.first.then(() => early.abort());
  const starting = startLocalMesh({
    signal: early.signal,
    dataDir,
    agents: options.agents,
    port: options.port,
    approveNodes: options.approveNodes === true,
    agentName: (number) => (number === 1 ? host : `${host}-${number}`),
    environment: process.env,
    onEvent: (event) => (json ? process.stdout.write(jsonLine(event)) : view.note(describe(event))),
  });
  const mesh = await starting.catch((error: unknown) => {
    if (early.signal.aborted) return undefined;
    throw error;
  });
  if (!mesh) return;
  const done = new AbortController();
  const watching = watch(mesh, view, done.signal, { json, profileShown: dataDir !== standard });
  const failure = await Promise.race([mesh.failure, ending.first.then(() => undefined)]);
  done.abort();
  await watching;
  if (!failure && !json) view.note('stopping');
  const stopped = mesh.stop();
  void ending.second.then(() => mesh.stop());
  await stopped;
  if (failure) throw failure;
}

interface Ending {
  first: Promise<void>;
  second: Promise<void>;
}

function onSignals(): Ending {
  const calls: (() => void)[] = [];
  const first = new Promise<void>((resolve) => calls.push(resolve));
  const second = new Promise<void>((resolve) => calls.push(resolve));
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => calls.shift()?.());
  return { first, second };
}

const silentView: StatusView = { show: () => undefined, note: () => undefined };

function describe(event: LocalMeshEvent): string {
  switch (event.event) {
    case 'coordinator.ready':
      return `coordinator of mesh ${event.meshId} is ready at ${event.address} (${formatDuration(event.afterMs)})`;
    case 'agent.ready':
      return `agent ${event.name} has joined (${formatDuration(event.afterMs)})`;
    case 'agent.exited':
      return `${event.reason}; it is started again in ${formatDuration(event.restartInMs)}`;
  }
}

/** Says how others join, then shows what goes on until `signal`. A lost connection is made again. */
async function watch(
  mesh: LocalMesh,
  view: StatusView,
  signal: AbortSignal,
  how: { json: boolean; profileShown: boolean },
): Promise<void> {
  const { connect } = await import('../../sdk/connect.js');
  let greeted = false;
  while (!signal.aborted) {
    let connection: MeshConnection | undefined;
    try {
      connection = await connect({ profile: mesh.adminProfile, environment: process.env });
      if (!greeted) await greet(connection, mesh, view, how);
      greeted = true;
      while (!signal.aborted) {
        const [{ items: nodes }, { items: jobs }, waiting] = await Promise.all([
          connection.mesh.listNodes({}),
          connection.mesh.listJobs({ status: '', limit: JOBS_SHOWN, cursor: '' }),
          listWaiting(connection),
        ]);
        if (!signal.aborted)
          view.show({
            nodes: nodes.map(nodeShape),
            jobs: jobs.map(jobShape),
            waiting: waiting.map(({ shown }) => shown),
          });
        await pause(systemClock, REFRESH_MS, signal);
      }
    } catch (error) {
      if (!signal.aborted) view.note(lost(toMeshError(error)));
      await pause(systemClock, REFRESH_MS, signal);
    } finally {
      await connection?.close();
    }
  }
}

const lost = (error: MeshError): string => `no status at the moment: ${error.message}`;

async function greet(
  connection: MeshConnection,
  mesh: LocalMesh,
  view: StatusView,
  how: { json: boolean; profileShown: boolean },
): Promise<void> {
  const request = { role: 'agent', name: '', ttlMs: TOKEN_TTL_MS, uses: 1, replace: false };
  const { secret } = await connection.mesh.createToken(request);
  const command = `mesh-agent --join ${secret}`;
  if (how.json) {
    process.stdout.write(jsonLine({ event: 'mesh.ready', address: mesh.address, profile: mesh.adminProfile, command }));
    return;
  }
  view.note(`\nAdd a machine (once, within 15 minutes; more with mesh token create):\n  ${command}`);
  if (how.profileShown) view.note(`Other terminals use it with:\n  mesh jobs --profile '${mesh.adminProfile}'`);
  view.note('Ctrl-C stops it.');
}
