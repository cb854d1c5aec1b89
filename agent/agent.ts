/** The composition root of an agent: enrol, prepare the machine, connect, work until stopped. */
import { existsSync } from 'node:fs';
import { uptime } from 'node:os';
import { join } from 'node:path';
import type { Clock } from '../common/clock.js';
import { DataLock } from '../common/data-lock.js';
import type { MeshError } from '../common/errors.js';
import { makePrivateDir, removeIfEmpty } from '../common/files.js';
import { decodeToken } from '../common/identity/token.js';
import { randomCharacters } from '../common/ids.js';
import { ServiceGroup } from '../common/lifecycle.js';
import type { Logger } from '../common/log.js';
import type { Values } from '../common/settings.js';
import { Renewal, renewOver } from '../link/renewal.js';
import { formatEndpoint, parseEndpoint } from '../link/endpoints.js';
import { detectCapabilities } from './capabilities.js';
import {
  type Enrolled,
  enrol,
  recoverInto,
  rememberCoordinators,
  rememberedCoordinators,
  type WaitingForApproval,
} from './enrolment.js';
import { makeExecutors } from './executors/index.js';
import type { SandboxOptions } from './executors/sandbox/prepare.js';
import { FileJournal, prepareOutbox } from './output/file-journal.js';
import { type AgentParts, assembleAgent } from './session/assemble.js';
import { LoadMeter } from './session/load.js';
import { NetworkDialer } from './session/network-dialer.js';
import type { agentSettings } from './settings.js';
import { StagingCache } from './staging/cache.js';

export type AgentConfig = Values<typeof agentSettings> & { dataDir: string };

export interface Registration {
  name: string;
  id: string;
  coordinator: string;
}

export interface Surroundings {
  clock: Clock;
  log: Logger;
  random: () => number;
  signal: AbortSignal;
  /** At the first registration and after every reconnect. */
  onRegistered: (registration: Registration) => void;
  onFatal: (error: MeshError) => void;
  onWaiting: (waiting: WaitingForApproval) => void;
}

export interface RunningAgent {
  /** Takes no more work, lets what runs go on for the grace, then ends it. */
  stop(): Promise<void>;
  /** Somebody is in a hurry: ends what runs now. */
  hurry(): void;
}

export async function startAgent(config: AgentConfig, surroundings: Surroundings): Promise<RunningAgent> {
  const { clock, log } = surroundings;
  if (config.join) decodeToken(config.join);
  const isNew = !existsSync(config.dataDir);
  makePrivateDir(config.dataDir);
  const lock = new DataLock(join(config.dataDir, 'agent.lock'), 'an agent');
  lock.acquire();
  const group = new ServiceGroup('agent');
  try {
    await group.run({ name: 'data-lock', start: async () => undefined, stop: async () => lock.release() });
    const coordinator = config.coordinator ? parseEndpoint(config.coordinator) : undefined;
    const enrolled = await enrol({
      ...{ clock, log, coordinator, signal: surroundings.signal, onWaiting: surroundings.onWaiting },
      ...{ dataDir: config.dataDir, name: config.name },
      token: config.join,
      files: { cert: config.cert, key: config.key, ca: config.ca },
      discover: config.mdns,
    });
    return await run(config, surroundings, { enrolled, coordinator, group });
  } catch (error) {
    await group.stop().catch((stopping: unknown) => log.error({ event: 'stop.failed', err: stopping }));
    if (isNew) removeIfEmpty(config.dataDir);
    throw error;
  }
}

async function run(
  config: AgentConfig,
  surroundings: Surroundings,
  ready: { enrolled: Enrolled; coordinator: ReturnType<typeof parseEndpoint> | undefined; group: ServiceGroup },
): Promise<RunningAgent> {
  const { clock, log, random, onRegistered, onFatal } = surroundings;
  const { enrolled, coordinator, group } = ready;
  const { identity, store } = enrolled;
  let { credential } = enrolled;
  const { dataDir } = config;
  const bootId = randomCharacters(16);
  const cache = new StagingCache({ directory: join(dataDir, 'cache'), limitBytes: config.cacheBytes });
  await cache.start();
  const { executors, tiers, secretFiles } = await makeExecutors(group, {
    ...{ dataDir, bootId, cache, clock, log, slots: config.slots, userName: config.taskUser },
    graceMs: config.killGrace,
    sandbox: sandboxOptions(config),
    nodeName: () => identity.name,
    bulk: () => parts.connection.bulk(),
  });
  const capabilities = await detectCapabilities({
    ...{ slots: config.slots, labels: Object.fromEntries(config.label) },
    ...{ sandboxes: tiers.names, limits: tiers.limits, secretFiles },
  });
  const room = {
    slots: config.slots,
    cpuMillis: Math.max(capabilities.cpus, config.slots) * 1000,
    memoryBytes: capabilities.memoryBytes,
    gpus: capabilities.gpus.length,
    custom: capabilities.custom,
  };
  const spoolDir = prepareOutbox(join(dataDir, 'outbox'));
  const discover = config.mdns && coordinator === undefined;
  const dialer = new NetworkDialer({
    ...{ meshId: identity.meshId, credential: () => credential, discover, clock, log },
    recover: async (addresses, signal) => {
      credential = await recoverInto(store, credential, { addresses, discover, clock, log, signal });
      renewal.adopt(credential);
    },
  });
  const journal = new FileJournal({ directory: spoolDir, fsync: config.outboxFsync, clock, log });
  const bootMs = bootTime(clock);
  const parts: AgentParts = assembleAgent(
    { clock, bootMs, random, executors, dialer, journal, load: new LoadMeter(), log },
    {
      ...{ bootId, capabilities, room, spoolDir, coordinator, onFatal, keepForMs: config.keepFor },
      onRenewalWanted: (generation) => renewal.wanted(generation),
      remembered: rememberedCoordinators(dataDir),
      remember: (addresses) => rememberCoordinators(dataDir, addresses),
      onRegistered: ({ name, nodeId }, endpoint) =>
        onRegistered({ name, id: nodeId, coordinator: formatEndpoint(endpoint) }),
    },
  );
  const { work, connection } = parts;
  const renewal = new Renewal({
    ...{ clock, log, credential, random, spreadMs: RENEWAL_SPREAD_MS },
    issue: renewOver(() => connection.authority(), clock),
    onRenewed: (renewed) => {
      credential = renewed;
      store.save(renewed);
      connection.renewed();
    },
  });
  for (const service of parts.services) await group.run(service);
  await group.run(renewal);
  return {
    hurry: () => work.kill('shutdown'),
    stop: async () => {
      work.refuse();
      connection.beatNow();
      const grace = clock.after(config.stopGrace, () => work.kill('shutdown'));
      await work.idle();
      grace.cancel();
      // That nothing runs any more makes the end of the session a goodbye.
      connection.beatNow();
      await group.stop();
    },
  };
}

/** Of a thousand agents that start together with certificates past their time some twenty a second renew. */
const RENEWAL_SPREAD_MS = 60_000;

const sandboxOptions = (config: AgentConfig): SandboxOptions => ({
  setting: config.sandbox,
  readable: config.sandboxRo,
  memoryDiskBytes: config.sandboxTmp,
  bounds: {
    memoryBytes: config.maxMemory,
    processes: config.maxProcesses,
    openFiles: config.maxOpenFiles,
    fileSizeBytes: config.maxFileSize,
    cpuTimeMs: 0,
  },
});

/** Looking costs more than a message does, and nobody sends between falling asleep and waking up. */
const BOOT_TIME_EVERY_MS = 5;

/** Milliseconds since the machine was started, sleep included; looked up anew every few milliseconds. */
function bootTime(clock: Clock): () => number {
  let readMs = Number.NEGATIVE_INFINITY;
  let bootMs = 0;
  return () => {
    const nowMs = clock.monotonicMs();
    if (nowMs - readMs < BOOT_TIME_EVERY_MS) return bootMs + nowMs - readMs;
    readMs = nowMs;
    bootMs = uptime() * 1000;
    return bootMs;
  };
}
