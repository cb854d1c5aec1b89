import { posix } from 'node:path';
import { MeshError } from '../../common/errors.js';
import { type AttemptSpec, arrayIndexOf } from '../core/types.js';

/** The same everywhere; a job that needs another says so with `--env PATH=…`. */
export const TASK_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
/** Names whose process it is; how escaped processes are found. */
export const COOKIE_VARIABLE = 'MESH_ATTEMPT_COOKIE';

interface Place {
  node: string;
  directory: string;
  gpus: readonly number[];
  cookie: string;
}

/**
 * What is executed for an attempt, where, and what it finds there.
 * @throws MeshError BAD_SPEC when the job has no command
 */
export function plainCommand(
  attempt: AttemptSpec,
  { secrets, ...place }: Place & { secrets?: Readonly<Record<string, string>> | undefined },
): { argv: string[]; environment: Record<string, string>; directory: string } {
  const { work } = attempt.body;
  if (work?.$case !== 'process') throw new MeshError('BAD_SPEC', 'the job has no command');
  const argv = fillArguments(work.value.argv, attempt);
  if (!argv[0]) throw new MeshError('BAD_SPEC', 'the command is empty');
  const environment = taskEnvironment(attempt, { ...work.value.environment, ...secrets }, place);
  return { argv, environment, directory: place.directory };
}

/**
 * Everything a task finds in its environment, and nothing else: the agent's own is never passed on. What the job gives
 * may replace PATH and LANG, not the rest.
 */
export function taskEnvironment(
  attempt: AttemptSpec,
  given: Readonly<Record<string, string>>,
  place: Place,
): Record<string, string> {
  return {
    PATH: TASK_PATH,
    LANG: 'C.UTF-8',
    ...given,
    ...(attempt.body.resources?.gpus
      ? { CUDA_DEVICE_ORDER: 'PCI_BUS_ID', CUDA_VISIBLE_DEVICES: place.gpus.join(',') }
      : {}),
    HOME: place.directory,
    TMPDIR: place.directory,
    MESH_JOB_ID: attempt.body.jobId,
    MESH_TASK_INDEX: String(attempt.index),
    MESH_INDEX: String(arrayIndexOf(attempt)),
    MESH_ATTEMPT: String(attempt.attempt),
    MESH_GENERATION: String(attempt.generation),
    MESH_NODE: place.node,
    MESH_TASK_COUNT: String(attempt.body.taskCount),
    [COOKIE_VARIABLE]: place.cookie,
  };
}

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
