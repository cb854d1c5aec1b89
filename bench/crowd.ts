/** The bench's side of its crowds: child processes that hold many agents each (agent-crowd.ts). */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { packageRoot } from '../common/package.js';
import type { CrowdAnswer, CrowdOrder, CrowdSetup } from './agent-crowd.js';

type Order = CrowdOrder extends infer Each ? (Each extends CrowdOrder ? Omit<Each, 'id'> : never) : never;

class CrowdProcess {
  readonly #child: ChildProcess;
  readonly #open = new Map<number, { resolve: (answer: CrowdAnswer) => void; reject: (error: Error) => void }>();
  #last = 0;

  constructor() {
    this.#child = fork(join(packageRoot, 'bench', 'agent-crowd.ts'), { execArgv: ['--import=tsx'] });
    this.#child.on('message', (answer: CrowdAnswer) => {
      const open = this.#open.get(answer.id);
      this.#open.delete(answer.id);
      if (answer.error === undefined) open?.resolve(answer);
      else this.#fail(new Error(`a crowd of agents: ${answer.error}`));
    });
    this.#child.once('exit', () => this.#fail(new Error('a crowd of agents has ended')));
  }

  get pid(): number {
    return this.#child.pid as number;
  }

  ask(order: Order): Promise<CrowdAnswer> {
    if (!this.#child.connected) return Promise.reject(new Error('a crowd of agents has ended'));
    const id = ++this.#last;
    return new Promise((resolve, reject) => {
      this.#open.set(id, { resolve, reject });
      this.#child.send({ ...order, id });
    });
  }

  async end(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = once(this.#child, 'exit');
    this.#child.disconnect();
    await ended;
  }

  #fail(error: Error): void {
    for (const { reject } of this.#open.values()) reject(error);
    this.#open.clear();
  }
}

/** Agents `crowd-0001` and so on, spread evenly over a few processes. */
export class Crowds {
  readonly #processes: CrowdProcess[];

  private constructor(processes: CrowdProcess[]) {
    this.#processes = processes;
  }

  /** @param processes how many processes the agents share */
  static async start(processes: number, agents: number, setup: Omit<CrowdSetup, 'names' | 'logFile'>): Promise<Crowds> {
    const names = Array.from({ length: agents }, (_, index) => `crowd-${String(index + 1).padStart(4, '0')}`);
    const crowds = new Crowds(Array.from({ length: processes }, () => new CrowdProcess()));
    await crowds.#each((index) => ({
      kind: 'set-up',
      setup: {
        ...setup,
        logFile: join(setup.directory, `crowd-${index + 1}.log`),
        names: names.filter((_, position) => position % processes === index),
      },
    }));
    return crowds;
  }

  get pids(): number[] {
    return this.#processes.map(({ pid }) => pid);
  }

  async enrol(token: string, atATime: number): Promise<void> {
    await this.#each(() => ({ kind: 'enrol', token, atATime: Math.ceil(atATime / this.#processes.length) }));
  }

  /** So many in all; resolves when all are registered. */
  async run(count: number): Promise<void> {
    const { length } = this.#processes;
    await this.#each((index) => ({ kind: 'run', count: Math.floor((count + length - 1 - index) / length) }));
  }

  /** Resolves when all that run have registered anew. */
  async registeredAgain(): Promise<void> {
    await this.#each(() => ({ kind: 'registered-again' }));
  }

  /** Since the last call, in milliseconds, from the send of a heartbeat to its answer. */
  async latenciesMs(): Promise<number[]> {
    return (await this.#each(() => ({ kind: 'latencies' }))).flatMap(({ latenciesMs }) => latenciesMs ?? []);
  }

  async stop(): Promise<void> {
    try {
      await this.#each(() => ({ kind: 'stop' }));
    } finally {
      await Promise.all(this.#processes.map((process) => process.end()));
    }
  }

  #each(order: (index: number) => Order): Promise<CrowdAnswer[]> {
    return Promise.all(this.#processes.map((process, index) => process.ask(order(index))));
  }
}
