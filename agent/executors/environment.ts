import { posix } from 'node:path';
import { MeshError } from '../../common/errors.js';
import type { JobBody } from '../../proto/gen/mesh/v1/agent.js';
import { type AttemptSpec, arrayIndexOf } from '../core/types.js';

/** The same everywhere; a job that needs another says so with `--env PATH=…`. */
export const TASK_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
/** Names whose process it is; how escaped processes are found. */
export const COOKIE_VARIABLE = 'MESH_ATTEMPT_COOKIE';
/** What is different for each attempt. */
const OWN_NAMES = ['MESH_TASK_INDEX', 'MESH_INDEX', 'MESH_ATTEMPT', 'MESH_GENERATION', COOKIE_VARIABLE] as const;

interface Place {
  node: string;
  directory: string;
  gpus: readonly number[];
}

type Environment = Record<string, string>;

/**
 * What is executed for an attempt, where, and what it finds there.
 * @throws MeshError BAD_SPEC when the job has no command
 */
export function plainCommand(
  attempt: AttemptSpec,
  { secrets, cookie, ...place }: Place & { cookie: string; secrets?: Readonly<Environment> | undefined },
): { argv: string[]; environment: Environment; directory: string } {
  const argv = argumentsOf(attempt);
  const environment = { ...sharedEnvironment(attempt.body, place, secrets), ...ownEnvironment(attempt, cookie) };
  return { argv, environment, directory: place.directory };
}

/** @throws MeshError BAD_SPEC when the job has no command */
export function argumentsOf(attempt: AttemptSpec): string[] {
  const { work } = attempt.body;
  if (work?.$case !== 'process') throw new MeshError('BAD_SPEC', 'the job has no command');
  const argv = fillArguments(work.value.argv, attempt);
  if (!argv[0]) throw new MeshError('BAD_SPEC', 'the command is empty');
  return argv;
}

/**
 * Of everything a task finds in its environment, what it shares with others of its job in the same place. The agent's own
 * environment is never passed on. What the job gives may replace PATH and LANG, not the rest, here or in `ownEnvironment`.
 */
export function sharedEnvironment(
  { work, resources, jobId, taskCount }: JobBody,
  { node, directory, gpus }: Place,
  secrets: Readonly<Environment> = {},
): Environment {
  const environment: Environment = {
    PATH: TASK_PATH,
    LANG: 'C.UTF-8',
    ...(work?.$case === 'process' ? work.value.environment : {}),
    ...secrets,
    ...(resources?.gpus ? { CUDA_DEVICE_ORDER: 'PCI_BUS_ID', CUDA_VISIBLE_DEVICES: gpus.join(',') } : {}),
    HOME: directory,
    TMPDIR: directory,
    MESH_JOB_ID: jobId,
    MESH_NODE: node,
    MESH_TASK_COUNT: String(taskCount),
  };
  for (const name of OWN_NAMES) delete environment[name];
  return environment;
}

/** The rest of it. */
export const ownEnvironment = (attempt: AttemptSpec, cookie: string): Record<(typeof OWN_NAMES)[number], string> => ({
  MESH_TASK_INDEX: String(attempt.index),
  MESH_INDEX: String(arrayIndexOf(attempt)),
  MESH_ATTEMPT: String(attempt.attempt),
  MESH_GENERATION: String(attempt.generation),
  [COOKIE_VARIABLE]: cookie,
});

const PLACEHOLDER = /\{(?:|\/|\/\.|index)\}/g;

/**
 * Fills in an argument vector. `{}` is the item (its text, or its file's path), `{/}` the last part of it, `{/.}` that
 * without its extension, `{index}` the value of MESH_INDEX. Without an item the first three stay as they are, so that
 * `find -exec … {}` works; without item and array `{index}` does too. What is filled in is not looked at again.
 */
export function fillArguments(argv: readonly string[], attempt: AttemptSpec): string[] {
  const { input, body } = attempt;
  const item = input === undefined ? undefined : input.value || input.files[0]?.path;
  const given = item !== undefined || body.array !== undefined || input?.arrayIndex !== undefined;
  const index = given ? String(arrayIndexOf(attempt)) : undefined;
  const fill = (placeholder: string): string => {
    if (placeholder === '{index}') return index ?? placeholder;
    if (item === undefined) return placeholder;
    if (placeholder === '{}') return item;
    return placeholder === '{/}' ? posix.basename(item) : posix.parse(item).name;
  };
  return argv.map((argument) => argument.replace(PLACEHOLDER, fill));
}
