/** From the options of `mesh submit` to a job: everything that can be wrong here is said before anybody is called. */
import { randomUUID } from 'node:crypto';
import { statSync } from 'node:fs';
import { basename, resolve } from 'node:path';
import type { Readable } from 'node:stream';
import { MeshError } from '../common/errors.js';
import { OnDisconnect, Sandbox, type StagedFile, type TaskInput } from '../proto/gen/mesh/v1/common.js';
import { type Job, type JobSpec, type MeshServiceService, OnFailure } from '../proto/gen/mesh/v1/mesh.js';
import type { Api } from '../sdk/api.js';
import type { MeshConnection } from '../sdk/connect.js';
import { persist, type PersistOptions } from '../sdk/persist.js';
import { type StoredFile, uploadFiles } from '../sdk/blobs.js';
import { makeSpec, submitJob, type Work } from '../sdk/submit.js';
import type { ArrayRange } from './arguments/array.js';
import { type Each, type EachFiles, type EachLines, openEach } from './arguments/each.js';
import { parseEnvironment } from './arguments/environment.js';
import { parseSecrets } from './arguments/secrets.js';
import { Progress } from './render/progress.js';

export interface SubmitOptions {
  name?: string;
  array?: ArrayRange;
  each?: string;
  fn?: string;
  env?: string[];
  secret?: string[];
  secretFile?: string[];
  cpus?: number;
  memory?: number;
  gpus?: number;
  where?: string;
  priority: number;
  retries: number;
  backoff: number;
  timeout?: number;
  onFailure: 'finish' | 'fail-fast' | 'partial';
  onDisconnect?: 'keep' | 'stop';
  speculate?: boolean;
  sandbox?: 'bubblewrap' | 'process';
  net?: boolean;
  maxProcesses?: number;
  maxFileSize?: number;
  maxOpenFiles?: number;
  cpuTime?: number;
  idempotencyKey?: string;
  submitTimeout: number;
  wait?: boolean;
  results?: boolean;
}

export interface Prepared {
  spec: JobSpec;
  idempotencyKey: string;
  each: Each | undefined;
  /** The module of a function job, here. */
  module: string | undefined;
  close(): void;
}

export interface Surroundings {
  cwd: string;
  environment: NodeJS.ProcessEnv;
  stdin: () => Readable;
}

const ON_FAILURE = {
  finish: OnFailure.FINISH,
  'fail-fast': OnFailure.FAIL_FAST,
  partial: OnFailure.PARTIAL,
} as const;

const SANDBOX = { bubblewrap: Sandbox.BUBBLEWRAP, process: Sandbox.PROCESS } as const;
const ON_DISCONNECT = { keep: OnDisconnect.KEEP, stop: OnDisconnect.STOP } as const;

/** @throws MeshError USAGE or BAD_SPEC */
export async function prepare(
  options: SubmitOptions,
  argv: readonly string[],
  around: Surroundings,
): Promise<Prepared> {
  if (options.array && options.each !== undefined)
    throw new MeshError('USAGE', '--array and --each exclude each other', { hint: 'give one of them' });
  const { work, module } = describeWork(options, argv, around);
  const each = options.each === undefined ? undefined : await openEach(options.each, around.cwd, around.stdin);
  try {
    const spec = makeSpec({
      name: options.name ?? defaultName(work, module),
      work,
      taskCount: each?.count ?? options.array?.count ?? 1,
      ...(options.array ? { array: { start: options.array.start, step: options.array.step } } : {}),
      resources: {
        cpuMillis: Math.round((options.cpus ?? 0) * 1000),
        memoryBytes: options.memory ?? 0,
        gpus: options.gpus ?? 0,
      },
      where: options.where ?? '',
      priority: options.priority,
      retries: options.retries,
      backoffMs: options.backoff,
      timeoutMs: options.timeout ?? 0,
      onFailure: ON_FAILURE[options.onFailure],
      onDisconnect: ON_DISCONNECT[options.onDisconnect ?? 'keep'],
      speculate: options.speculate === true,
      ...(options.sandbox ? { sandbox: SANDBOX[options.sandbox] } : {}),
      net: options.net === true,
      limits: {
        processes: options.maxProcesses ?? 0,
        fileSizeBytes: options.maxFileSize ?? 0,
        openFiles: options.maxOpenFiles ?? 0,
        cpuTimeMs: options.cpuTime ?? 0,
      },
      secrets: parseSecrets(options.secret ?? [], options.secretFile ?? []),
    });
    const idempotencyKey = options.idempotencyKey ?? randomUUID();
    return { spec, idempotencyKey, each, module, close: () => each?.close() };
  } catch (error) {
    each?.close();
    throw error;
  }
}

function describeWork(
  options: SubmitOptions,
  argv: readonly string[],
  around: Surroundings,
): { work: Work; module: string | undefined } {
  const environment = parseEnvironment(options.env ?? [], around.environment);
  if (options.fn !== undefined) {
    if (argv.length > 0)
      throw new MeshError('USAGE', '--fn and a command exclude each other', { hint: 'leave one of them out' });
    const { module, exportName } = parseFunction(options.fn, around.cwd);
    return { work: { $case: 'function', value: { moduleDigest: '', exportName, environment } }, module };
  }
  if (argv.length === 0 || argv[0] === '')
    throw new MeshError('BAD_SPEC', 'the job has no command', { hint: 'write it after --: mesh submit -- COMMAND' });
  if (argv.some((argument) => argument.includes('\0')))
    throw new MeshError('BAD_SPEC', 'an argument contains a NUL byte', { hint: 'pass such data in a file' });
  return { work: { $case: 'process', value: { argv: [...argv], environment } }, module: undefined };
}

/** `MODULE[#EXPORT]`; without an export it is the default one. @throws MeshError BAD_SPEC */
export function parseFunction(text: string, cwd: string): { module: string; exportName: string } {
  const isFile = (path: string) => statSync(resolve(cwd, path), { throwIfNoEntry: false })?.isFile() ?? false;
  const at = text.lastIndexOf('#');
  const split = at > 0 && !isFile(text);
  const [path, exportName] = split ? [text.slice(0, at), text.slice(at + 1)] : [text, 'default'];
  if (!/^[\p{ID_Start}$_][\p{ID_Continue}$]*$/u.test(exportName))
    throw new MeshError('BAD_SPEC', `"${exportName}" cannot be the name of an export`, {
      hint: 'write it like module.mjs#name',
    });
  if (!isFile(path))
    throw new MeshError('BAD_SPEC', `the module ${path} is not there`, { hint: 'name one JavaScript module file' });
  return { module: resolve(cwd, path), exportName };
}

const defaultName = (work: Work, module: string | undefined): string =>
  work.$case === 'process' ? basename(work.value.argv[0] ?? '') : `${basename(module ?? '')}#${work.value.exportName}`;

export interface SendOptions {
  /** How long errors that pass by themselves are waited out; 0: not at all. */
  patienceMs: number;
  onWait: PersistOptions['onWait'];
}

/**
 * Ships what must be there first, then submits, all of it again under the same key while the mesh cannot take it. Each
 * try asks for a connection of its own: the coordinator may be another by then.
 */
export async function sendPatiently(
  connect: () => Promise<MeshConnection>,
  prepared: Prepared,
  options: SendOptions,
): Promise<{ job: Job; connection: MeshConnection }> {
  // An address where nobody is must be said at once; one where somebody was is worth waiting for.
  let first: MeshConnection | undefined = await connect();
  return persist(
    async () => {
      const connection = first ?? (await connect());
      first = undefined;
      try {
        return { job: await send(connection.mesh, prepared), connection };
      } catch (error) {
        await connection.close();
        throw error;
      }
    },
    { patienceMs: options.patienceMs, ...(options.onWait ? { onWait: options.onWait } : {}) },
  );
}

/** One try. */
export async function send(mesh: Api<typeof MeshServiceService>, prepared: Prepared): Promise<Job> {
  const { each, module, idempotencyKey } = prepared;
  const stored = await ship(mesh, prepared);
  const { work } = prepared.spec;
  const spec: JobSpec =
    work?.$case === 'function' && module !== undefined
      ? { ...prepared.spec, work: { ...work, value: { ...work.value, moduleDigest: stored.get(module)!.digest } } }
      : prepared.spec;
  const asJson = work?.$case === 'function';
  const items = each && (each.kind === 'lines' ? lineItems(each, asJson) : fileItems(each, stored, asJson));
  return submitJob(mesh, { spec, idempotencyKey, ...(items ? { items } : {}) }, { patienceMs: 0 });
}

async function ship(
  mesh: Api<typeof MeshServiceService>,
  { each, module }: Prepared,
): Promise<Map<string, StoredFile>> {
  const files = each?.kind === 'files' ? each.files.map((file) => file.source) : [];
  const all = module === undefined ? files : [module, ...files];
  if (all.length === 0) return new Map();
  const progress = await Progress.start('shipping', all.length, 'files');
  try {
    return await uploadFiles(mesh, all, (state) => progress.update(state.files));
  } finally {
    progress.stop();
  }
}

async function* lineItems(each: EachLines, asJson: boolean): AsyncGenerator<TaskInput> {
  for await (const line of each.open()) yield { value: asJson ? functionArgument(line) : line, files: [] };
}

/** A line that is JSON is the argument itself; any other line is a string. */
export function functionArgument(line: string): string {
  try {
    JSON.parse(line);
    return line.trim();
  } catch {
    return JSON.stringify(line);
  }
}

function* fileItems(each: EachFiles, stored: ReadonlyMap<string, StoredFile>, asJson: boolean): Generator<TaskInput> {
  for (const { source, path } of each.files)
    yield { value: asJson ? JSON.stringify(path) : path, files: [stageAs(path, stored.get(source)!)] };
}

export const stageAs = (path: string, stored: StoredFile): StagedFile => ({ path, ...stored });
