/**
 * Which nodes are trusted with work, from how attempts ended there. A job that fails everywhere is at fault itself; a node
 * is when it fails what others do not.
 *
 *   a job blocks a node    after FAULTS_MAX attempts in a row that the node could not run; or when FAILED_TASKS_MAX
 *                          different tasks failed there and none succeeded, while others of the job succeeded elsewhere
 *   the mesh suspends it   after JOBS_MAX jobs blocked it; or when STREAK_MAX attempts of as many jobs failed there in a
 *                          row, while other nodes had successes
 *   probation              after PAUSE_MS it is on trial: one task at a time. Success ends it, and what blocked it is
 *                          forgotten; failure suspends it again, for twice as long, up to PAUSE_MS_MAX
 *
 * A block holds for the life of the job or until a trial succeeded, and only while another node could run the job
 * (scheduler/candidates.ts). All of it is kept in memory: a new leader trusts everybody and learns again, which costs a
 * few attempts and keeps a wrong verdict from outliving a restart.
 */
import type { AttemptOutcome } from './task.js';

export const FAULTS_MAX = 3;
export const FAILED_TASKS_MAX = 5;
export const JOBS_MAX = 3;
export const STREAK_MAX = 20;
export const PAUSE_MS = 60_000;
export const PAUSE_MS_MAX = 16 * 60_000;

/** Whether the attempt's end speaks for the node, against it, or says nothing. Losses are judged with the lost node. */
export function speaksFor(outcome: AttemptOutcome): boolean | undefined {
  if (outcome === 'succeeded') return true;
  return outcome === 'failed' || outcome === 'timed-out' || outcome === 'node-fault' ? false : undefined;
}

interface Record {
  succeeded: number;
  /** In a row. */
  faults: number;
  /** Indexes of tasks that failed here, at most FAILED_TASKS_MAX of them. */
  failed: Set<number> | undefined;
}

/** What one job knows of the nodes. */
export class JobTrust {
  readonly #nodes = new Map<number, Record>();
  #succeeded = 0;

  succeeded(node: number, count = 1): void {
    const record = this.#of(node);
    this.#succeeded += count;
    record.succeeded += count;
    record.faults = 0;
    record.failed = undefined;
  }

  /** True when the job has reason to block the node. */
  failed(node: number, index: number, outcome: AttemptOutcome): boolean {
    const record = this.#of(node);
    record.faults = outcome === 'node-fault' ? record.faults + 1 : 0;
    record.failed ??= new Set();
    if (record.failed.size < FAILED_TASKS_MAX) record.failed.add(index);
    if (record.faults >= FAULTS_MAX) return true;
    return record.succeeded === 0 && record.failed.size >= FAILED_TASKS_MAX && this.#succeeded > 0;
  }

  /** The node has shown that it works. */
  forget(node: number): void {
    const record = this.#nodes.get(node);
    if (record) Object.assign(record, { faults: 0, failed: undefined });
  }

  #of(node: number): Record {
    let record = this.#nodes.get(node);
    if (!record) this.#nodes.set(node, (record = { succeeded: 0, faults: 0, failed: undefined }));
    return record;
  }
}

export type TrustState = 'trusted' | 'suspended' | 'on-trial';

/** What the mesh makes of one node. All times are the coordinator's monotonic clock. */
export class NodeTrust {
  readonly #blockedBy = new Set<number>();
  #pauseMs = PAUSE_MS;
  #suspendedUntilMs: number | undefined;
  /** Attempts that failed here in a row, their jobs (at most JOBS_MAX), and the successes elsewhere when it began. */
  #streak: { attempts: number; jobs: Set<number>; elsewhere: number } | undefined;

  state(nowMs: number): TrustState {
    if (this.#suspendedUntilMs === undefined) return 'trusted';
    return nowMs < this.#suspendedUntilMs ? 'suspended' : 'on-trial';
  }

  /** Until it is on trial; 0 when it is not suspended. */
  suspendedForMs(nowMs: number): number {
    return Math.max(0, (this.#suspendedUntilMs ?? nowMs) - nowMs);
  }

  /** For people: why it gets nothing now. Empty when it is not suspended. */
  whySuspended(nowMs: number): string {
    if (this.state(nowMs) !== 'suspended') return '';
    return `it failed what others did not; it is tried again in ${Math.ceil(this.suspendedForMs(nowMs) / 1000)} s`;
  }

  /** True when that ended its probation. */
  succeeded(nowMs: number): boolean {
    this.#streak = undefined;
    if (this.state(nowMs) !== 'on-trial') return false;
    this.#suspendedUntilMs = undefined;
    this.#pauseMs = PAUSE_MS;
    this.#blockedBy.clear();
    return true;
  }

  /**
   * @param elsewhere successes in the whole mesh so far
   * @returns true when it is suspended by that
   */
  failed(nowMs: number, job: number, elsewhere: number): boolean {
    const state = this.state(nowMs);
    if (state === 'on-trial') return this.trialFailed(nowMs);
    // What ends now began before it was suspended.
    if (state === 'suspended') return false;
    this.#streak ??= { attempts: 0, jobs: new Set(), elsewhere };
    this.#streak.attempts++;
    if (this.#streak.jobs.size < JOBS_MAX) this.#streak.jobs.add(job);
    const isAlone = elsewhere > this.#streak.elsewhere;
    if (this.#streak.attempts < STREAK_MAX || this.#streak.jobs.size < JOBS_MAX || !isAlone) return false;
    return this.#suspend(nowMs);
  }

  /** A job has blocked it. True when it is suspended by that. */
  blocked(nowMs: number, job: number): boolean {
    if (this.state(nowMs) !== 'trusted') return false;
    this.#blockedBy.add(job);
    return this.#blockedBy.size >= JOBS_MAX && this.#suspend(nowMs);
  }

  /** It failed what it was tried with, or was lost with it. True when it was on trial. */
  trialFailed(nowMs: number): boolean {
    if (this.state(nowMs) !== 'on-trial') return false;
    this.#pauseMs = Math.min(this.#pauseMs * 2, PAUSE_MS_MAX);
    return this.#suspend(nowMs);
  }

  #suspend(nowMs: number): true {
    this.#suspendedUntilMs = nowMs + this.#pauseMs;
    this.#blockedBy.clear();
    this.#streak = undefined;
    return true;
  }
}
