/** A command run to its end, or watched while it runs. */
import { type ChildProcess, spawn } from 'node:child_process';
import { type SignalSource, withLimit } from './until.js';
import { describeExit, onLine, withEnvironment } from './program.js';

export interface CommandResult {
  code: number;
  stdout: string;
  stderr: string;
  /** Standard output as one JSON document. Throws, with everything that was printed, when it is none. */
  json<T>(): T;
  /** Standard output as JSON lines. */
  lines<T>(): T[];
  /** The error under `--json`. */
  error(): { code: string; message: string; hint: string };
}

export interface CommandOptions {
  cwd?: string;
  env?: NodeJS.ProcessEnv;
  /** For standard input; empty when absent. */
  input?: string;
}

/** A command that is still running: its lines arrive one by one. */
export class RunningCommand implements SignalSource {
  readonly lines: string[] = [];
  readonly #listeners = new Set<() => void>();
  #stderr = '';
  readonly child: ChildProcess;
  readonly result: Promise<CommandResult>;

  constructor(
    readonly title: string,
    file: string,
    args: readonly string[],
    options: { cwd: string; env: NodeJS.ProcessEnv; input: string },
  ) {
    const { cwd, env, input } = options;
    const child = spawn(...withEnvironment(env, [file, ...args]), { cwd, stdio: ['pipe', 'pipe', 'pipe'] });
    this.child = child;
    let stdout = '';
    child.stdout.on('data', (text: string) => (stdout += text));
    onLine(child.stdout, (line) => {
      this.lines.push(line);
      for (const listener of this.#listeners) listener();
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => (this.#stderr += text));
    child.stdin.on('error', () => undefined);
    child.stdin.end(input);
    this.result = new Promise((resolve, reject) => {
      child.once('error', reject);
      child.once('close', (code, signal) => {
        for (const listener of this.#listeners) listener();
        resolve(makeResult(title, code ?? (signal === null ? -1 : 128), stdout, this.#stderr));
      });
    });
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}

function makeResult(title: string, code: number, stdout: string, stderr: string): CommandResult {
  const parse = <T>(text: string, what: string): T => {
    try {
      return JSON.parse(text) as T;
    } catch {
      const how = describeExit({ code, signal: null });
      throw new Error(`${what} of "${title}", which ended ${how}, is no JSON:\n${stdout}\n${stderr}`);
    }
  };
  return {
    code,
    stdout,
    stderr,
    json: <T>() => parse<T>(stdout, 'standard output'),
    lines: <T>() =>
      stdout
        .split('\n')
        .filter((line) => line !== '')
        .map((line) => parse<T>(line, 'a line')),
    error: () => parse<{ error: { code: string; message: string; hint: string } }>(stderr, 'standard error').error,
  };
}

export async function runCommand(
  file: string,
  args: readonly string[],
  options: { cwd: string; env: NodeJS.ProcessEnv; input?: string | undefined },
): Promise<CommandResult> {
  const title = args.map((word) => /dist\/(\w+)\/main\.js$/.exec(word)?.[1] ?? word).join(' ');
  const command = new RunningCommand(title, file, args, { ...options, input: options.input ?? '' });
  try {
    return await withLimit(`"${title}" to end`, command.result);
  } catch (error) {
    command.child.kill('SIGKILL');
    throw error;
  }
}
