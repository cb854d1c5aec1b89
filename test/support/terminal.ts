/**
 * A command on a pseudo-terminal, with somebody before it: what is shown, and what is typed. `script` makes the terminal;
 * where its own input ends it types Ctrl-D, as a person does.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { withEnvironment } from './program.js';
import { type SignalSource, until, withLimit } from './until.js';

const quoted = (word: string): string => `'${word.replaceAll("'", String.raw`'\''`)}'`;

export class Terminal implements SignalSource {
  /** Everything that was shown, what the terminal echoed included. */
  shown = '';
  /** The command's exit code. */
  readonly ended: Promise<number>;
  #read = 0;
  readonly #child: ChildProcess;
  readonly #listeners = new Set<() => void>();

  constructor(command: readonly string[], options: { cwd: string; env: NodeJS.ProcessEnv }) {
    const { cwd, env } = options;
    const script = ['script', '-qec', command.map(quoted).join(' '), '/dev/null'];
    const child = spawn(...withEnvironment(env, script), { cwd, stdio: ['pipe', 'pipe', 'inherit'] });
    this.#child = child;
    child.stdin.on('error', () => undefined);
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      this.shown += text;
      this.#changed();
    });
    const ended = new Promise<number>((resolve, reject) => {
      child.once('error', reject);
      child.once('close', (code) => resolve(code ?? -1));
    });
    this.ended = withLimit(`"${command.join(' ')}" to end`, ended).finally(() => child.kill('SIGKILL'));
    this.ended.then(
      () => this.#changed(),
      () => undefined,
    );
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Resolves when this is shown, after what was waited for before. */
  async shows(text: string): Promise<void> {
    const from = await until(
      `the terminal to show "${text}"`,
      () => {
        const at = this.shown.indexOf(text, this.#read);
        return at < 0 ? undefined : at + text.length;
      },
      this,
    );
    this.#read = from;
  }

  type(text: string): void {
    this.#child.stdin?.write(text);
  }

  /** Nothing more is typed. */
  end(): void {
    this.#child.stdin?.end();
  }

  #changed(): void {
    for (const listener of this.#listeners) listener();
  }
}
