/**
 * A job submitted and followed to its end. What fits into one message is one call, which saves a round trip to a task
 * that takes a few milliseconds; where that call breaks off, or there is more to send, or the coordinator is older than
 * it, the same is done by calls of their own.
 */
import { MeshError } from '../common/errors.js';
import { isUnimplemented } from '../common/grpc-errors.js';
import type { TaskInput } from '../proto/gen/mesh/v1/common.js';
import type { Job, MeshServiceService, RunJobRequest, TaskResult } from '../proto/gen/mesh/v1/mesh.js';
import type { Api } from './api.js';
import type { SubmitCalls } from './gather.js';
import { persist, type PersistOptions, SUBMIT_PATIENCE_MS } from './persist.js';
import { BATCH_BYTES, BATCH_ITEMS, itemBytes, type Submission, submitJob } from './submit.js';
import { isAway, waitForJob } from './watch.js';

type RunApi = SubmitCalls & Pick<Api<typeof MeshServiceService>, 'runJob' | 'watchJob' | 'readResults'>;

/** Items as a list: they may have to be sent again. */
export interface Run extends Omit<Submission, 'items'> {
  items?: readonly TaskInput[];
}

export interface RunOptions extends Partial<Omit<PersistOptions, 'signal'>> {
  /** Hears of the job as it was committed. */
  onJob?: (job: Job) => void;
  /** Results are read only when somebody takes them: all of them, in index order, each once. */
  onResults?: (results: TaskResult[]) => void | Promise<void>;
}

/**
 * The job once it has ended, however it ended. Errors that pass by themselves are waited out as by `submitJob` and
 * `waitForJob`.
 * @throws MeshError BAD_SPEC, QUOTA and what else speaks against the job; UNREACHABLE
 */
export function runJob(mesh: RunApi, run: Run, options: RunOptions = {}): Promise<Job> {
  return new Following(mesh, run, options).end();
}

class Following {
  readonly #mesh: RunApi;
  readonly #run: Run;
  readonly #options: RunOptions;
  #job: Job | undefined;
  /** The tasks before this one were handed over. */
  #next = 0;

  constructor(mesh: RunApi, run: Run, options: RunOptions) {
    this.#mesh = mesh;
    this.#run = run;
    this.#options = options;
  }

  async end(): Promise<Job> {
    const request = toMessage(this.#run, this.#options.onResults !== undefined);
    if (!request) return this.#stepByStep();
    try {
      return await persist(() => this.#inOneCall(request), { patienceMs: SUBMIT_PATIENCE_MS, ...this.#options });
    } catch (error) {
      if (!(error instanceof BrokenOff) && !isUnimplemented(error)) throw error;
      return this.#stepByStep();
    }
  }

  async #inOneCall(request: RunJobRequest): Promise<Job> {
    const messages = this.#mesh.runJob(request)[Symbol.asyncIterator]();
    try {
      for (let message = await messages.next(); !message.done; message = await messages.next()) {
        const { job, results } = message.value;
        const isFirst = this.#job === undefined;
        if (isFirst && job) this.#begun(job);
        await this.#take(results);
        if (isFirst || !job) continue;
        // The end of the call is not waited for, nor broken off.
        void messages.next().catch(() => undefined);
        return job;
      }
    } catch (error) {
      void messages.return?.().catch(() => undefined);
      if (this.#job && isAway(error)) throw new BrokenOff(error);
      throw error;
    }
    throw new BrokenOff(undefined);
  }

  async #stepByStep(): Promise<Job> {
    this.#begun(this.#job ?? (await submitJob(this.#mesh, toSubmission(this.#run), this.#options)));
    const { id } = this.#job as Job;
    const ended = await waitForJob(this.#mesh, id);
    if (this.#options.onResults)
      for await (const { items } of this.#mesh.readResults({ job: id, follow: false })) await this.#take(items);
    return ended;
  }

  #begun(job: Job): void {
    if (!this.#job) this.#options.onJob?.(job);
    this.#job = job;
  }

  async #take(results: TaskResult[]): Promise<void> {
    const fresh = results.filter(({ index }) => index >= this.#next);
    if (fresh.length === 0) return;
    this.#next = (fresh.at(-1) as TaskResult).index + 1;
    await this.#options.onResults?.(fresh);
  }
}

/** The job is committed, and the call that followed it is over. */
class BrokenOff extends MeshError {
  constructor(cause: unknown) {
    super('INTERRUPTED', 'the call ended before the job', { cause });
  }
}

const toSubmission = ({ items, ...rest }: Run): Submission => (items ? { ...rest, items } : rest);

/** Undefined for what needs several. */
function toMessage({ spec, idempotencyKey, items = [] }: Run, results: boolean): RunJobRequest | undefined {
  let bytes = 0;
  for (const item of items.length > BATCH_ITEMS ? [] : items) bytes += itemBytes(item);
  if (items.length > BATCH_ITEMS || bytes > BATCH_BYTES) return undefined;
  return { spec, idempotencyKey, items: [...items], results };
}
