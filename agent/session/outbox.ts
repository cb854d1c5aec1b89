/**
 * Results that the coordinator has not acknowledged. Each is kept in the journal before it is sent, and sent again after
 * every reconnect and after a restart of the agent, until the acknowledgement, which comes after the coordinator's
 * commit. Bounded by what was assigned: the coordinator gives no more before it has these.
 *
 * A run of plain results stays one thing from here to the commit. Where something is said of a part of it, or the
 * coordinator knows no runs, it is taken apart, and its results go on one by one.
 *
 * When the journal cannot take a result (a full disk) it is kept in memory alone and sent all the same.
 */
import type { Clock } from '../../common/clock.js';
import type { Service } from '../../common/lifecycle.js';
import type { Logger } from '../../common/log.js';
import type { Finished, SucceededRun, TaskRefs, TaskRuns } from '../../proto/gen/mesh/v1/agent.js';
import type { AttemptRef } from '../core/types.js';
import type { Journal } from '../output/journal.js';
import { apart, bytesOf, countOf, isRun, type Result, toBatch } from './results.js';

/** Not yet in the journal, and not to be sent before. Segments are numbered from 1. */
const PENDING = -1;
/** On its way into the journal. */
const STORING = -2;
/** The journal could not take it. */
const UNKEPT = 0;
/** Bytes of one batch: with what the estimate cannot know it stays well below the largest message. */
const BATCH_BYTES_MAX = 2 * 2 ** 20;
const AGE_MS_MAX = 2 ** 32 - 1;
/** One that waited no longer than this goes as it is. */
const AGED_MS = 50;

interface Waiting<R extends Result = Result> {
  result: R;
  endedMs: number;
  segment: number;
  /** Kept, and not to be sent before its output has arrived. */
  held: boolean;
  /** Its size when it was sent in this session; 0 before. */
  sentBytes: number;
  /** No longer in here. */
  gone: boolean;
}

interface JobResults {
  /** By index; a newer generation of a task takes the place of an older one, which nobody wants any more. */
  singles: Map<number, Waiting<Finished>>;
  /** By the index of the first. */
  runs: Map<number, Waiting<SucceededRun>>;
}

export interface OutboxOptions {
  clock: Clock;
  journal: Journal;
  log: Logger;
}

export class Outbox implements Service {
  readonly name = 'outbox';
  readonly #options: OutboxOptions;
  readonly #jobs = new Map<number, JobResults>();
  /** What became of runs that were taken apart, for those who still hold the run. */
  readonly #apart = new WeakMap<SucceededRun, Waiting<Finished>[]>();
  #inFlightBytes = 0;

  constructor(options: OutboxOptions) {
    this.#options = options;
  }

  /** Sent in this session and not acknowledged. */
  get inFlightBytes(): number {
    return this.#inFlightBytes;
  }

  /** Takes over what an earlier life of the agent left. */
  async start(): Promise<void> {
    const { journal, log } = this.#options;
    let count = 0;
    for (const { segment, items, runs } of await journal.load()) {
      for (const result of [...runs, ...items]) {
        if (this.#put(result, segment, false)) count += countOf(result);
        else journal.release(segment, countOf(result));
      }
    }
    if (count > 0) log.info({ event: 'outbox.recovered', results: count }, 'results of an earlier run wait');
  }

  async stop(): Promise<void> {
    await this.#options.journal.close();
  }

  /** @param held whether it waits for `ready` before it may be sent */
  add(result: Result, held = false): void {
    this.#put(result, PENDING, held);
  }

  /** It may be sent now. */
  ready({ job, index, generation }: AttemptRef): Finished | undefined {
    const waiting = this.#jobs.get(job)?.singles.get(index);
    if (!waiting || waiting.result.generation !== generation) return undefined;
    waiting.held = false;
    return waiting.result;
  }

  /** Keeps these, and returns those of them that may be sent now. What was never added passes through. */
  async store(results: readonly Result[]): Promise<Result[]> {
    const { journal } = this.#options;
    const fresh: Waiting[] = [];
    for (const result of results) {
      for (const waiting of this.#waiting(result)) {
        if (waiting.segment !== PENDING) continue;
        waiting.segment = STORING;
        fresh.push(waiting);
      }
    }
    if (fresh.length > 0) {
      const segment = await journal.append(toBatch(fresh.map(({ result }) => result)));
      let gone = 0;
      for (const whole of fresh) {
        for (const waiting of (isRun(whole.result) && this.#apart.get(whole.result)) || [whole]) {
          if (waiting.gone) gone += countOf(waiting.result);
          else waiting.segment = segment ?? UNKEPT;
        }
      }
      if (segment !== undefined && gone > 0) journal.release(segment, gone);
      const crowded = journal.crowded();
      if (crowded !== undefined) await this.#moveOn(crowded);
    }
    return results.filter((result) => !this.#waiting(result).some(({ held }) => held));
  }

  /** Acknowledged or no longer wanted. */
  remove(refs: TaskRefs): void {
    const dropping = new Dropping(this.#options.journal);
    for (let i = 0; i < refs.jobs.length; i++) {
      const [job, index, generation] = [refs.jobs[i], refs.indexes[i], refs.generations[i]] as [number, number, number];
      const waiting = this.#single(job, index, generation);
      if (waiting) this.#drop(waiting, dropping);
    }
    dropping.end();
  }

  /** Acknowledged, as they were sent. */
  removeRuns({ jobs, firsts, counts }: TaskRuns): void {
    const dropping = new Dropping(this.#options.journal);
    jobs.forEach((job, i) => {
      const first = firsts[i] as number;
      const end = first + (counts[i] as number);
      for (let index = first; index < end; ) {
        const run = this.#jobs.get(job)?.runs.get(index);
        const size = run?.result.runUs.length ?? 1;
        const waiting = run && index + size <= end ? run : this.#single(job, index, 1);
        if (waiting) this.#drop(waiting, dropping);
        index += waiting === run ? size : 1;
      }
    });
    dropping.end();
  }

  /** It is wanted under another generation. Returns what is to be kept and sent now. */
  renumber({ job, index, generation: from }: AttemptRef, generation: number): Finished | undefined {
    const waiting = this.#single(job, index, from);
    if (!waiting) return undefined;
    const finished = { ...waiting.result, generation, ageMs: this.#age(waiting) };
    this.#put(finished, PENDING, waiting.held);
    return finished;
  }

  /** Everything in here. */
  *all(): Generator<Result> {
    for (const { result } of this.#everything()) yield result;
  }

  /** The results of a run one by one from now on, as far as they are still wanted. */
  takeApart(run: SucceededRun): Finished[] {
    const waiting = this.#jobs.get(run.job)?.runs.get(run.first);
    if (waiting?.result === run) this.#takeApart(waiting);
    return (this.#apart.get(run) ?? []).filter(({ gone }) => !gone).map(({ result }) => result);
  }

  /** A session begins: nothing was sent in it. */
  nothingSent(): void {
    if (this.#inFlightBytes === 0) return;
    for (const waiting of this.#everything()) waiting.sentBytes = 0;
    this.#inFlightBytes = 0;
  }

  /** These are sent now. Returns them with their present age, without those that were sent in this session already. */
  take(results: readonly Result[]): Result[] {
    const taken: Result[] = [];
    for (const result of results) {
      const kept = this.#waiting(result);
      if (kept.length === 0) {
        if (!isRun(result)) taken.push(result);
        continue;
      }
      for (const waiting of kept) {
        if (waiting.sentBytes > 0) continue;
        waiting.sentBytes = bytesOf(waiting.result);
        this.#inFlightBytes += waiting.sentBytes;
        const ageMs = this.#age(waiting);
        taken.push(ageMs - waiting.result.ageMs > AGED_MS ? { ...waiting.result, ageMs } : waiting.result);
      }
    }
    return taken;
  }

  /** Everything that is kept and was not sent in this session, in batches of bounded number and size. */
  *batches(countMax: number): Generator<Result[]> {
    yield* inBatches(this.#sendable(), countMax);
  }

  *#sendable(): Generator<Result> {
    for (const { result, segment, held, sentBytes } of this.#everything())
      if (segment >= UNKEPT && !held && sentBytes === 0) yield result;
  }

  *#everything(): Generator<Waiting> {
    for (const { runs, singles } of this.#jobs.values()) {
      yield* runs.values();
      yield* singles.values();
    }
  }

  #age({ endedMs }: Waiting): number {
    return Math.min(AGE_MS_MAX, Math.max(0, Math.round(this.#options.clock.monotonicMs() - endedMs)));
  }

  /** What stands for exactly this result. */
  #waiting(result: Result): readonly Waiting[] {
    const job = this.#jobs.get(result.job);
    const waiting = isRun(result) ? job?.runs.get(result.first) : job?.singles.get(result.index);
    if (waiting?.result === result) return [waiting];
    const parts = isRun(result) ? this.#apart.get(result) : undefined;
    return parts ? parts.filter(({ gone }) => !gone) : NONE;
  }

  /** The result of one attempt; a run that holds it is taken apart. */
  #single(seq: number, index: number, generation: number): Waiting<Finished> | undefined {
    const job = this.#jobs.get(seq);
    if (!job) return undefined;
    if (generation === 1 && job.singles.get(index)?.result.generation !== 1) {
      for (const run of job.runs.values()) {
        const { first, runUs } = run.result;
        if (index < first || index >= first + runUs.length) continue;
        this.#takeApart(run);
        break;
      }
    }
    const waiting = job.singles.get(index);
    return waiting?.result.generation === generation ? waiting : undefined;
  }

  #takeApart(run: Waiting<SucceededRun>): void {
    const { result, endedMs, segment, sentBytes } = run;
    const job = this.#jobOf(result.job);
    job.runs.delete(result.first);
    run.gone = true;
    this.#inFlightBytes -= sentBytes;
    const rest = { endedMs, segment, held: false, sentBytes: 0, gone: false };
    const parts = apart(result).map((finished): Waiting<Finished> => ({ result: finished, ...rest }));
    this.#apart.set(result, parts);
    for (const part of parts) {
      if (!this.#place(job, part)) {
        if (segment > UNKEPT) this.#options.journal.release(segment, 1);
      } else if (sentBytes > 0) {
        part.sentBytes = bytesOf(part.result);
        this.#inFlightBytes += part.sentBytes;
      }
    }
  }

  #drop(waiting: Waiting, dropping: Dropping): void {
    const { result, segment, sentBytes } = waiting;
    const job = this.#jobOf(result.job);
    waiting.gone = true;
    if (isRun(result)) job.runs.delete(result.first);
    else job.singles.delete(result.index);
    if (job.runs.size + job.singles.size === 0) this.#jobs.delete(result.job);
    this.#inFlightBytes -= sentBytes;
    if (segment > UNKEPT) dropping.add(segment, countOf(result));
  }

  #jobOf(seq: number): JobResults {
    let job = this.#jobs.get(seq);
    if (!job) this.#jobs.set(seq, (job = { singles: new Map(), runs: new Map() }));
    return job;
  }

  /** False when a newer one is there. */
  #put(result: Result, segment: number, held: boolean): boolean {
    const job = this.#jobOf(result.job);
    const endedMs = this.#options.clock.monotonicMs() - result.ageMs;
    const rest = { endedMs, segment, held, sentBytes: 0, gone: false };
    if (!isRun(result)) return this.#place(job, { result, ...rest });
    const before = job.runs.get(result.first);
    if (before) this.#takeApart(before);
    job.runs.set(result.first, { result, ...rest });
    return true;
  }

  #place({ singles }: JobResults, waiting: Waiting<Finished>): boolean {
    const { index, generation } = waiting.result;
    const before = singles.get(index);
    // The output of a superseded attempt may have taken longer to store than its successor took to end.
    if (before && before.result.generation > generation) {
      waiting.gone = true;
      return false;
    }
    if (before) {
      before.gone = true;
      this.#inFlightBytes -= before.sentBytes;
      if (before.segment > UNKEPT) this.#options.journal.release(before.segment, 1);
    }
    singles.set(index, waiting);
    return true;
  }

  /** Writes the few results that keep an old segment alive once more, so that it can go. */
  async #moveOn(from: number): Promise<void> {
    const { journal } = this.#options;
    const moving = [...this.#everything()].filter(({ segment }) => segment === from);
    if (moving.length === 0) return;
    const to = await journal.append(
      toBatch(moving.map((waiting) => ({ ...waiting.result, ageMs: this.#age(waiting) }))),
    );
    if (to === undefined) return;
    for (const whole of moving) {
      for (const waiting of (isRun(whole.result) && this.#apart.get(whole.result)) || [whole]) {
        journal.release(waiting.gone ? to : from, countOf(waiting.result));
        if (!waiting.gone) waiting.segment = to;
      }
    }
  }
}

const NONE: readonly Waiting[] = [];

/** Gives segments back, those of neighbours at once. */
class Dropping {
  #segment = UNKEPT;
  #count = 0;

  constructor(private readonly journal: Journal) {}

  add(segment: number, count: number): void {
    if (segment !== this.#segment) this.end();
    this.#segment = segment;
    this.#count += count;
  }

  end(): void {
    if (this.#count > 0) this.journal.release(this.#segment, this.#count);
    this.#count = 0;
  }
}

/** In batches of bounded number and size. */
export function* inBatches(results: Iterable<Result>, countMax: number): Generator<Result[]> {
  let batch: Result[] = [];
  let [count, bytes] = [0, 0];
  for (const result of results) {
    const [attempts, size] = [countOf(result), bytesOf(result)];
    if (batch.length > 0 && (count + attempts > countMax || bytes + size > BATCH_BYTES_MAX)) {
      yield batch;
      batch = [];
      [count, bytes] = [0, 0];
    }
    batch.push(result);
    count += attempts;
    bytes += size;
  }
  if (batch.length > 0) yield batch;
}
