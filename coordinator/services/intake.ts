/**
 * Where jobs come in. The commit of the specification (with the inputs, in chunks) acknowledges a job; its tasks get rows
 * when they are first assigned, so a job of a million is taken as quickly as one of ten and delays nobody behind it.
 */
import { createHash, type Hash } from 'node:crypto';
import type { Clock } from '../../common/clock.js';
import { MeshError, toMeshError } from '../../common/errors.js';
import { makeId } from '../../common/ids.js';
import type { Service } from '../../common/lifecycle.js';
import type { Logger } from '../../common/log.js';
import { Loop } from '../../common/loop.js';
import type { StagedFile, TaskInput } from '../../proto/gen/mesh/v1/common.js';
import type { JobSpec } from '../../proto/gen/mesh/v1/mesh.js';
import { isTerminal } from '../core/job.js';
import { costOf } from '../core/room.js';
import { canonicalSpec, printable, validateInput, validateSpec } from '../core/spec.js';
import { RANGE_MIN } from '../core/task.js';
import type { JobRow, NewJob, Store } from '../ports.js';
import type { Actor, Audit } from './audit.js';
import type { BlobDepot } from './blob-depot.js';
import type { Dispatch } from './dispatch.js';
import type { Placement } from './first-placement.js';
import type { Jobs } from './jobs.js';
import { type Limits, shownLimit, specLimits } from './limits.js';
import type { Secrets } from './secrets.js';
import type { Namespaces } from './namespaces.js';
import { StagedFiles } from './staged-files.js';
import { UNSURE_MS } from './unsure.js';

/** A job of no more tasks may be assigned by the commit that keeps it; more are assigned in ranges (adr/0026). */
const PLACED_MAX = RANGE_MIN - 1;
/** Ids of submissions whose outcome is unknown; the oldest are left to the next start. */
const UNSURE_MAX = 10_000;

export interface IntakeOptions {
  store: Store;
  audit: Audit;
  jobs: Jobs;
  blobs: BlobDepot;
  secrets: Secrets;
  clock: Clock;
  log: Logger;
  epoch: () => number;
  namespaces: Namespaces;
  /** A job came in: there may be work to place. */
  onWork: () => void;
  dispatch: Pick<Dispatch, 'place'>;
  limits: Limits;
  /** False when the disk is too full to promise anything. */
  accepts: () => Promise<boolean>;
}

export interface Submission {
  actor: Actor;
  submitter: string;
  idempotencyKey: string;
  spec: JobSpec;
  items: AsyncIterable<TaskInput[]>;
  /** With items: their number must be `spec.taskCount`. */
  hasItems: boolean;
  retryOf?: string;
}

/** By a submission, until it is kept or refused. */
interface Held {
  room?: { release: () => void };
  placement?: Placement | undefined;
}

export class Intake implements Service {
  readonly name = 'intake';
  readonly #options: IntakeOptions;
  readonly #finder: Loop;
  /** Ids of jobs whose commit was not answered, until when they are looked for (monotonic), and where they may have gone. */
  readonly #unsure = new Map<string, { untilMs: number; placement: Placement | undefined }>();

  constructor(options: IntakeOptions) {
    this.#options = options;
    this.#finder = new Loop({
      name: 'intake.finder',
      clock: options.clock,
      everyMs: 1000,
      turn: () => this.#findOut(),
      onError: (error) => options.log.error({ event: 'intake.failed', err: error }, 'could not look for jobs'),
    });
  }

  async start(): Promise<void> {
    await this.#finder.start();
  }

  async stop(): Promise<void> {
    await this.#finder.stop();
  }

  /** Commits a job. @throws MeshError BAD_SPEC, OVERLOADED, DISK_FULL, QUOTA, IDEMPOTENCY_CONFLICT */
  async submit(submission: Submission): Promise<JobRow> {
    const { jobs, clock, epoch, limits, accepts, namespaces, secrets } = this.#options;
    const { spec, executor, resources } = validateSpec(submission.spec, specLimits(limits));
    if (!(await accepts()))
      throw new MeshError('DISK_FULL', 'the coordinator is short of disk space and takes no new jobs');
    if (jobs.size >= limits.maxLiveJobs) {
      const max = shownLimit(limits, 'maxLiveJobs');
      throw new MeshError('OVERLOADED', `${max} jobs are waiting or running, the most this mesh takes`, {
        hint: 'try again when some have ended; the limit is --max-live-jobs of the coordinator',
      });
    }
    await this.#requireBlobs(spec);
    const resolved = { ...spec, secrets: await secrets.resolve(submission.actor, spec.secrets) };

    const hash = createHash('sha256').update(JSON.stringify(canonicalSpec(spec)));
    // The store may ask twice: when it inserts, and again when another call with the same key was quicker.
    let digest: string | undefined;
    const id = makeId(clock.wallMs());
    const namespace = namespaces.nameOf(submission.submitter);
    const files = new StagedFiles(limits);
    const held: Held = {};
    const given: NewJob = {
      id,
      submitter: submission.submitter,
      idempotencyKey: submission.idempotencyKey,
      specDigest: () => (digest ??= hash.digest('hex')),
      spec: resolved,
      total: spec.taskCount,
      retryOf: submission.retryOf,
      hasInputs: submission.hasItems,
      namespace,
      stagedBytes: () => files.bytes,
      admit: async () => {
        const { cpuMillis } = costOf(resources);
        held.room = await namespaces.admit(namespace, { tasks: spec.taskCount, cpuMillis, bytes: files.bytes });
      },
      place: () => (held.placement = this.#place(given, namespace, executor))?.node,
      epoch: epoch(),
    };
    const { job, created } = await this.#keep(given, this.#readItems(submission, executor, hash, files), held);
    if (created) this.#tell(submission, job);
    return job;
  }

  async #keep(given: NewJob, items: AsyncIterable<string[]>, held: Held): Promise<{ job: JobRow; created: boolean }> {
    try {
      const kept = await this.#options.store.jobs.create(given, items);
      if (kept.created) this.#take(kept.job, held.placement);
      else if (this.#unsure.has(kept.job.id)) this.#finder.wake();
      return kept;
    } catch (error) {
      if (toMeshError(error).code === 'DATABASE_DOWN') this.#remember(given.id, held.placement);
      throw error;
    } finally {
      held.placement?.settle(undefined);
      held.room?.release();
    }
  }

  #tell({ actor }: Submission, job: JobRow): void {
    const { audit, secrets, log } = this.#options;
    const { name, type, retryOf, counts } = job;
    const action = retryOf === undefined ? 'job.submitted' : 'job.retried';
    audit.note(actor, action, job.id, { name, type, tasks: counts.total, retryOf });
    secrets.used(actor, job);
    // What was given away leaves for its agent at the end of this turn; a line takes as long to write as that.
    setImmediate(() => log.info({ event: 'job.accepted', job: job.id, tasks: counts.total, submitter: job.submitter }));
  }

  #place(
    { spec, total, submitter, hasInputs }: NewJob,
    namespace: string,
    type: JobRow['type'],
  ): Placement | undefined {
    if (hasInputs || spec.secrets.length > 0 || total > PLACED_MAX) return undefined;
    return this.#options.dispatch.place({ type, spec, priority: spec.priority, submitter, namespace }, total);
  }

  /** It is planned from now on, or its tasks are given to their node. */
  #take(row: JobRow, placement?: Placement): void {
    const { jobs, onWork } = this.#options;
    const job = jobs.add(row);
    placement?.settle(row);
    // Where its like waits already, the next plan is due when room falls free, not for each further job of a burst.
    if (jobs.fresh(job) > 0 && !jobs.hasLike(job)) onWork();
  }

  #remember(id: string, placement: Placement | undefined): void {
    this.#unsure.set(id, { untilMs: this.#options.clock.monotonicMs() + UNSURE_MS, placement });
    for (const oldest of this.#unsure.keys()) {
      if (this.#unsure.size <= UNSURE_MAX) break;
      this.#unsure.delete(oldest);
    }
  }

  /** A commit whose answer was lost may have made a job that nobody here knows: it is looked for by its id. */
  async #findOut(): Promise<void> {
    const { store, clock, log } = this.#options;
    for (const [id, { untilMs, placement }] of [...this.#unsure]) {
      const row = await store.jobs.get(id);
      if (!row && clock.monotonicMs() < untilMs) continue;
      this.#unsure.delete(id);
      if (!row || isTerminal(row.status)) continue;
      log.warn({ event: 'job.recovered', job: id }, 'a job was committed, but its answer was lost');
      this.#take(row);
      placement?.recovered(row);
    }
  }

  /** Checks, hashes and passes on the items, a chunk at a time. */
  async *#readItems(
    submission: Submission,
    executor: 'process' | 'function',
    hash: Hash,
    files: StagedFiles,
  ): AsyncGenerator<string[]> {
    const { spec } = submission;
    const limits = specLimits(this.#options.limits);
    let count = 0;
    for await (const batch of submission.items) {
      batch.forEach((item, position) => {
        validateInput(item, count + position, executor, limits);
        if (item.files.length > 0) files.add(count + position, item.files);
      });
      await this.#requireStored(batch.flatMap((item) => item.files));
      const chunk = batch.map((item) => JSON.stringify(item));
      if (chunk.length > 0) hash.update(`${chunk.join('\n')}\n`);
      count += batch.length;
      if (count > spec.taskCount) break;
      yield chunk;
    }
    if (submission.hasItems && count !== spec.taskCount)
      throw new MeshError('BAD_SPEC', `the job announced ${spec.taskCount} tasks and described ${count}`);
  }

  async #requireBlobs(spec: JobSpec): Promise<void> {
    if (spec.work?.$case !== 'function') return;
    const { missing } = await this.#options.blobs.look([spec.work.value.moduleDigest]);
    if (missing.length > 0) throw notUploaded(missing);
  }

  /** All are here, and as large as the job says: what is counted and shown must be what is sent. */
  async #requireStored(files: StagedFile[]): Promise<void> {
    if (files.length === 0) return;
    const { missing, sizes } = await this.#options.blobs.look(files.map((file) => file.digest));
    if (missing.length > 0) throw notUploaded(missing);
    for (const { path, digest, sizeBytes } of files) {
      if (sizes.get(digest) !== sizeBytes)
        throw new MeshError(
          'BAD_SPEC',
          `the staged file "${printable(path)}" has ${sizes.get(digest)} bytes, not the ${sizeBytes} the job says`,
          { hint: 'name the size of the file whose digest is given' },
        );
    }
  }
}

const notUploaded = (missing: readonly string[]): MeshError =>
  new MeshError('BAD_SPEC', `${missing.length} files of the job were not uploaded, such as ${missing[0]}`);
