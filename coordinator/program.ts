import type { Command } from 'commander';
import { systemClock } from '../common/clock.js';
import { defaultDataDir, writeReadyFile } from '../common/files.js';
import { toMeshError } from '../common/errors.js';
import { createLogger } from '../common/log.js';
import { makeProgram } from '../common/program.js';
import { addSettings, printConfig, resolveSettings } from '../common/settings.js';
import { untilSignal } from '../common/signals.js';
import { coordinatorSettings } from './services/settings.js';

/** `mesh-coordinator`: runs the control plane in the foreground until SIGTERM. */
export function buildProgram(): Command {
  const program = makeProgram(
    'mesh-coordinator',
    'The control plane of a mesh: registry, scheduler, state, API and metrics; embeds the CA and, by default, PostgreSQL.',
    [
      'mesh-coordinator --data /var/lib/mesh',
      'mesh-coordinator --data ./mesh --port 0 --ready-file ./mesh/ready.json',
      'mesh-coordinator --data ./second --database-url postgres://mesh@db.example/mesh --join TOKEN',
      'mesh-coordinator --database-url postgres://mesh@db.example/mesh?sslmode=verify-full',
    ],
  );
  addSettings(program, coordinatorSettings);
  return program.action(() => run(program));
}

async function run(program: Command): Promise<void> {
  const resolved = resolveSettings(coordinatorSettings, program, process.env);
  if (program.getOptionValue('printConfig')) {
    process.stdout.write(printConfig(coordinatorSettings, resolved));
    return;
  }
  const config = { ...resolved.values, dataDir: resolved.values.data ?? defaultDataDir('coordinator', process.env) };
  const log = createLogger({ component: 'coordinator', level: config.logLevel });
  const signal = untilSignal();
  const stopping = new AbortController();
  void signal.promise.then(() => stopping.abort());
  const { startCoordinator } = await import('./coordinator.js');
  const around = { clock: systemClock, log, random: Math.random, signal: stopping.signal };
  const running = await startCoordinator(config, around).catch((error: unknown) => {
    if (!stopping.signal.aborted || toMeshError(error).code !== 'INTERRUPTED') throw error;
    return undefined;
  });
  if (!running) return log.info({ event: 'coordinator.stopped', cause: await signal.promise }, 'before it was ready');
  if (config.readyFile) {
    const { meshId, caFingerprint, address, adminProfile } = running;
    writeReadyFile(config.readyFile, { meshId, caFingerprint, address, adminProfile, pid: process.pid });
  }
  const cause = await signal.promise;
  log.info({ event: 'coordinator.stopping', cause });
  await running.stop();
  log.info({ event: 'coordinator.stopped' });
}
