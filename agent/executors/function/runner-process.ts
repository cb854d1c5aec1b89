import type { ChildProcess } from 'node:child_process';
import { createInterface } from 'node:readline';
import type { Duplex, Readable } from 'node:stream';
import { type Mask, MaskStream } from '../../core/mask.js';
import { type ChildHere, startHere } from '../child.js';
import { COOKIE_VARIABLE, TASK_PATH } from '../environment.js';
import { killTree, type StrayWatch } from '../strays.js';
import type { Command, Contained, Exit, Tier } from '../sandbox/tier.js';
import type { BatchMessage, FromRunner, ToRunner } from './protocol.js';

const COMPLAINT_CHARS = 2000;

export interface RunnerProcessOptions {
  /** The Node to run it with. */
  node: string;
  program: string;
  tier: Tier;
  user: Command['user'];
  net: boolean;
  bounds: Command['bounds'];
  gpus: readonly number[];
  /** What it can see and, as far as it belongs to the task's user, write to; its scratch space lies in it. */
  directory: string;
  scratch: string;
  readable: readonly string[];
  strays: StrayWatch;
  slots: number;
  /** Of the secrets that its functions are given. */
  mask?: Mask | undefined;
}

/** Why a runner ended. */
export interface RunnerExit {
  /** False when it died before it could take work. */
  wasReady: boolean;
  /** Batches that were in it. */
  batches: number;
  /** One line, such as "killed by SIGKILL". */
  how: string;
}

export interface BatchHandler {
  message(message: FromRunner): void;
  /** Nothing more comes: the runner is gone. */
  lost(exit: RunnerExit): void;
}

let runners = 0;

/** A runner as a child of the agent. Ends when `stop` is called or when it dies; it is never restarted, only replaced. */
export class RunnerProcess {
  readonly #options: RunnerProcessOptions;
  readonly #contained: Contained<ChildHere>;
  readonly #cookie: string;
  readonly #handlers = new Map<number, BatchHandler>();
  readonly #gone: Promise<void>;
  #complaint = '';
  #ready = false;
  #alive = true;

  constructor(options: RunnerProcessOptions) {
    this.#options = options;
    this.#cookie = options.strays.issue(`runner.${++runners}`);
    this.#contained = this.#start();
    this.#gone = new Promise((resolve) => {
      // 'close' comes after the last line was read; a child that could not be started has only 'error'.
      this.#child.once('close', (code, signal) => void this.#ended(code, signal).then(resolve));
      this.#child.once('error', (error) => {
        this.#complaint = error.message;
        if (this.#child.pid === undefined) void this.#ended(null, null).then(resolve);
      });
      this.#child.once('exit', () => void this.#killRest());
    });
    if (this.#child.pid === undefined) return;
    createInterface({ input: this.#link, crlfDelay: Number.POSITIVE_INFINITY }).on('line', (line) => this.#read(line));
    this.#link.on('error', () => undefined);
    (this.#child.stdout as Readable).resume();
    // Masked before it is cut to what is kept: a secret that is cut is not found.
    const masked = options.mask && new MaskStream(options.mask);
    const stderr = this.#child.stderr as Readable;
    const complain = (data: Buffer) => {
      this.#complaint = (this.#complaint + data.toString()).slice(-COMPLAINT_CHARS);
    };
    stderr.on('data', (data: Buffer) => {
      const own = this.#contained.complaint?.pass(data) ?? data;
      complain(masked?.write(own) ?? own);
    });
    if (masked) stderr.once('end', () => complain(masked.end()));
  }

  get alive(): boolean {
    return this.#alive;
  }

  get #child(): ChildProcess {
    return this.#contained.child.process;
  }

  get #link(): Duplex {
    return this.#child.stdio[3] as Duplex;
  }

  run(message: BatchMessage, handler: BatchHandler): void {
    this.#handlers.set(message.id, handler);
    this.send(message);
  }

  send(message: ToRunner): void {
    if (this.#alive) this.#link.write(`${JSON.stringify(message)}\n`);
  }

  /** Kills it and everything it started. */
  async stop(): Promise<void> {
    await this.#killRest();
    await this.#gone;
  }

  #start(): Contained<ChildHere> {
    const { node, program, tier, user, slots, scratch, directory, readable, net, bounds, gpus } = this.#options;
    const environment = {
      PATH: TASK_PATH,
      LANG: 'C.UTF-8',
      HOME: scratch,
      TMPDIR: scratch,
      [COOKIE_VARIABLE]: this.#cookie,
    };
    // Without a sandbox it drops its rights itself: its user need not be able to reach this Node.
    const isolated = tier.name === 'bubblewrap';
    const { uid, gid } = (isolated ? undefined : user) ?? {};
    const options = { slots, uid, gid, scratch, environment };
    const command: Command = {
      ...{ argv: [node, program, JSON.stringify(options)], environment, cookie: this.#cookie },
      ...{ directory, startsIn: scratch, readable, net, bounds, gpus, linked: true },
      user: isolated ? user : undefined,
    };
    return tier.start(command, startHere);
  }

  #read(line: string): void {
    let message: FromRunner;
    try {
      message = JSON.parse(line) as FromRunner;
    } catch {
      // Only a function that writes to the runner's descriptors can cause it.
      void this.#killRest();
      return;
    }
    if (message.kind === 'ready') {
      this.#ready = true;
      return;
    }
    const handler = this.#handlers.get(message.id);
    if (message.kind === 'over') this.#handlers.delete(message.id);
    handler?.message(message);
  }

  async #killRest(): Promise<void> {
    this.#contained.kill();
    if (this.#child.pid !== undefined) await killTree(this.#contained.child, this.#cookie, new Map());
  }

  async #ended(code: number | null, signal: NodeJS.Signals | null): Promise<void> {
    if (!this.#alive) return;
    this.#alive = false;
    this.#options.strays.retire(this.#cookie);
    const handlers = [...this.#handlers.values()];
    this.#handlers.clear();
    const how = await this.#howEnded({ exitCode: code ?? undefined, signal: signal ?? undefined });
    const exit: RunnerExit = { wasReady: this.#ready, batches: handlers.length, how };
    for (const handler of handlers) handler.lost(exit);
  }

  async #howEnded(exit: Exit): Promise<string> {
    if (this.#child.pid === undefined) return `it could not be started${complaintLine(this.#complaint)}`;
    try {
      const { exitCode, signal } = await this.#contained.verdict(exit);
      return `${signal ? `killed by ${signal}` : `exit code ${exitCode}`}${complaintLine(this.#complaint)}`;
    } catch (error) {
      return error instanceof Error ? error.message : String(error);
    }
  }
}

/** The line of standard error that says most. */
function complaintLine(text: string): string {
  const lines = text.split('\n').filter((line) => line.trim() !== '');
  const line = lines.find((candidate) => /error|fatal/i.test(candidate)) ?? lines[0];
  return line ? `: ${line.trim().slice(0, 300)}` : '';
}
