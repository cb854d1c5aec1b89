import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import type { Duplex, Readable } from 'node:stream';
import { COOKIE_VARIABLE, TASK_PATH } from '../environment.js';
import { killTree, type StrayWatch } from '../strays.js';
import type { WorkRoot } from '../workroot.js';
import type { BatchMessage, FromRunner, ToRunner } from './protocol.js';

const COMPLAINT_CHARS = 2000;

export interface RunnerProcessOptions {
  program: string;
  workRoot: WorkRoot;
  strays: StrayWatch;
  slots: number;
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
  readonly #child: ChildProcess;
  readonly #cookie: string;
  readonly #handlers = new Map<number, BatchHandler>();
  readonly #gone: Promise<void>;
  #complaint = '';
  #ready = false;
  #alive = true;

  constructor(options: RunnerProcessOptions) {
    this.#options = options;
    this.#cookie = options.strays.issue(`runner.${++runners}`);
    this.#child = this.#spawn();
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
    (this.#child.stderr as Readable).setEncoding('utf8').on('data', (text: string) => {
      this.#complaint = (this.#complaint + text).slice(-COMPLAINT_CHARS);
    });
  }

  get alive(): boolean {
    return this.#alive;
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

  #spawn(): ChildProcess {
    const { workRoot, program, slots } = this.#options;
    const environment = {
      PATH: TASK_PATH,
      LANG: 'C.UTF-8',
      HOME: workRoot.scratch,
      TMPDIR: workRoot.scratch,
      [COOKIE_VARIABLE]: this.#cookie,
    };
    const { uid, gid } = workRoot.user ?? {};
    const options = { slots, uid, gid, scratch: workRoot.scratch, environment };
    return spawn(process.execPath, [program, JSON.stringify(options)], {
      cwd: workRoot.scratch,
      env: environment,
      stdio: ['ignore', 'ignore', 'pipe', 'pipe'],
      detached: true,
    });
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
    if (this.#child.pid !== undefined) await killTree(this.#child.pid, this.#cookie, new Map());
  }

  async #ended(code: number | null, signal: NodeJS.Signals | null): Promise<void> {
    if (!this.#alive) return;
    this.#alive = false;
    this.#options.strays.retire(this.#cookie);
    const handlers = [...this.#handlers.values()];
    this.#handlers.clear();
    const how = `${signal ? `killed by ${signal}` : `exit code ${code}`}${complaintLine(this.#complaint)}`;
    const exit: RunnerExit = { wasReady: this.#ready, batches: handlers.length, how };
    for (const handler of handlers) handler.lost(exit);
  }
}

/** The line of standard error that says most. */
function complaintLine(text: string): string {
  const lines = text.split('\n').filter((line) => line.trim() !== '');
  const line = lines.find((candidate) => /error|fatal/i.test(candidate)) ?? lines[0];
  return line ? `: ${line.trim().slice(0, 300)}` : '';
}
