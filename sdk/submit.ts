/**
 * Submission: the specification first, then the items in bounded batches, so that a job of a million items needs no more
 * memory here than one of a thousand. The number of items is part of the specification; who streams them knows it. When
 * the coordinator cannot take it now, or its answer is lost, all of it is sent again with the same key.
 */
import { MeshError } from '../common/errors.js';
import {
  type FunctionWork,
  type Limits,
  OnDisconnect,
  type ProcessWork,
  type Resources,
  Sandbox,
  type SecretUse,
  TaskInput,
} from '../proto/gen/mesh/v1/common.js';
import { type Job, type JobSpec, OnFailure, type SubmitJobRequest } from '../proto/gen/mesh/v1/mesh.js';
import { type SubmitCalls, submitTogether } from './gather.js';
import { persist, type PersistOptions, SUBMIT_PATIENCE_MS } from './persist.js';
import { DEFAULT_BACKOFF_MS, DEFAULT_RETRIES, TASKS_MAX } from './limits.js';

/** The most items, and the most bytes of items, in one message. */
export const BATCH_ITEMS = 1000;
export const BATCH_BYTES = 1024 * 1024;

export type Work = { $case: 'process'; value: ProcessWork } | { $case: 'function'; value: FunctionWork };
export type Items = Iterable<TaskInput> | AsyncIterable<TaskInput>;

export interface Submission {
  spec: JobSpec;
  idempotencyKey: string;
  /** Given as a function, it is called for each try; otherwise what can be read only once is sent only once. */
  items?: Items | (() => Items);
}

export interface SpecOptions {
  name: string;
  work: Work;
  /** 1 to TASKS_MAX. With items: exactly their number. */
  taskCount: number;
  array?: { start: number; step: number };
  resources?: Partial<Resources>;
  where?: string;
  priority?: number;
  retries?: number;
  backoffMs?: number;
  timeoutMs?: number;
  onFailure?: Exclude<OnFailure, OnFailure.UNSPECIFIED>;
  onDisconnect?: Exclude<OnDisconnect, OnDisconnect.UNSPECIFIED>;
  speculate?: boolean;
  /** The strongest tier of each node when left out. */
  sandbox?: Sandbox;
  /** Let it use the network in the bubblewrap tier. */
  net?: boolean;
  limits?: Partial<Limits>;
  secrets?: SecretUse[];
}

/** A complete specification. @throws MeshError BAD_SPEC */
export function makeSpec(options: SpecOptions): JobSpec {
  if (!Number.isInteger(options.taskCount) || options.taskCount < 1 || options.taskCount > TASKS_MAX)
    throw new MeshError('BAD_SPEC', `a job of ${options.taskCount} tasks is not possible`, {
      hint: `a job has 1 to ${TASKS_MAX} tasks; split it`,
    });
  return {
    name: options.name,
    work: options.work,
    taskCount: options.taskCount,
    array: options.array,
    resources: { cpuMillis: 0, memoryBytes: 0, gpus: 0, custom: {}, ...options.resources },
    where: options.where ?? '',
    priority: options.priority ?? 0,
    retries: options.retries ?? DEFAULT_RETRIES,
    backoffMs: options.backoffMs ?? DEFAULT_BACKOFF_MS,
    timeoutMs: options.timeoutMs ?? 0,
    onFailure: options.onFailure ?? OnFailure.FINISH,
    onDisconnect: options.onDisconnect ?? OnDisconnect.KEEP,
    speculate: options.speculate ?? false,
    sandbox: options.sandbox ?? Sandbox.UNSPECIFIED,
    net: options.net ?? false,
    limits: options.limits && { processes: 0, fileSizeBytes: 0, openFiles: 0, cpuTimeMs: 0, ...options.limits },
    secrets: options.secrets ?? [],
  };
}

/**
 * Submits and returns the job. The same key with the same specification and items returns the same job. An error that
 * passes by itself (persist.ts) is waited out, for a minute unless `patienceMs` says otherwise.
 * @throws MeshError BAD_SPEC when the items are not as many as the specification says, or one is too large
 */
export async function submitJob(
  mesh: SubmitCalls,
  submission: Submission,
  options: Partial<PersistOptions> = {},
): Promise<Job> {
  const { items } = submission;
  const open = typeof items === 'function' ? items : () => items;
  const patienceMs = isReadableAgain(items) ? (options.patienceMs ?? SUBMIT_PATIENCE_MS) : 0;
  const { signal } = options;
  const { spec, idempotencyKey } = submission;
  const attempt = async (): Promise<Job> => {
    if (items === undefined) return submitTogether(mesh, { spec, idempotencyKey }, signal);
    const { job } = await mesh.submitJob(submitMessages(submission, open() ?? []), signal ? { signal } : {});
    if (!job) throw new MeshError('INTERNAL', 'the coordinator answered a submission without a job');
    return job;
  };
  return persist(attempt, { ...options, patienceMs });
}

/** A generator is its own iterator: what it gave is gone. */
function isReadableAgain(items: Submission['items']): boolean {
  return items === undefined || typeof items === 'function' || !('next' in items);
}

async function* submitMessages({ spec, idempotencyKey }: Submission, items: Items): AsyncGenerator<SubmitJobRequest> {
  yield { body: { $case: 'start', value: { spec, idempotencyKey } } };
  let batch: TaskInput[] = [];
  let bytes = 0;
  let count = 0;
  for await (const item of items) {
    const size = itemBytes(item);
    if (size > BATCH_BYTES)
      throw new MeshError('BAD_SPEC', `item ${count} has more than ${BATCH_BYTES} bytes`, {
        hint: 'ship it as a file',
      });
    if (batch.length === BATCH_ITEMS || (batch.length > 0 && bytes + size > BATCH_BYTES)) {
      yield { body: { $case: 'items', value: { items: batch } } };
      batch = [];
      bytes = 0;
    }
    batch.push(item);
    bytes += size;
    count++;
  }
  if (count !== spec.taskCount)
    throw new MeshError('BAD_SPEC', `the list changed while it was read: ${spec.taskCount} items became ${count}`);
  if (batch.length > 0) yield { body: { $case: 'items', value: { items: batch } } };
}

/** At least the encoded size: what UTF-8 needs, and a little for each field. */
export function itemBytes(item: TaskInput): number {
  let bytes = Buffer.byteLength(item.value) + 16;
  for (const file of item.files) bytes += Buffer.byteLength(file.path) + 96;
  return bytes;
}
