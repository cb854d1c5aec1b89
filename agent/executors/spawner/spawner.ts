/**
 * A small program beside the agent that starts processes for it (spawner.c): forking the agent copies the tables of all
 * its memory and stops everything else it does meanwhile. Where the program is not there, or does not run, the agent
 * starts them itself, slower and otherwise the same.
 *
 * When it dies, the kernel ends what it started; those attempts end as the node's fault, and the next start brings a new one.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import type { Socket } from 'node:net';
import { systemCode } from '../../../common/errors.js';
import type { Service } from '../../../common/lifecycle.js';
import type { Logger } from '../../../common/log.js';
import { NodeFault } from '../../core/types.js';
import { type Child, startHere, type StartPlan } from '../child.js';
import { type Hearer, SpawnedChild } from './child.js';
import {
  type ChainPlan,
  commandFrame,
  DROP,
  FrameReader,
  type LinkPlan,
  type Report,
  startFrame,
  startFrames,
} from './frames.js';

/** What it can be given before the process runs: the largest pipe of an ordinary user, less a page. */
const WORDS_MAX = 1 << 19;
const MAX_UINT32 = 0xffffffff;
/** It would not run a fourth time either. */
const FAILURES_MAX = 3;

interface Running {
  process: ChildProcess;
  children: Map<number, Hearer>;
  /** Frames of this turn, sent together at its end. */
  waiting: Buffer[];
  /** Whether it ever reported anything. */
  works: boolean;
}

/** A command of a chain. */
export interface Link {
  /** For one that runs and is to be followed. Call it once; what it hears is what the hearer passes on. */
  child(): SpawnedChild;
  /** It is not to begin. Hears `dropped`, or, when it has begun, its pid. */
  drop(): void;
}

export class Spawner implements Service {
  readonly name = 'spawner';
  readonly #program: string | undefined;
  readonly #log: Logger;
  #running: Running | undefined;
  #ids = 0;
  #chains = 0;
  #failures = 0;
  #stopped = false;

  /** @param program undefined where none was built */
  constructor(program: string | undefined, log: Logger) {
    this.#program = program;
    this.#log = log;
  }

  async start(): Promise<void> {
    if (this.#program === undefined) this.#log.info({ event: 'spawner.none' }, 'the agent starts processes itself');
    else await this.#run();
  }

  /** Its processes end with it. */
  async stop(): Promise<void> {
    this.#stopped = true;
    const process = this.#running?.process;
    if (!process || process.exitCode !== null || process.signalCode !== null) return;
    const gone = new Promise<void>((resolve) => process.once('exit', () => resolve()));
    process.stdin?.destroy();
    process.kill('SIGKILL');
    await gone;
  }

  /** Its process; undefined while there is none. */
  get pid(): number | undefined {
    return this.#running?.process.pid;
  }

  /** Whether processes are started by it. */
  get available(): boolean {
    return this.#program !== undefined && !this.#stopped && this.#failures < FAILURES_MAX;
  }

  /** Starts it here if the spawner cannot. @throws what `spawn` throws */
  readonly starter = (plan: StartPlan): Child => {
    if (!this.available || plan.linked === true || Buffer.byteLength(plan.words ?? '') > WORDS_MAX)
      return startHere(plan);
    const id = (this.#ids = (this.#ids + 1) >>> 0);
    const frame = startFrame(id, plan);
    if (!this.#running) void this.#run();
    const running = this.#running;
    if (!running) return startHere(plan);
    const child = new SpawnedChild(id, (command) => this.#send(running, command));
    running.children.set(id, child);
    this.#send(running, frame);
    return child;
  };

  /**
   * Has commands run one after the other. Undefined where that cannot be done; then nothing of it was.
   * @throws what `spawn` throws
   */
  chain(common: ChainPlan, plans: readonly LinkPlan[], hearers: readonly Hearer[]): Link[] | undefined {
    if (!this.available) return undefined;
    const first = this.#ids + 1;
    const idOf = (position: number) => (first + position) >>> 0;
    // Zero stands for none.
    this.#chains = (this.#chains % MAX_UINT32) + 1;
    const frameOf = startFrames(common);
    const frames = plans.map((plan, position) => frameOf(idOf(position), plan, this.#chains));
    this.#ids = idOf(plans.length - 1);
    if (!this.#running) void this.#run();
    const running = this.#running;
    if (!running) return undefined;
    const send = (frame: Buffer) => this.#send(running, frame);
    return frames.map((frame, position) => {
      const id = idOf(position);
      running.children.set(id, hearers[position] as Hearer);
      send(frame);
      return { child: () => new SpawnedChild(id, send), drop: () => send(commandFrame(DROP, id)) };
    });
  }

  #send(running: Running, frame: Buffer): void {
    if (running.waiting.push(frame) > 1) return;
    process.nextTick(() => {
      const frames = running.waiting;
      running.waiting = [];
      const stdin = running.process.stdin as Socket;
      if (!stdin.destroyed) stdin.write(frames.length === 1 ? (frames[0] as Buffer) : Buffer.concat(frames));
    });
  }

  /** Resolves when it runs or could not be started. */
  #run(): Promise<void> {
    return new Promise((resolve) => {
      const failed = (error: unknown) => {
        this.#ended(false, systemCode(error) ?? String(error));
        resolve();
      };
      let started: ChildProcess;
      try {
        started = spawn(this.#program as string, [String(process.pid)], {
          cwd: '/',
          env: {},
          stdio: ['pipe', 'pipe', 'ignore'],
          detached: true,
        });
      } catch (error) {
        return failed(error);
      }
      // Some errors are thrown, some are told later; then it has no number, and perhaps no streams.
      if (started.pid === undefined) return void started.once('error', failed);
      started.on('error', () => undefined);
      started.once('spawn', () => resolve());
      this.#attend(started);
    });
  }

  #attend(started: ChildProcess): void {
    const running: Running = { process: started, children: new Map(), waiting: [], works: false };
    this.#running = running;
    const reader = new FrameReader();
    const take = (report: Report) => {
      if (running.children.get(report.id)?.take(report)) running.children.delete(report.id);
    };
    started.stdin?.on('error', () => undefined);
    started.stdout?.on('error', () => undefined);
    started.stdout?.on('data', (data: Buffer) => {
      running.works = true;
      reader.read(data, take);
    });
    started.once('close', (code, signal) => this.#gone(running, signal ?? `exit code ${code}`));
  }

  #gone(running: Running, how: string): void {
    if (this.#running === running) this.#running = undefined;
    this.#ended(running.works, how);
    const children = [...running.children.values()];
    running.children.clear();
    for (const child of children) child.lost(new NodeFault(`what had started the process has ended (${how})`));
  }

  #ended(worked: boolean, how: string): void {
    if (!worked) this.#failures++;
    if (!this.#stopped) this.#log.error({ event: 'spawner.ended', how }, 'what starts processes has ended');
  }
}
