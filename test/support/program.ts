/** A program of ours as a process under test: what it logs, what it says, how it ends. */
import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';
import type { Readable } from 'node:stream';
import { type SignalSource, until, withLimit } from './until.js';

export interface LogEvent {
  event?: string;
  level?: string;
  component?: string;
  [field: string]: unknown;
}

export interface Exit {
  code: number | null;
  signal: NodeJS.Signals | null;
}

/** Starts a process: plain, or inside a network namespace. */
export type Spawner = (file: string, args: readonly string[], options: SpawnOptions) => ChildProcess;

/**
 * A command with exactly this environment. Given to `spawn`, more would come along: tap adds variables of its own to
 * every process, which load its instruments into each Node.js below.
 */
export const withEnvironment = (environment: NodeJS.ProcessEnv, command: readonly string[]): [string, string[]] => [
  'env',
  ['-i', ...Object.entries(environment).map(([name, value]) => `${name}=${value ?? ''}`), ...command],
];

const KEPT_CHARACTERS = 64 * 1024;

export class Program implements SignalSource {
  readonly events: LogEvent[] = [];
  /** What it wrote on standard error; that is where the one line of an error is. */
  stderr = '';
  exit: Exit | undefined;
  readonly ended: Promise<Exit>;
  #tail = '';
  readonly #child: ChildProcess;
  readonly #listeners = new Set<() => void>();

  constructor(
    readonly title: string,
    args: readonly string[],
    options: { env: NodeJS.ProcessEnv; cwd: string; spawner?: Spawner | undefined },
  ) {
    const { cwd, spawner = spawn } = options;
    const [file, words] = withEnvironment(options.env, [process.execPath, ...args]);
    this.#child = spawner(file, words, { cwd, stdio: ['ignore', 'pipe', 'pipe'] });
    this.#child.on('error', (error) => this.#keep(`could not be started: ${error.message}\n`));
    onLine(this.#child.stdout, (line) => this.#stdout(line));
    this.#child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.stderr = (this.stderr + text).slice(-KEPT_CHARACTERS);
      this.#keep(text);
    });
    this.ended = new Promise((resolve) => {
      this.#child.once('close', (code, signal) => {
        this.exit = { code, signal };
        resolve(this.exit);
        this.#changed();
      });
    });
  }

  get pid(): number {
    return this.#child.pid ?? -1;
  }

  get running(): boolean {
    return this.exit === undefined;
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Where the log is now, for `logged` to look at what comes after. */
  mark(): number {
    return this.events.length;
  }

  /** The first log line with this event, from `after` on; waits for it. Fails when the program ends without it. */
  logged(event: string, match: (line: LogEvent) => boolean = () => true, after = 0): Promise<LogEvent> {
    return until(
      `${this.title} to log ${event}`,
      () => {
        const found = this.events.slice(after).find((line) => line.event === event && match(line));
        if (!found && this.exit) throw new Error(`${this.title} ended ${describeExit(this.exit)} before ${event}`);
        return found;
      },
      this,
    );
  }

  signal(signal: NodeJS.Signals): void {
    if (this.running) this.#child.kill(signal);
  }

  /** SIGTERM, and how it ended. */
  async stop(): Promise<Exit> {
    this.signal('SIGTERM');
    return withLimit(`${this.title} to end after SIGTERM`, this.ended);
  }

  /** SIGKILL: nothing of its own gets to run. */
  async kill(): Promise<Exit> {
    this.signal('SIGKILL');
    return withLimit(`${this.title} to end after SIGKILL`, this.ended);
  }

  /** The end of everything it wrote, for a failed test. */
  get tail(): string {
    return this.#tail;
  }

  #stdout(line: string): void {
    this.#keep(`${line}\n`);
    try {
      this.events.push(JSON.parse(line) as LogEvent);
    } catch {
      this.events.push({ event: 'no-json', line });
    }
    this.#changed();
  }

  #keep(text: string): void {
    this.#tail = (this.#tail + text).slice(-KEPT_CHARACTERS);
  }

  #changed(): void {
    for (const listener of this.#listeners) listener();
  }
}

export const describeExit = ({ code, signal }: Exit): string => (signal ? `by ${signal}` : `with code ${code}`);

export function onLine(stream: Readable | null | undefined, listener: (line: string) => void): void {
  let rest = '';
  stream?.setEncoding('utf8').on('data', (text: string) => {
    const lines = (rest + text).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) listener(line);
  });
  stream?.on('end', () => {
    if (rest !== '') listener(rest);
  });
}
