import { existsSync, readFileSync } from 'node:fs';
import { type Command, Option } from 'commander';
import { parse as parseToml } from 'smol-toml';
import { MeshError, systemCode } from './errors.js';

/**
 * One setting, wherever it is written: a flag, `MESH_<NAME>` in the environment, or a key of the TOML file. The first of
 * these that gives a value wins; then the fallback. `--print-config` shows the value and where it came from.
 */
export interface Setting<T> {
  /** As commander writes it: `--port <number>`, `--no-mdns`, `--label <k=v...>`. */
  flag: string;
  /** What it means, with its unit; and what to mind in production, if anything. */
  describe: string;
  /** From the text of a flag, a variable or a TOML value; of one element, for a list. Throws MeshError. */
  parse: (text: string) => T extends readonly (infer E)[] ? E : T;
  fallback: T;
  /** Given many times, collected into a list. In the environment: separated by commas. */
  list?: boolean;
  /** `--print-config` says that it is set, not to what. */
  secret?: boolean;
}

export type SettingTable = Record<string, Setting<unknown>>;
export type Values<S extends SettingTable> = { [K in keyof S]: S[K] extends Setting<infer T> ? T : never };
export type Source = 'flag' | 'environment' | 'config file' | 'default';

export const setting = <T>(value: Setting<T>): Setting<T> => value;

/** An empty variable in a script is no database, no file, and not the current folder. */
export const asText = (text: string): string => {
  if (text !== '') return text;
  throw new MeshError('USAGE', 'it is empty', { hint: 'give it a value, or leave it out' });
};
export const asFlag = (text: string): boolean => {
  if (text === 'true' || text === '1') return true;
  if (text === 'false' || text === '0') return false;
  throw new MeshError('USAGE', `"${text}" is neither true nor false`);
};
const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'];

/** Of each program that runs for long. */
export const logLevelSetting = setting({
  flag: '--log-level <level>',
  describe: 'trace, debug, info, warn, error or fatal',
  parse: (text: string): string => {
    if (LOG_LEVELS.includes(text)) return text;
    throw new MeshError('USAGE', `"${text}" is no level of a log`, {
      hint: `use ${LOG_LEVELS.slice(0, -1).join(', ')}`,
    });
  },
  fallback: 'info',
});

export { asInteger, asNumber } from './numbers.js';

/** `maxLogBytes` as MESH_MAX_LOG_BYTES. */
export const environmentName = (key: string): string => `MESH_${key.replace(/[A-Z]/g, (c) => `_${c}`).toUpperCase()}`;
/** `maxLogBytes` as max-log-bytes, the key in the TOML file. */
const fileKey = (key: string): string => key.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`);

export function addSettings(command: Command, table: SettingTable): void {
  for (const [key, entry] of Object.entries(table)) {
    const option = new Option(entry.flag, `${entry.describe} [${environmentName(key)}]`);
    if (entry.list) option.argParser((text: string, all: string[] | undefined) => [...(all ?? []), text]);
    command.addOption(option);
  }
  command.option('--config <file>', 'a TOML file with the same settings [MESH_CONFIG]');
  command.option('--print-config', 'show every setting, its value and where it came from, then exit');
}

export interface Resolved<S extends SettingTable> {
  values: Values<S>;
  sources: Record<keyof S, Source>;
  /** What was written where a value was given, before it was parsed. */
  given: Partial<Record<keyof S, unknown>>;
}

/** @throws MeshError USAGE or BAD_CONFIG that names the flag, variable or key at fault */
export function resolveSettings<S extends SettingTable>(
  table: S,
  command: Command,
  environment: NodeJS.ProcessEnv,
): Resolved<S> {
  const file = readConfigFile(command.getOptionValue('config') ?? environment.MESH_CONFIG, table);
  const values: Record<string, unknown> = {};
  const sources: Record<string, Source> = {};
  const given: Record<string, unknown> = {};
  for (const [key, entry] of Object.entries(table)) {
    const attribute = new Option(entry.flag).attributeName();
    const variable = environment[environmentName(key)];
    const flagged = command.getOptionValueSource(attribute) === 'cli' ? command.getOptionValue(attribute) : undefined;
    const [raw, source, place]: [unknown, Source, string] =
      flagged !== undefined
        ? [flagged, 'flag', entry.flag.split(' ')[0] as string]
        : variable !== undefined && variable !== ''
          ? [entry.list ? variable.split(',') : variable, 'environment', environmentName(key)]
          : key in file
            ? [file[key], 'config file', fileKey(key)]
            : [undefined, 'default', ''];
    values[key] = raw === undefined ? entry.fallback : parseValue(entry, raw, place, source);
    sources[key] = source;
    if (raw !== undefined) given[key] = raw;
  }
  return {
    values: values as Values<S>,
    sources: sources as Record<keyof S, Source>,
    given: given as Resolved<S>['given'],
  };
}

function parseValue(entry: Setting<unknown>, raw: unknown, place: string, source: Source): unknown {
  try {
    if (entry.list) return (Array.isArray(raw) ? raw : [raw]).map((element) => entry.parse(asScalar(element)));
    return entry.parse(asScalar(raw));
  } catch (error) {
    const failure = error as MeshError;
    const code = source === 'flag' ? 'USAGE' : 'BAD_CONFIG';
    throw new MeshError(code, `${place}: ${failure.message}`, { hint: failure.hint, cause: error });
  }
}

/** TOML knows lists, tables and dates too; no setting is one. */
function asScalar(raw: unknown): string {
  if (typeof raw === 'string') return raw;
  if (typeof raw === 'number' || typeof raw === 'bigint' || typeof raw === 'boolean') return `${raw}`;
  throw new MeshError('BAD_CONFIG', 'it must be a text, a number, true or false');
}

function readConfigFile(path: string | undefined, table: SettingTable): Record<string, unknown> {
  if (!path) return {};
  if (!existsSync(path)) throw new MeshError('BAD_CONFIG', `the configuration file ${path} does not exist`);
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw new MeshError('BAD_CONFIG', `cannot read the configuration file ${path} (${systemCode(error)})`, {
      cause: error,
    });
  }
  let content: Record<string, unknown>;
  try {
    content = parseToml(text);
  } catch (error) {
    const line = (error as Error).message.split('\n')[0];
    throw new MeshError('BAD_CONFIG', `${path} is not valid TOML: ${line}`, { cause: error });
  }
  const keys = new Map(Object.keys(table).map((key) => [fileKey(key), key]));
  const found: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(content)) {
    const key = keys.get(name);
    if (!key) throw new MeshError('BAD_CONFIG', `${path} has an unknown setting "${name}"`);
    found[key] = value;
  }
  return found;
}

/** A default as one would write it: a duration, which its flag says it is, has a unit. */
const written = (entry: Setting<unknown> | undefined, value: unknown): unknown =>
  entry?.flag.endsWith(' <duration>') && typeof value === 'number' ? `${value}ms` : value;

/** The text of `--print-config`: TOML that gives the same result, with each source as a comment. */
export function printConfig<S extends SettingTable>(table: S, resolved: Resolved<S>): string {
  return Object.keys(resolved.values)
    .map((key) => {
      const value = resolved.values[key];
      const shown = table[key]?.secret
        ? '"(secret)"'
        : JSON.stringify(resolved.given[key] ?? written(table[key], value));
      const text = value === undefined ? `# ${fileKey(key)} =` : `${fileKey(key)} = ${shown}`;
      return `${text}  # ${resolved.sources[key]}\n`;
    })
    .join('');
}
