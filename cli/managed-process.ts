/**
 * One of our own programs as a child: its output goes straight to a log file, it is ready when it has written its ready
 * file, and it leads a process group of its own, so that Ctrl-C reaches it only through us and in the right order.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, existsSync, type FSWatcher, openSync, readFileSync, rmSync, watch } from 'node:fs';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Clock, systemClock } from '../common/clock.js';
import { MeshError } from '../common/errors.js';
import { makePrivateDir } from '../common/files.js';
import { formatDuration } from '../common/units.js';
import { lastErrorLines } from './process-log.js';

export interface ProcessOptions {
  /** What people call it: "coordinator", "agent node-2". */
  title: string;
  program: 'coordinator' | 'agent';
  flags: string[];
  environment: NodeJS.ProcessEnv;
  logFile: string;
  readyFile: string;
}

/** How long a signal may take before the next, harder one. */
export const TERMINATE_MS = 15_000;
const KILL_MS = 5000;
/** Where the file system tells nobody about changes, this is how late we notice. */
const LOOK_MS = 1000;

/** The program beside this one, whether this runs from `dist` or from the sources. */
function commandLine(program: ProcessOptions['program']): string[] {
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js';
  const flags = process.execArgv.filter((flag) => !/^--(watch|inspect|test)/.test(flag));
  return [...flags, fileURLToPath(new URL(`../${program}/main.${extension}`, import.meta.url))];
}

export class ManagedProcess {
  readonly title: string;
  /** Resolves when the process has ended; says how, in words. */
  readonly exited: Promise<string>;
  readonly #options: ProcessOptions;
  readonly #child: ChildProcess;
  readonly #startedMs: number;
  readonly #clock: Clock;
  #running = true;

  constructor(options: ProcessOptions, clock: Clock = systemClock) {
    this.title = options.title;
    this.#options = options;
    this.#clock = clock;
    this.#startedMs = clock.monotonicMs();
    makePrivateDir(dirname(options.logFile));
    makePrivateDir(dirname(options.readyFile));
    rmSync(options.readyFile, { force: true });
    const log = openSync(options.logFile, 'a', 0o600);
    try {
      this.#child = spawn(process.execPath, [...commandLine(options.program), ...options.flags], {
        stdio: ['ignore', log, log],
        env: options.environment,
        detached: true,
        windowsHide: true,
      });
    } finally {
      closeSync(log);
    }
    const killLast = () => this.#child.kill('SIGTERM');
    process.once('exit', killLast);
    this.exited = new Promise((resolve) => {
      const ended = (how: string) => {
        this.#running = false;
        process.removeListener('exit', killLast);
        resolve(how);
      };
      this.#child.once('error', (error) => ended(`could not be started (${error.message})`));
      this.#child.once('exit', (code, signal) => ended(signal ? `was ended by ${signal}` : `exited with code ${code}`));
    });
  }

  get running(): boolean {
    return this.#running;
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** Milliseconds since it was started. */
  get ageMs(): number {
    return this.#clock.monotonicMs() - this.#startedMs;
  }

  /** One line: how it ended and the last errors of its log. */
  failure(how: string): MeshError {
    const errors = lastErrorLines(this.#options.logFile);
    const why = errors.length > 0 ? `: ${errors.join(' | ')}` : '';
    return new MeshError('PROCESS_FAILED', `the ${this.title} ${how}${why}`, { hint: `see ${this.#options.logFile}` });
  }

  /**
   * What it wrote into its ready file.
   * @throws MeshError PROCESS_FAILED when it ends before, or takes longer than `timeoutMs`
   */
  async ready(timeoutMs: number): Promise<Record<string, unknown>> {
    const { readyFile } = this.#options;
    let watcher: FSWatcher | undefined;
    let look: NodeJS.Timeout | undefined;
    let late: NodeJS.Timeout | undefined;
    try {
      const written = new Promise<void>((resolve) => {
        const check = () => existsSync(readyFile) && resolve();
        try {
          watcher = watch(dirname(readyFile), check);
          watcher.on('error', () => undefined);
        } catch {
          // Out of watches: looking now and then has to do.
        }
        look = setInterval(check, LOOK_MS);
        check();
      });
      const ended = this.exited.then((how) => {
        throw this.failure(how);
      });
      const tooLate = new Promise<never>((_resolve, reject) => {
        late = setTimeout(() => reject(this.failure(`was not ready after ${formatDuration(timeoutMs)}`)), timeoutMs);
      });
      await Promise.race([written, ended, tooLate]);
      return JSON.parse(readFileSync(readyFile, 'utf8')) as Record<string, unknown>;
    } finally {
      watcher?.close();
      clearInterval(look);
      clearTimeout(late);
    }
  }

  signal(name: NodeJS.Signals): void {
    if (this.#running) this.#child.kill(name);
  }

  /** Asks, insists (a second SIGTERM means "now"), then kills. Resolves when it has ended. */
  async stop(): Promise<void> {
    for (const [signal, graceMs] of [
      ['SIGTERM', TERMINATE_MS],
      ['SIGTERM', KILL_MS],
      ['SIGKILL', KILL_MS],
    ] as const) {
      if (!this.#running) return;
      this.signal(signal);
      await this.#endsWithin(graceMs);
    }
  }

  async #endsWithin(ms: number): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, ms);
    });
    await Promise.race([this.exited, late]);
    clearTimeout(timer);
  }
}
