/**
 * Submissions that are made at the same time go in one call: what a call costs besides the job is then paid once. A
 * submission that finds no other under way goes at once and alone; those that come while one is under way gather, and go
 * together when it has been answered. Each has its own outcome. A coordinator that does not know the call is asked one by
 * one, all at the same time.
 */
import { Batcher } from '../common/batcher.js';
import { MeshError } from '../common/errors.js';
import { fromCallError, isUnimplemented } from '../common/grpc-errors.js';
import { type Job, JobSpec, type MeshServiceService, type SubmitJobStart } from '../proto/gen/mesh/v1/mesh.js';
import type { Api } from './api.js';

/** The most jobs, and the most bytes of specifications unless a single one has more, in one call. */
const JOBS_MAX = 100;
const BYTES_MAX = 1024 * 1024;

export type SubmitCalls = Pick<Api<typeof MeshServiceService>, 'submitJob' | 'submitJobs'>;

interface Waiting {
  start: SubmitJobStart;
  signal: AbortSignal | undefined;
  resolve: (job: Job) => void;
  reject: (error: unknown) => void;
}

class Gathering {
  readonly #mesh: SubmitCalls;
  readonly #batcher: Batcher<Waiting>;
  /** Until the coordinator says otherwise. */
  #together = true;

  constructor(mesh: SubmitCalls) {
    this.#mesh = mesh;
    this.#batcher = new Batcher({
      itemsMax: JOBS_MAX,
      flush: (waiting) => this.#send(waiting),
      onError: (error, waiting) => waiting.forEach(({ reject }) => reject(error)),
    });
  }

  async submit(start: SubmitJobStart, signal: AbortSignal | undefined): Promise<Job> {
    if (!this.#together) return submitAlone(this.#mesh, start, signal);
    let stop: () => void = () => undefined;
    try {
      return await new Promise<Job>((resolve, reject) => {
        stop = () => reject(new MeshError('INTERRUPTED', 'the submission was broken off'));
        if (signal?.aborted) return stop();
        signal?.addEventListener('abort', stop, { once: true });
        this.#batcher.add({ start, signal, resolve, reject });
      });
    } finally {
      signal?.removeEventListener('abort', stop);
    }
  }

  async #send(waiting: readonly Waiting[]): Promise<void> {
    const wanted = waiting.filter(({ signal }) => signal?.aborted !== true);
    for (const group of wanted.length > 1 ? ofBoundedSize(wanted) : [wanted]) await this.#sendGroup(group);
  }

  async #sendGroup(group: readonly Waiting[]): Promise<void> {
    try {
      if (group.length > 1 && this.#together) return await this.#sendTogether(group);
    } catch (error) {
      if (!isUnimplemented(error)) return group.forEach(({ reject }) => reject(error));
      this.#together = false;
    }
    await Promise.all(
      group.map(({ start, signal, resolve, reject }) => submitAlone(this.#mesh, start, signal).then(resolve, reject)),
    );
  }

  async #sendTogether(group: readonly Waiting[]): Promise<void> {
    const { outcomes } = await this.#mesh.submitJobs({ jobs: group.map(({ start }) => start) });
    group.forEach(({ resolve, reject }, at) => {
      const outcome = outcomes[at]?.outcome;
      if (outcome?.$case === 'job') resolve(outcome.value);
      else if (outcome?.$case === 'error') reject(fromCallError(outcome.value));
      else reject(new MeshError('INTERNAL', 'the coordinator answered a submission without a job'));
    });
  }
}

const gatherings = new WeakMap<SubmitCalls, Gathering>();

/** Submits a job without items, together with others that go over the same connection at the same time. */
export function submitTogether(
  mesh: SubmitCalls,
  start: SubmitJobStart,
  signal: AbortSignal | undefined,
): Promise<Job> {
  let gathering = gatherings.get(mesh);
  if (!gathering) gatherings.set(mesh, (gathering = new Gathering(mesh)));
  return gathering.submit(start, signal);
}

async function submitAlone(mesh: SubmitCalls, start: SubmitJobStart, signal: AbortSignal | undefined): Promise<Job> {
  const { job } = await mesh.submitJob([{ body: { $case: 'start', value: start } }], signal ? { signal } : {});
  if (!job) throw new MeshError('INTERNAL', 'the coordinator answered a submission without a job');
  return job;
}

/** In their order. */
function ofBoundedSize(waiting: readonly Waiting[]): Waiting[][] {
  const groups: Waiting[][] = [];
  let bytes = Number.POSITIVE_INFINITY;
  for (const one of waiting) {
    const size = one.start.spec ? JobSpec.encode(one.start.spec).finish().length : 0;
    bytes += size;
    if (bytes <= BYTES_MAX) groups.at(-1)?.push(one);
    else {
      groups.push([one]);
      bytes = size;
    }
  }
  return groups;
}
