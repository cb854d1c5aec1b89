/**
 * Tasks with two live attempts, in memory: a mirror of what the store keeps of them, never less than that. A task is noted
 * before its copy is asked for and forgotten when the store says that one attempt is left, so whoever ends an attempt of a
 * noted task takes the statement that spares the other (CopyStore.settle), and everybody else the ordinary one. Should the
 * two cross, the ordinary statement refuses, because a copy moves the row on, and the end is settled here again.
 */
import type { Clock } from '../../common/clock.js';
import { groupBy } from '../../common/group-by.js';
import type { Ledger } from '../core/ledger.js';
import type { TaskRef } from '../core/task.js';
import {
  type CompletedRun,
  type JobChange,
  type OriginalAttempt,
  type Settled,
  type Settlement,
  settlementsOf,
  type Store,
} from '../ports.js';
import type { Fleet } from './fleet.js';
import type { Jobs } from './jobs.js';
import { toRefs } from './session.js';

/**
 * won: the copy's result was the first; lost: the original's was; failed: the copy ended without a result and the original
 * went on; replaced: the original ended without one and the copy went on; cancelled: the job was.
 */
export type CopyOutcome = 'won' | 'lost' | 'failed' | 'replaced' | 'cancelled';

export interface CopiesOptions {
  store: Store;
  jobs: Jobs;
  fleet: Fleet;
  ledger: Ledger;
  clock: Clock;
  onOutcome: (outcome: CopyOutcome) => void;
}

export type Pair = TaskRef & { node: number };

interface Noted {
  original: Pair;
  /** Undefined until it is known to be committed, and after its end. */
  copy: Pair | undefined;
  /** Since when the original is the task's only attempt again, its copy having ended; monotonic. */
  aloneSinceMs: number | undefined;
  /** A copy was asked for, and whether it was made is not known yet. */
  asked: boolean;
}

const isLone = ({ aloneSinceMs, asked }: Noted): boolean => aloneSinceMs !== undefined && !asked;

const isSame = (a: TaskRef, b: TaskRef): boolean => a.generation === b.generation;

export class Copies {
  readonly #options: CopiesOptions;
  /** By job, then by index. */
  readonly #noted = new Map<number, Map<number, Noted>>();

  constructor(options: CopiesOptions) {
    this.#options = options;
  }

  /** Whether the task has, or may have, two live attempts. */
  has({ job, index }: { job: number; index: number }): boolean {
    return this.#noted.size > 0 && this.#noted.get(job)?.has(index) === true;
  }

  /** Of how many tasks of the job. */
  count(job: number): number {
    return this.#noted.get(job)?.size ?? 0;
  }

  /** Of how many of those a copy is under way. */
  underWay(job: number): number {
    let count = 0;
    for (const noted of this.#noted.get(job)?.values() ?? []) if (!isLone(noted)) count++;
    return count;
  }

  /** Since when the task's copy has ended, of one that may have another; undefined: it has one, or may have, or never had. */
  aloneSinceMs({ job, index }: { job: number; index: number }): number | undefined {
    const noted = this.#noted.get(job)?.get(index);
    return noted && isLone(noted) ? noted.aloneSinceMs : undefined;
  }

  jobs(): number[] {
    return [...this.#noted.keys()];
  }

  /** From here on its ends are settled with care. Before a copy is asked for. */
  ask(original: Pair): void {
    const noted = this.#noted.get(original.job)?.get(original.index);
    if (noted) noted.asked = true;
    else this.#note({ original, copy: undefined, aloneSinceMs: undefined, asked: true });
  }

  made(original: Pair, copy: Pair): void {
    this.#note({ original, copy, aloneSinceMs: undefined, asked: false });
  }

  /** No copy was made. What has had one goes on as it was: in the store its row is not its own. */
  refused(original: Pair): void {
    const noted = this.#noted.get(original.job)?.get(original.index);
    if (noted?.aloneSinceMs !== undefined) noted.asked = false;
    else this.forget(original);
  }

  #note(noted: Noted): void {
    const { job, index } = noted.original;
    const ofJob = this.#noted.get(job) ?? new Map<number, Noted>();
    this.#noted.set(job, ofJob);
    ofJob.set(index, noted);
  }

  forget({ job, index }: { job: number; index: number }): void {
    const ofJob = this.#noted.get(job);
    ofJob?.delete(index);
    if (ofJob?.size === 0) this.#noted.delete(job);
  }

  /** All of a job that has ended. */
  forgetJob(job: number): void {
    this.#noted.delete(job);
  }

  /**
   * What a new leader finds, before it takes the tasks' rows into the ledger. Returns the tasks whose row is nobody's: the
   * original is their only attempt.
   */
  load(originals: readonly OriginalAttempt[], nowMs: number): Set<string> {
    const { jobs, ledger } = this.#options;
    const alone = new Set<string>();
    for (const task of originals) {
      const job = jobs.get(task.job);
      if (!job) continue;
      this.#note({
        original: toPair(task),
        copy: undefined,
        aloneSinceMs: task.alone ? nowMs : undefined,
        asked: false,
      });
      ledger.add(task, job.kind, job.row.submitter, nowMs);
      ledger.markRunning(task, task.node, nowMs);
      if (task.alone) alone.add(`${task.job}.${task.index}`);
      else ledger.setAside(task);
    }
    return alone;
  }

  /** After `load` and the tasks' rows: which copies there are. */
  loaded(): void {
    for (const ofJob of this.#noted.values())
      for (const noted of ofJob.values()) {
        const current = this.#options.ledger.current(noted.original.job, noted.original.index);
        if (current && !isSame(current, noted.original)) noted.copy = toPair(current);
      }
  }

  /** TaskStore.settle, with care for tasks that have two attempts; at most one of each task. Those of runs had one a moment ago. */
  async settle(epoch: number, items: readonly Settlement[], runs: readonly CompletedRun[] = []): Promise<Settled> {
    const { store } = this.#options;
    const ordinary = this.#noted.size === 0 ? items : items.filter((item) => !this.has(item));
    const settled =
      ordinary.length + runs.length > 0 ? await store.tasks.settle(epoch, ordinary, runs) : { accepted: [], jobs: [] };
    // Noted meanwhile: a copy may have been made before the ordinary statement came to the task.
    if (this.#noted.size === 0 && ordinary === items) return settled;
    let position = 0;
    const accepted = items.map((item) => (ordinary[position] === item ? settled.accepted[position++] === true : false));
    accepted.push(...settled.accepted.slice(ordinary.length));
    return this.#settleEach(epoch, [...items, ...runs.flatMap(settlementsOf)], { accepted, jobs: settled.jobs });
  }

  /** Of a job that is being cancelled: the originals, which the cancellation of its rows does not name. */
  async cancel(epoch: number, job: number): Promise<Pair[]> {
    const ofJob = this.#noted.get(job);
    if (!ofJob) return [];
    await this.#options.store.copies.cancel(epoch, job);
    for (const { copy } of ofJob.values()) if (copy) this.#options.onOutcome('cancelled');
    this.#noted.delete(job);
    return [...ofJob.values()].map(({ original }) => original);
  }

  async #settleEach(epoch: number, items: readonly Settlement[], settled: Settled): Promise<Settled> {
    const jobs = new Map<number, JobChange>(settled.jobs.map((change) => [change.seq, change]));
    const accepted = [...settled.accepted];
    for (const [position, item] of items.entries()) {
      if (accepted[position] || !this.has(item)) continue;
      const result = await this.#options.store.copies.settle(epoch, item);
      accepted[position] = result.accepted;
      for (const change of result.jobs) jobs.set(change.seq, change);
      for (const ref of result.live) this.#options.ledger.recount(ref, result);
      this.#follow(item, result.accepted, result.live);
    }
    return { accepted, jobs: [...jobs.values()] };
  }

  /** What the store says is live is all that is: the rest of the task is told to stop. */
  #follow(item: Settlement, accepted: boolean, live: readonly Pair[]): void {
    const noted = this.#noted.get(item.job)?.get(item.index);
    if (!noted) return;
    if (accepted && noted.copy) {
      const ofCopy = isSame(noted.copy, item);
      const isEnd = live.length === 0;
      this.#options.onOutcome(isEnd ? (ofCopy ? 'won' : 'lost') : ofCopy ? 'failed' : 'replaced');
      if (ofCopy) noted.copy = undefined;
    }
    if (!live.some((ref) => isSame(ref, noted.original))) this.forget(item);
    else if (accepted) Object.assign(noted, { aloneSinceMs: this.#options.clock.monotonicMs(), asked: false });
    const attempts = this.#options.ledger.ofTask(item.job, item.index);
    this.#stop(
      attempts.filter((attempt) => !isSame(attempt, item) && !live.some((ref) => isSame(ref, attempt))).map(toPair),
    );
  }

  /**
   * Each keeps its room until its agent says that it is dead, which is then stale. A session that never hears of it is told
   * after its next hello (admission.ts); a node that does not return gives the room back with its lease.
   */
  #stop(refs: readonly Pair[]): void {
    const { fleet, ledger } = this.#options;
    for (const [node, list] of groupBy(refs, (ref) => ref.node)) {
      for (const ref of list) ledger.condemn(ref, node);
      const session = fleet.get(node)?.session;
      if (session?.open) session.send({ $case: 'cancel', value: toRefs(list) });
    }
  }
}

const toPair = ({ job, index, generation, node }: Pair): Pair => ({ job, index, generation, node });
