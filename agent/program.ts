import type { Command } from 'commander';
import { systemClock } from '../common/clock.js';
import { MeshError, toMeshError } from '../common/errors.js';
import { defaultDataDir, writeReadyFile } from '../common/files.js';
import { createLogger } from '../common/log.js';
import { makeProgram, reportError } from '../common/program.js';
import { addSettings, printConfig, resolveSettings } from '../common/settings.js';
import { untilSignal } from '../common/signals.js';
import { renounceInheritance } from './inheritance.js';
import { agentSettings } from './settings.js';

/** `mesh-agent`: runs tasks of the mesh on this machine, in the foreground, until SIGTERM. */
export function buildProgram(): Command {
  const program = makeProgram(
    'mesh-agent',
    'Runs tasks of a mesh on this machine. Finds the coordinator over mDNS and joins with a token the first time.',
    [
      'mesh-agent --join TOKEN',
      'mesh-agent --join TOKEN --name render-1 --label zone=attic --slots 4',
      'mesh-agent --coordinator 192.168.1.10 --join TOKEN',
      'mesh-agent --cert render-1.crt --key render-1.key --ca ca.crt',
    ],
  );
  addSettings(program, agentSettings);
  return program.action(() => run(program));
}

async function run(program: Command): Promise<void> {
  const resolved = resolveSettings(agentSettings, program, process.env);
  if (program.getOptionValue('printConfig')) {
    process.stdout.write(printConfig(agentSettings, resolved));
    return;
  }
  const config = { ...resolved.values, dataDir: resolved.values.data ?? defaultDataDir('agent', process.env) };
  const log = createLogger({ component: 'agent', level: config.logLevel });
  renounceInheritance(log);
  const signal = untilSignal();
  const stopping = new AbortController();
  void signal.promise.then(() => stopping.abort());
  let fatal: MeshError | undefined;
  const { startAgent } = await import('./agent.js');
  const agent = await startAgent(config, {
    clock: systemClock,
    log,
    random: Math.random,
    signal: stopping.signal,
    onRegistered: (registration) => {
      if (config.readyFile) writeReadyFile(config.readyFile, { ...registration, pid: process.pid });
    },
    onWaiting: ({ phrase, hint }) => {
      log.warn({ event: 'join.waiting', phrase, hint });
      process.stderr.write(`${program.name()}: waiting for approval; phrase: ${phrase}; ${hint}\n`);
    },
    onFatal: (error) => {
      fatal = error;
      signal.raise('fatal');
    },
  }).catch((error: unknown) => {
    if (toMeshError(error).code !== 'INTERRUPTED') throw error;
    throw new MeshError('INTERRUPTED', 'stopped before it was in the mesh', { hint: 'start it again', cause: error });
  });
  signal.onAgain(() => agent.hurry());
  const cause = await signal.promise;
  log.info({ event: 'agent.stopping', cause });
  const stopped = agent.stop();
  // No coordinator takes this agent's results any more: there is nothing to wait for.
  if (fatal) agent.hurry();
  await stopped;
  log.info({ event: 'agent.stopped' });
  if (fatal) process.exitCode = reportError(program.name(), fatal, false);
}
