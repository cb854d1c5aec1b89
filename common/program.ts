import { Command, CommanderError } from 'commander';
import { ERRORS, isDiskFull, MeshError, systemCode, toMeshError } from './errors.js';
import { packageVersion } from './package.js';

/** A command with the manners all of ours share: errors thrown instead of exits, help with examples. */
export function makeProgram(name: string, description: string, examples: string[]): Command {
  const program = new Command(name);
  program.description(description).version(packageVersion).showHelpAfterError(false).enablePositionalOptions();
  return withExamples(program, examples);
}

export function withExamples(command: Command, examples: string[]): Command {
  if (examples.length > 0)
    command.addHelpText('after', `\nExamples:\n${examples.map((line) => `  ${line}\n`).join('')}`);
  return command;
}

/** Makes commander throw, in this command and all below it. */
function throwInsteadOfExit(command: Command): void {
  command.exitOverride();
  command.configureOutput({ outputError: () => undefined });
  for (const child of command.commands) throwInsteadOfExit(child);
}

/** Commander says «error: unknown option '--x'»; we say it as all other errors are said. */
function fromCommander(error: CommanderError): MeshError {
  if (error.code === 'commander.help') return new MeshError('USAGE', 'a command is missing');
  const [first = 'wrong usage', ...rest] = error.message.replace(/^error: /, '').split('\n');
  return new MeshError('USAGE', asClause(first), rest[0] ? { hint: asClause(rest[0].replace(/[()]/g, '')) } : {});
}

/** Commander's sentences as parts of ours, which go on after a semicolon. */
const asClause = (text: string): string =>
  text
    .replace(/\.$/, '')
    .replace(/\. (Expected|Allowed)/, (_, word: string) => `: ${word.toLowerCase()}`)
    .replace(/^Did you/, 'did you');

/** No defects: what the file system refuses, wherever it is met. */
const REFUSALS: readonly string[] = ['EACCES', 'EPERM', 'EROFS', 'ENOTDIR'];

function fromFileSystem(error: unknown): MeshError | undefined {
  const code = systemCode(error) ?? '';
  const full = isDiskFull(error);
  const path = (error as { path?: unknown } | null)?.path;
  if (error instanceof MeshError || !(full || REFUSALS.includes(code)) || typeof path !== 'string') return undefined;
  const hint = full ? {} : { hint: 'see who owns it, or name another place' };
  return new MeshError(full ? 'DISK_FULL' : 'DATA_DIR', `cannot use ${path} (${code})`, { ...hint, cause: error });
}

/** One line: what and why, then what to do. Under `--json` one JSON document. Both on standard error. */
export function reportError(name: string, error: unknown, json: boolean): number {
  const known = fromFileSystem(error) ?? toMeshError(error);
  const text = json
    ? JSON.stringify({ error: { code: known.code, message: known.message, hint: known.hint } })
    : `${name}: ${oneLine(known.message)}; ${oneLine(known.hint)}`;
  process.stderr.write(`${text}\n`);
  if (known.code === 'INTERNAL' && process.env.MESH_DEBUG) process.stderr.write(`${toMeshError(error).stack ?? ''}\n`);
  return ERRORS[known.code].exit;
}

/** What others wrote may be part of it, and must not command the terminal. */
const oneLine = (text: string): string =>
  text
    .replace(/\s+/g, ' ')
    .replace(/[\p{Cc}\u202a-\u202e\u2066-\u2069]/gu, '')
    .trim();

/** What is printed and cannot be written. */
export function outputLost(error: Error): MeshError {
  const code = systemCode(error) ?? error.message;
  const full = isDiskFull(error);
  return new MeshError(full ? 'DISK_FULL' : 'USAGE', `the output cannot be written (${code})`, {
    ...(full ? {} : { hint: 'send it somewhere else' }),
    cause: error,
  });
}

/** Nobody reads what goes wrong; the exit code still says it. */
const ignore = (): void => undefined;

/**
 * A reader of the output who has gone wants no more of it, and ends the program in peace. What cannot be written for
 * another reason fails it, at its end: `mesh up` goes on with a full disk under its log.
 * @returns what was lost, if anything was
 */
function watchOutput(): () => MeshError | undefined {
  let lost: MeshError | undefined;
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(0);
    lost ??= outputLost(error);
  });
  if (!process.stderr.listeners('error').includes(ignore)) process.stderr.on('error', ignore);
  return () => lost;
}

/** Parses, runs, reports; sets the exit code and never throws. */
export async function runProgram(program: Command, argv: readonly string[] = process.argv): Promise<void> {
  throwInsteadOfExit(program);
  const lost = watchOutput();
  const separator = argv.indexOf('--');
  const json = argv.slice(0, separator < 0 ? undefined : separator).includes('--json');
  try {
    await program.parseAsync([...argv]);
  } catch (error) {
    const shown = error instanceof CommanderError && error.exitCode === 0;
    if (!shown)
      process.exitCode = reportError(
        program.name(),
        error instanceof CommanderError ? fromCommander(error) : error,
        json,
      );
  }
  // What failed to be written is known a turn later.
  await new Promise((done) => setImmediate(done));
  const output = lost();
  if (output && !process.exitCode) process.exitCode = reportError(program.name(), output, json);
}

/**
 * For commands that end: runs, lets what was printed out, and exits. A connection that was tried and lost to a quicker
 * one may still be dialling an address where nobody answers; nothing waits for that.
 */
export async function runToExit(program: Command): Promise<never> {
  await runProgram(program);
  await Promise.all([process.stdout, process.stderr].map((out) => new Promise((done) => out.write('', done))));
  process.exit();
}
