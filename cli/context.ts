/** What the commands share: their options, the connection, interruption, and writing one JSON document. */
import { Command, Option, type OptionValues } from 'commander';
import { MeshError } from '../common/errors.js';
import { reportError, withExamples } from '../common/program.js';
import type { MeshConnection } from '../sdk/connect.js';
import { jsonLine } from './render/terminal.js';

export interface GlobalOptions {
  json?: boolean;
  profile?: string;
}

const JSON_HELP = 'print JSON for programs, and nothing else on standard output';
const PROFILE_HELP = 'the folder that says which mesh, and as whom [MESH_PROFILE]';

export function addGlobalOptions(command: Command): Command {
  return command.option('--json', JSON_HELP).option('--profile <path>', PROFILE_HELP);
}

/** A command with the options every command has. */
export function makeCommand(name: string, description: string, examples: string[]): Command {
  const command = addGlobalOptions(new Command(name).description(description));
  return withExamples(command, examples);
}

/** The options of a command, those given before its name included. */
export const optionsOf = <T extends OptionValues>(command: Command): T & GlobalOptions =>
  command.optsWithGlobals<T & GlobalOptions>();

/** Ctrl-C ends the command with exit code 130, the second time without asking anything else. */
export function exitOnInterrupt(json: boolean, hint?: string): void {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.once(signal, () => {
      process.once(signal, () => process.exit(130));
      if (process.stderr.isTTY) process.stderr.write('\u001b[?25h\n');
      process.exit(reportError('mesh', new MeshError('INTERRUPTED', 'interrupted', hint ? { hint } : {}), json));
    });
  }
}

/** Connects with the profile of the options. gRPC is loaded here and not before. */
export async function openConnection(options: GlobalOptions): Promise<MeshConnection> {
  const { connect } = await import('../sdk/connect.js');
  return connect({ profile: options.profile, environment: process.env });
}

/** Connects, runs, and closes whatever happens. */
export async function withConnection<T>(
  options: GlobalOptions,
  run: (connection: MeshConnection) => Promise<T>,
): Promise<T> {
  const connection = await openConnection(options);
  try {
    return await run(connection);
  } finally {
    await connection.close();
  }
}

/** `text` is made only when it is what was asked for. */
export function print(options: GlobalOptions, value: unknown, text: () => string): void {
  process.stdout.write(options.json ? jsonLine(value) : text());
}

/** What a response must carry; the protocol cannot say so itself. */
export function present<T>(value: T | undefined, what: string): T {
  if (value === undefined) throw new MeshError('INTERNAL', `the coordinator answered without ${what}`);
  return value;
}

/** A list option: each use adds one. */
export const collect = (text: string, all: string[] = []): string[] => [...all, text];

/**
 * An option whose value is parsed, with errors that name the flag.
 * @param fallback the value without the flag, and how help shows it
 */
export function parsedOption<T>(
  flags: string,
  description: string,
  parse: (text: string) => T,
  fallback?: { value: T; shown: string },
): Option {
  const flag = flags.split(' ')[0];
  const option = new Option(flags, description).argParser((text) => {
    try {
      return parse(text);
    } catch (error) {
      if (!(error instanceof MeshError)) throw error;
      throw new MeshError(error.code, `${flag}: ${error.message}`, { hint: error.hint, cause: error });
    }
  });
  return fallback ? option.default(fallback.value, fallback.shown) : option;
}
