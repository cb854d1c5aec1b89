/** An agent in the simulator: the real ledger, outbox, work and sessions; the wire and the tasks are simulated. */
import type { Executor } from '../../agent/core/types.js';
import type { Journal } from '../../agent/output/journal.js';
import { assembleAgent } from '../../agent/session/assemble.js';
import { refsOf } from '../../agent/session/results.js';
import type { AgentCalls, Dialer } from '../../agent/session/dialer.js';
import { MeshError } from '../../common/errors.js';
import type { Logger } from '../../common/log.js';
import { type FinishedBatch, SessionRequest, SessionResponse } from '../../proto/gen/mesh/v1/agent.js';
import { Capabilities } from '../../proto/gen/mesh/v1/common.js';
import { parseEndpoint } from '../../link/endpoints.js';
import { MemoryJournal } from '../support/memory-journal.js';
import { callers, type SimCoordinator } from './coordinator.js';
import type { TaskHost } from './executor.js';
import { type Machine, Process } from './machine.js';
import type { Network } from './network.js';
import type { Recorder } from './recorder.js';
import { openStream, type Tap } from './stream.js';

interface Breakable {
  readonly over: boolean;
  breakOff: (tell: { client: boolean; server: boolean }) => void;
}

export interface SimAgentOptions {
  machine: Machine;
  network: Network;
  host: TaskHost;
  slots: number;
  coordinators: () => SimCoordinator[];
  recorder: Recorder;
  log: Logger;
  tap: (agent: string) => Tap<SessionRequest, SessionResponse>;
  /** Mutations: its lease never ends; what it keeps of results dies with its process. */
  fenceless: boolean;
  forgetful: boolean;
}

class WitnessedJournal extends MemoryJournal {
  constructor(
    private readonly node: string,
    private readonly recorder: Recorder,
  ) {
    super();
  }

  override async append(batch: FinishedBatch): Promise<number | undefined> {
    const segment = await super.append(batch);
    for (const result of segment === undefined ? [] : [...batch.items, ...batch.runs])
      for (const ref of refsOf(result)) this.recorder.kept(ref, this.node);
    return segment;
  }
}

export class SimAgent {
  readonly name: string;
  process: Process;
  #boots = 0;
  /** Survives the process, as a disk does. */
  #journal: Journal;
  readonly #connections = new Map<Breakable, SimCoordinator>();

  constructor(readonly options: SimAgentOptions) {
    this.name = options.machine.name;
    this.#journal = new WitnessedJournal(this.name, options.recorder);
    this.process = new Process(options.machine, this.name);
    this.process.kill();
  }

  start(): void {
    const { machine, host, recorder, slots, log } = this.options;
    this.process = new Process(machine, this.name);
    const { clock } = this.process;
    host.sweep();
    recorder.add({ kind: 'node-started', atMs: recorder.atMs, node: this.name, slots });
    const executors = new Map<string, Executor>(
      (['process', 'function'] as const).map((name) => [name, host.executor(name, this.process)]),
    );
    if (this.options.forgetful) this.#journal = new WitnessedJournal(this.name, recorder);
    const parts = assembleAgent(
      {
        ...{ clock, bootMs: () => machine.bootMs(), random: () => machine.world.random.next(), executors },
        ...{ dialer: this.#dialer(this.process), journal: this.#journal, log },
        load: { measure: () => 0, memoryFreeBytes: () => 2 ** 33 },
      },
      {
        bootId: `${this.name}-boot-${++this.#boots}`,
        capabilities: Capabilities.fromPartial({
          ...{ cpus: slots, memoryBytes: 2 ** 33, slots, os: 'linux', arch: 'x64' },
          executors: ['process', 'function'],
        }),
        room: { slots, cpuMillis: slots * 1000, memoryBytes: 2 ** 33, gpus: 0, custom: {} },
        ...{ spoolDir: '/nowhere', keepForMs: 3_600_000, coordinator: undefined, remembered: [] },
        remember: () => undefined,
        onRegistered: () => undefined,
        onFatal: (error) => log.warn({ err: error }, 'the agent gave up'),
      },
    );
    if (this.options.fenceless)
      Object.defineProperty(parts.lease, 'fenceAtMs', { get: () => Number.POSITIVE_INFINITY });
    void (async () => {
      for (const service of parts.services) await service.start();
    })();
  }

  /** One coordinator after the other, wherever the agent thinks they are. */
  #dialer(process: Process): Dialer {
    let at = 0;
    return {
      dial: async (_known, open, signal) => {
        const list = this.options.coordinators();
        const failures: MeshError[] = [];
        for (let tried = 0; tried < list.length && !signal.aborted; tried++) {
          const coordinator = list[at++ % list.length] as SimCoordinator;
          const agents = { session: () => this.#dial(process, coordinator) } as unknown as AgentCalls;
          try {
            return await open({
              endpoint: parseEndpoint(coordinator.address),
              agents,
              bulk: () => agents,
              authority: () => {
                throw new MeshError('UNREACHABLE', 'not simulated');
              },
              close: () => undefined,
            });
          } catch (error) {
            failures.push(error as MeshError);
          }
        }
        throw failures[0] ?? new MeshError('UNREACHABLE', 'there is no coordinator');
      },
    };
  }

  #dial(process: Process, coordinator: SimCoordinator) {
    const { network, tap } = this.options;
    const stream = openStream<SessionRequest, SessionResponse>({
      ...{ network, from: process, to: coordinator.process, request: SessionRequest, response: SessionResponse },
      tap: tap(this.name),
      accept: () => {
        const handle = coordinator.handler;
        return (
          handle &&
          ((call) => {
            callers.set(call, this.name);
            handle(call);
          })
        );
      },
    });
    for (const old of this.#connections.keys()) if (old.over) this.#connections.delete(old);
    this.#connections.set(stream, coordinator);
    return stream;
  }

  /** Every connection breaks; each side hears of it or not. */
  breakOff(tell: { client: boolean; server: boolean }): void {
    for (const connection of this.#connections.keys()) connection.breakOff(tell);
    this.#connections.clear();
  }

  /** The coordinator's process is gone; its kernel says so. */
  lost(coordinator: SimCoordinator): void {
    for (const [connection, to] of this.#connections)
      if (to === coordinator) connection.breakOff({ client: true, server: false });
  }

  /** kill -9; without power nobody on the other side hears of it. */
  kill(options: { powerCut: boolean }): void {
    const { recorder, host } = this.options;
    if (!this.process.alive) return;
    this.process.kill();
    recorder.add({ kind: 'node-killed', atMs: recorder.atMs, node: this.name });
    if (options.powerCut) host.sweep();
    else host.agentDied();
    this.breakOff({ client: false, server: !options.powerCut });
  }
}
