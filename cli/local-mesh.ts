/**
 * A mesh on one machine, as child processes: the coordinator first, then agents that find it over mDNS and join with a
 * token. An agent that dies is started again, with backoff; when the coordinator dies the mesh has failed. Stopping goes
 * the other way round: agents first, so that what they still have to say reaches the coordinator.
 */
import { createPublicKey } from 'node:crypto';
import { existsSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { systemClock, pause } from '../common/clock.js';
import { MeshError, toMeshError } from '../common/errors.js';
import { makePrivateDir } from '../common/files.js';
import { backoffMs } from '../common/retry.js';
import { CredentialStore } from '../link/credential-store.js';
import { connect } from '../sdk/connect.js';
import { ManagedProcess } from './managed-process.js';

export type LocalMeshEvent =
  | { event: 'coordinator.ready'; address: string; meshId: string; afterMs: number }
  | { event: 'agent.ready'; name: string; afterMs: number }
  | { event: 'agent.exited'; name: string; reason: string; restartInMs: number };

export interface LocalMeshOptions {
  /** Holds `coordinator/`, `agent/`, `agent-2/` and so on, and `log/`. */
  dataDir: string;
  agents: number;
  /** 0 picks a free one. Absent: 7443, or a free one when that is taken. */
  port?: number | undefined;
  /** Other machines wait for approval; the agents of this mesh do not. */
  approveNodes?: boolean | undefined;
  /** The name of agent `number`, from 1. */
  agentName: (number: number) => string;
  /** How many tasks an agent runs at a time; absent: its CPU count. */
  slots?: number | undefined;
  environment: NodeJS.ProcessEnv;
  /** Stops what has started when it aborts before everything is up; later it does nothing. */
  signal?: AbortSignal | undefined;
  onEvent?: (event: LocalMeshEvent) => void;
}

export interface LocalMesh {
  meshId: string;
  /** `host:port` */
  address: string;
  adminProfile: string;
  logDir: string;
  /** Resolves, with the reason, if the coordinator ends before `stop`. */
  failure: Promise<MeshError>;
  /** Stops everything; when it is called again what still runs is told to stop at once. */
  stop(): Promise<void>;
}

const READY_MS = 60_000;
const RESTART = { baseMs: 500, capMs: 15_000 };
/** An agent that ran this long has earned a restart without backoff. */
const HEALTHY_MS = 60_000;
const TOKEN_TTL_MS = 10 * 60_000;
const DEFAULT_PORT = 7443;
const APPROVE_EVERY_MS = 1000;

/**
 * @throws MeshError PROCESS_FAILED with the last errors of the log when a process does not become ready, INTERRUPTED when
 * the signal came first; nothing runs any more then
 */
export async function startLocalMesh(options: LocalMeshOptions): Promise<LocalMesh> {
  const mesh = new RunningMesh(options);
  const interrupt = () => void mesh.stop();
  options.signal?.addEventListener('abort', interrupt, { once: true });
  try {
    return await mesh.start();
  } catch (error) {
    await mesh.stop();
    if (options.signal?.aborted)
      throw new MeshError('INTERRUPTED', 'interrupted', { hint: 'everything is stopped', cause: error });
    throw error;
  } finally {
    options.signal?.removeEventListener('abort', interrupt);
  }
}

class RunningMesh {
  readonly #options: LocalMeshOptions;
  readonly #logDir: string;
  #coordinator: ManagedProcess | undefined;
  readonly #agents = new Map<number, ManagedProcess>();
  readonly #supervisors: Promise<void>[] = [];
  readonly #stopping = new AbortController();
  #stopped: Promise<void> | undefined;

  constructor(options: LocalMeshOptions) {
    this.#options = options;
    this.#logDir = join(options.dataDir, 'log');
  }

  async start(): Promise<LocalMesh> {
    makePrivateDir(this.#options.dataDir);
    const port = this.#options.port ?? ((await isFree(DEFAULT_PORT)) ? DEFAULT_PORT : 0);
    const coordinator = this.#startCoordinator(port);
    const ready = await coordinator.ready(READY_MS);
    this.#options.signal?.throwIfAborted();
    const { meshId, address, adminProfile } = ready as { meshId: string; address: string; adminProfile: string };
    this.#emit({ event: 'coordinator.ready', address, meshId, afterMs: Math.round(coordinator.ageMs) });
    await this.#startAgents(adminProfile);
    const failure = coordinator.exited.then((how) => coordinator.failure(how));
    return { meshId, address, adminProfile, logDir: this.#logDir, failure, stop: () => this.stop() };
  }

  #startCoordinator(port: number): ManagedProcess {
    const data = join(this.#options.dataDir, 'coordinator');
    const readyFile = join(this.#logDir, 'coordinator.ready');
    this.#coordinator = new ManagedProcess({
      title: 'coordinator',
      program: 'coordinator',
      flags: [
        ...['--data', data, '--port', String(port), '--ready-file', readyFile],
        ...(this.#options.approveNodes ? ['--approve-nodes'] : []),
      ],
      environment: this.#options.environment,
      logFile: join(this.#logDir, 'coordinator.log'),
      readyFile,
    });
    return this.#coordinator;
  }

  async #startAgents(adminProfile: string): Promise<void> {
    const numbers = Array.from({ length: this.#options.agents }, (_, i) => i + 1);
    const strangers = numbers.filter((number) => !existsSync(join(this.#agentDir(number), 'agent.crt')));
    const token = strangers.length > 0 ? await createToken(adminProfile, strangers.length, this.#options) : undefined;
    const ready = new AbortController();
    const approving = approveOwn(
      adminProfile,
      strangers.map((number) => this.#agentDir(number)),
      this.#options,
      ready.signal,
      // Whoever is not let in is not ready in time, and that is said.
    ).catch(() => undefined);
    try {
      await Promise.all(
        numbers.map(async (number) => {
          const agent = this.#startAgent(number, token);
          await this.#agentReady(agent);
          this.#supervisors.push(this.#supervise(number, agent));
        }),
      );
    } finally {
      ready.abort();
      await approving;
    }
  }

  #agentDir(number: number): string {
    return join(this.#options.dataDir, number === 1 ? 'agent' : `agent-${number}`);
  }

  #startAgent(number: number, token: string | undefined): ManagedProcess {
    this.#stopping.signal.throwIfAborted();
    const { agentName, slots, environment } = this.#options;
    const name = agentName(number);
    const readyFile = join(this.#logDir, `agent-${number}.ready`);
    const agent = new ManagedProcess({
      title: `agent ${name}`,
      program: 'agent',
      flags: [
        ...['--data', this.#agentDir(number), '--name', name, '--ready-file', readyFile],
        ...(slots === undefined ? [] : ['--slots', String(slots)]),
      ],
      // In the environment, because everybody on the machine can read a command line.
      environment: { ...environment, MESH_JOIN: token },
      logFile: join(this.#logDir, `agent-${number}.log`),
      readyFile,
    });
    this.#agents.set(number, agent);
    return agent;
  }

  async #agentReady(agent: ManagedProcess): Promise<void> {
    const { name } = (await agent.ready(READY_MS)) as { name: string };
    this.#emit({ event: 'agent.ready', name, afterMs: Math.round(agent.ageMs) });
  }

  /** Starts an agent again whenever it ends, until the mesh stops. */
  async #supervise(number: number, first: ManagedProcess): Promise<void> {
    const { signal } = this.#stopping;
    let agent = first;
    for (let failures = 1; ; failures++) {
      const how = await agent.exited;
      if (signal.aborted) return;
      if (agent.ageMs > HEALTHY_MS) failures = 1;
      const restartInMs = backoffMs(RESTART, failures, Math.random());
      const reason = agent.failure(how).message;
      this.#emit({ event: 'agent.exited', name: this.#options.agentName(number), reason, restartInMs });
      await pause(systemClock, restartInMs, signal);
      if (signal.aborted) return;
      agent = this.#startAgent(number, undefined);
      // When it ends before it is ready, the next turn sees that too.
      await this.#agentReady(agent).catch(() => agent.signal('SIGTERM'));
    }
  }

  stop(): Promise<void> {
    if (this.#stopped) {
      for (const child of [...this.#agents.values(), this.#coordinator]) child?.signal('SIGTERM');
      return this.#stopped;
    }
    this.#stopping.abort();
    this.#stopped = this.#stopAll();
    return this.#stopped;
  }

  async #stopAll(): Promise<void> {
    await Promise.all([...this.#agents.values()].map((agent) => agent.stop()));
    await Promise.all(this.#supervisors);
    await this.#coordinator?.stop();
  }

  #emit(event: LocalMeshEvent): void {
    this.#options.onEvent?.(event);
  }
}

/**
 * Lets the agents of this very mesh in where new ones have to be approved: whoever waits with a key that was made in one
 * of their data directories. Agents that need no approval are there before it looks for the first time.
 */
async function approveOwn(
  profile: string,
  directories: readonly string[],
  options: LocalMeshOptions,
  signal: AbortSignal,
): Promise<void> {
  if (directories.length === 0) return;
  const keys = new Set(directories.map((directory) => publicKeyIn(directory)));
  await pause(systemClock, APPROVE_EVERY_MS, signal);
  if (signal.aborted) return;
  const connection = await connect({ profile, environment: options.environment });
  try {
    for (; !signal.aborted; await pause(systemClock, APPROVE_EVERY_MS, signal)) {
      const { items } = await connection.nodes.listWaiting({});
      for (const { name, publicKey } of items)
        if (keys.has(publicKey.toString('hex'))) await connection.nodes.approveNode({ name, publicKey });
    }
  } finally {
    await connection.close();
  }
}

/** The key that the agent of a data directory is going to join with. */
function publicKeyIn(directory: string): string {
  const key = new CredentialStore(directory, 'agent').keyForJoining();
  return createPublicKey(key).export({ type: 'spki', format: 'der' }).toString('hex');
}

async function createToken(profile: string, uses: number, options: LocalMeshOptions): Promise<string> {
  const connection = await connect({ profile, environment: options.environment });
  try {
    const request = { role: 'agent', name: '', ttlMs: TOKEN_TTL_MS, uses, replace: false };
    return (await connection.mesh.createToken(request)).secret;
  } catch (error) {
    const { code, message, hint } = toMeshError(error);
    throw new MeshError(code, `no join token for the local agents: ${message}`, { hint, cause: error });
  } finally {
    await connection.close();
  }
}

/** Whether a listener on every interface could have the port now. */
function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(false));
    server.listen({ port, exclusive: true }, () => server.close(() => resolve(true)));
  });
}
