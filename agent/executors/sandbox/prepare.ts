/** Finds out at start which tiers this machine has, and says so. */
import type { Clock } from '../../../common/clock.js';
import type { Logger } from '../../../common/log.js';
import { removeTrees } from '../janitor.js';
import type { StrayWatch } from '../strays.js';
import type { WorkRoot } from '../workroot.js';
import type { Bounds } from './bounds.js';
import { Cgroups, ownCgroup } from './cgroups.js';
import { TaskEtc } from './etc.js';
import { type Probe, probeBubblewrap } from './probe.js';
import { chooseTiers, type SandboxSetting, Tiers } from './tiers.js';

export interface SandboxOptions {
  setting: SandboxSetting;
  /** Paths that tasks may read beside the system's. */
  readable: readonly string[];
  /** What no task may exceed. */
  bounds: Bounds;
  /** Of /tmp and of /dev/shm in the bubblewrap tier, each. */
  memoryDiskBytes: number;
}

export interface SandboxPlace {
  dataDir: string;
  workRoot: WorkRoot;
  strays: StrayWatch;
  clock: Clock;
  log: Logger;
  hostname: () => string;
}

/** @throws MeshError SANDBOX when the setting names bubblewrap and it does not work here */
export async function prepareTiers(options: SandboxOptions, place: SandboxPlace): Promise<Tiers> {
  const { setting, bounds } = options;
  const { clock, log } = place;
  const probe = setting === 'process' ? undefined : await tryBubblewrap(options, place);
  const tiers = chooseTiers(setting, probe);
  if (probe && 'problem' in probe)
    log.warn({ event: 'sandbox.unavailable', problem: probe.problem, hint: probe.hint }, 'tasks run without isolation');
  const directory = ownCgroup();
  const cgroups = directory === undefined ? undefined : Cgroups.open({ directory, pid: process.pid, clock });
  return new Tiers(tiers, bounds, cgroups);
}

async function tryBubblewrap(options: SandboxOptions, place: SandboxPlace): Promise<Probe> {
  const { readable, memoryDiskBytes } = options;
  const { dataDir, workRoot, strays, clock, hostname } = place;
  const cookie = strays.issue('probe');
  const directory = workRoot.privateDir('probe');
  const probe = await probeBubblewrap({
    ...{ dataDir, directory, cookie, user: workRoot.user, clock, hostname, readable, memoryDiskBytes },
    etc: new TaskEtc(workRoot, clock),
  });
  strays.retire(cookie);
  await removeTrees([directory], workRoot.user);
  return probe;
}
