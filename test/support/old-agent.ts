/**
 * An agent of the first protocol version: it knows no more than what version 1 said, over the same mutual TLS. It joins
 * with a token, runs commands as plain child processes, and sends nothing that version 1 did not have.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import type { ClientDuplexStream } from '@grpc/grpc-js';
import { systemClock, type Timer } from '../../common/clock.js';
import { silentLogger } from '../../common/log.js';
import { enrol } from '../../agent/enrolment.js';
import { channelCredentials, channelOptions } from '../../link/credentials.js';
import { grpcTarget, parseEndpoint } from '../../link/endpoints.js';
import {
  AgentServiceClient,
  type Assign,
  type AssignGroup,
  type Finished,
  type JobBody,
  Outcome,
  type SessionRequest,
  type SessionResponse,
  type TaskRefs,
  type Welcome,
} from '../../proto/gen/mesh/v1/agent.js';
import type { SignalSource } from './until.js';

const SLOTS = 2;
const none = (): TaskRefs => ({ jobs: [], indexes: [], generations: [] });

export interface OldAgentOptions {
  name: string;
  dataDir: string;
  token: string;
  coordinator: string;
}

export class OldAgent implements SignalSource {
  /** Set when it is registered. */
  welcome: Welcome | undefined;
  /** Why the coordinator refused it, or ended the session. */
  problem: Error | undefined;
  /** Job ids of the bodies it was sent. */
  readonly jobs = new Set<string>();
  readonly #bodies = new Map<number, JobBody>();
  readonly #running = new Set<ChildProcess>();
  readonly #client: AgentServiceClient;
  readonly #stream: ClientDuplexStream<SessionRequest, SessionResponse>;
  readonly #listeners = new Set<() => void>();
  #sequence = 0;
  #heartbeat: Timer | undefined;

  private constructor(client: AgentServiceClient) {
    this.#client = client;
    this.#stream = client.session();
    this.#stream.on('data', (message: SessionResponse) => this.#receive(message));
    this.#stream.on('error', (error) => {
      this.problem ??= error;
      this.#changed();
    });
    this.#send({
      $case: 'hello',
      value: {
        protocol: { min: 1, max: 1 },
        bootId: randomBytes(8).toString('hex'),
        version: '0.0.1',
        capabilities: {
          ...{ cpus: SLOTS, memoryBytes: 2 ** 30, gpus: [], os: 'linux', arch: 'x64', labels: {} },
          ...{ executors: ['process'], sandbox: 'process', slots: SLOTS, custom: {}, sandboxes: [], limits: [] },
          ...{ executors: ['process'], sandbox: 'process', slots: SLOTS, custom: {}, secretFiles: false },
        },
        ...{ prefilled: none(), running: none(), unacknowledged: none() },
        ...{ epoch: 0, runningAgeMs: [] },
      },
    });
  }

  static async start({ name, dataDir, token, coordinator }: OldAgentOptions): Promise<OldAgent> {
    const endpoint = parseEndpoint(coordinator);
    const { credential, identity } = await enrol({
      ...{ dataDir, token, name, coordinator: endpoint, discover: false, clock: systemClock, log: silentLogger },
      files: { cert: undefined, key: undefined, ca: undefined },
      signal: new AbortController().signal,
      onWaiting: () => undefined,
    });
    const trusted = channelCredentials(credential, identity.meshId);
    return new OldAgent(new AgentServiceClient(grpcTarget(endpoint), trusted, channelOptions));
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  stop(): void {
    this.#heartbeat?.cancel();
    for (const child of this.#running) child.kill('SIGKILL');
    this.#stream.cancel();
    this.#client.close();
  }

  #send(body: NonNullable<SessionRequest['body']>): void {
    this.#stream.write({ body });
  }

  #changed(): void {
    for (const listener of this.#listeners) listener();
  }

  #receive({ body }: SessionResponse): void {
    if (body?.$case === 'welcome') {
      this.welcome = body.value;
      this.#beat(body.value.heartbeatMs);
    } else if (body?.$case === 'assign') {
      this.#assign(body.value);
    } else if (body?.$case === 'retract') {
      this.#send({ $case: 'retracted', value: { dropped: none(), kept: body.value } });
    }
    this.#changed();
  }

  #beat(everyMs: number): void {
    this.#send({
      $case: 'heartbeat',
      value: {
        ...{ sequence: ++this.#sequence, load: 0, running: this.#running.size, queued: 0, memoryFreeBytes: 2 ** 29 },
        ...{ echoUs: 0, echoHeldUs: 0, stopping: false },
      },
    });
    this.#heartbeat = systemClock.after(everyMs, () => this.#beat(everyMs));
  }

  #assign({ bodies, groups }: Assign): void {
    for (const body of bodies) {
      this.#bodies.set(body.job, body);
      this.jobs.add(body.jobId);
    }
    for (const group of groups) for (let i = 0; i < group.indexes.length; i++) this.#run(group, i);
  }

  #run(group: AssignGroup, i: number): void {
    const body = this.#bodies.get(group.job);
    if (body?.work?.$case !== 'process') throw new Error('version 1 assigns commands with their body');
    const [command = '', ...args] = body.work.value.argv;
    const startedMs = performance.now();
    const env = { PATH: process.env.PATH, MESH_INDEX: String(group.indexes[i]) };
    const child = spawn(command, args, { env, stdio: ['ignore', 'pipe', 'inherit'] });
    this.#running.add(child);
    const printed: Buffer[] = [];
    child.stdout.on('data', (bytes: Buffer) => printed.push(bytes));
    child.on('close', (code) => {
      this.#running.delete(child);
      const data = Buffer.concat(printed);
      const finished: Finished = {
        ...{ job: group.job, index: group.indexes[i] as number, generation: group.generations[i] as number },
        outcome: code === 0 ? Outcome.SUCCEEDED : Outcome.FAILED,
        ...{ exitCode: code ?? undefined, signal: '', error: code === 0 ? '' : `exited with code ${code}` },
        ...{ runUs: Math.round((performance.now() - startedMs) * 1000), ageMs: 0, peakMemoryBytes: undefined },
        resultJson: '',
        output: { chunks: [{ stream: 1, offset: 0, atMs: 0, data }], totalBytes: data.length },
      };
      this.#send({ $case: 'finished', value: { items: [finished], runs: [] } });
    });
  }
}
