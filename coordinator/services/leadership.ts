/**
 * Who leads. The lease is a row with an epoch and a renewal counter; no clocks are compared. A coordinator stands by
 * and reads the row four times per lease. It takes the lease when it saw the counter stand still for a whole lease on
 * its own monotonic clock, at once when nobody holds it, and at once when the holder is itself: it holds the lock of
 * its data directory, so what led before is gone. It leads and renews three times per lease. It steps down when another
 * epoch rules, and when it could not renew for a whole lease, because by then another may lead.
 *
 * Every write that moves a task carries the epoch and is refused in SQL once another one rules. What is no write, an
 * agent's lease above all, is extended only while the leader's own lease holds (`holds`): so every lease that a former
 * leader granted ends before the grace its successor gives all nodes. A leader that was paused can therefore do no harm;
 * finding out late costs only time. After a crash of the leader another leads within one and a
 * half leases, and at the next look when the leader gave the lease back. A standby that cannot read the row begins to
 * watch anew: a database that was away for both is no reason to take the lead from who had it.
 */
import { type Clock, pause } from '../../common/clock.js';
import { MeshError } from '../../common/errors.js';
import type { Service } from '../../common/lifecycle.js';
import type { Logger } from '../../common/log.js';
import type { LeaderRow, LeaderStore } from '../ports.js';

export interface LeadershipOptions {
  store: LeaderStore;
  /** This coordinator, the same after a restart on the same data directory. */
  holder: string;
  leaseMs: number;
  clock: Clock;
  log: Logger;
  /** This coordinator leads; resolves when it does what a leader does. When it rejects the lease is given back. */
  onLeading: (epoch: number) => Promise<void>;
  /** It leads no more; resolves when nothing of that is left. Called once after each `onLeading`, however that ended. */
  onLost: () => Promise<void>;
}

const LOOKS_PER_LEASE = 4;
const RENEWALS_PER_LEASE = 3;

type End = 'stopping' | 'superseded' | 'lease-over';

export class Leadership implements Service {
  readonly name = 'leadership';
  readonly #options: LeadershipOptions;
  readonly #stopping = new AbortController();
  #epoch = 0;
  /** Monotonic: before this nobody can have taken over; a whole lease from when the last renewal was asked for. */
  #heldUntilMs = Number.NEGATIVE_INFINITY;
  #running: Promise<void> | undefined;

  constructor(options: LeadershipOptions) {
    this.#options = options;
  }

  /** The epoch this process leads under; 0 while it stands by. */
  get epoch(): number {
    return this.#epoch;
  }

  /**
   * Whether no other coordinator can lead at `nowMs`, on the monotonic clock. A process that was paused still has an epoch,
   * but may have been deposed without having heard of it: what it would promise to agents then binds nobody else.
   */
  holds(nowMs: number): boolean {
    return this.#epoch > 0 && nowMs < this.#heldUntilMs;
  }

  /**
   * Resolves when it leads or has found that it must watch somebody else's lease.
   * @throws what the store threw at the first look, and what `onLeading` threw in a term begun at once
   */
  start(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#running = this.#run(resolve, reject);
    });
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#running;
  }

  /** A failure ends the loop only while nobody has heard yet that it runs. */
  async #run(resolve: () => void, reject: (error: unknown) => void): Promise<void> {
    let isSettled = false;
    const settle = () => {
      isSettled = true;
      resolve();
    };
    const onFailure = (error: unknown) => {
      if (isSettled) return;
      this.#stopping.abort();
      reject(error);
    };
    while (!this.#stopping.signal.aborted) {
      const taken = await this.#standBy(settle, onFailure);
      if (taken) await this.#lead(taken, settle, onFailure);
    }
    settle();
  }

  /** Watches until the lease is its own; undefined when it is stopping. */
  async #standBy(
    onWatching: () => void,
    onFailure: (error: unknown) => void,
  ): Promise<{ epoch: number; sinceMs: number } | undefined> {
    const { store, holder, leaseMs, clock, log } = this.#options;
    let watched: { row: LeaderRow; sinceMs: number } | undefined;
    while (!this.#stopping.signal.aborted) {
      try {
        const askedMs = clock.monotonicMs();
        const row = await store.read();
        if (!row || row.holder === '' || row.holder === holder || stoodStill(row, watched, askedMs, leaseMs)) {
          const sinceMs = clock.monotonicMs();
          const epoch = await store.take(row, holder);
          if (epoch !== undefined) return { epoch, sinceMs };
          continue;
        }
        if (!watched || !sameTerm(row, watched.row)) {
          log.info({ event: 'leader.standby', holder: row.holder, epoch: row.epoch }, 'another coordinator leads');
        }
        if (!watched || !sameRow(row, watched.row)) watched = { row, sinceMs: clock.monotonicMs() };
        onWatching();
      } catch (error) {
        watched = undefined;
        onFailure(error);
        log.warn({ event: 'leader.unread', err: error }, 'could not read the lease');
      }
      await pause(clock, leaseMs / LOOKS_PER_LEASE, this.#stopping.signal);
    }
    return undefined;
  }

  async #lead(
    { epoch, sinceMs }: { epoch: number; sinceMs: number },
    onLeads: () => void,
    onFailure: (error: unknown) => void,
  ): Promise<void> {
    const { log, onLeading, onLost, store } = this.#options;
    const over = new AbortController();
    const stop = () => over.abort();
    this.#stopping.signal.addEventListener('abort', stop, { once: true });
    if (this.#stopping.signal.aborted) stop();
    this.#epoch = epoch;
    this.#heldUntilMs = sinceMs + this.#options.leaseMs;
    log.info({ event: 'leader.elected', epoch }, 'this coordinator leads');
    let failure: unknown;
    // The lease is renewed while the term begins: reading a large state takes a while.
    const renewing = this.#renewUntilOver(epoch, sinceMs, over.signal);
    await onLeading(epoch).then(onLeads, (error: unknown) => {
      failure = error;
      over.abort();
    });
    const end = await renewing;
    this.#stopping.signal.removeEventListener('abort', stop);
    this.#epoch = 0;
    if (end !== 'stopping') log.warn({ event: 'leader.lost', epoch, reason: end }, 'this coordinator leads no more');
    await onLost().catch((error: unknown) => log.error({ event: 'leader.unclean-end', epoch, err: error }));
    if (failure !== undefined) {
      log.error({ event: 'leader.failed', epoch, err: failure }, 'could not begin to lead');
      onFailure(failure);
    }
    if (end === 'stopping')
      await store.release(epoch).catch((error: unknown) => log.warn({ event: 'leader.unreleased', epoch, err: error }));
    // Somebody else may do better; and if not, this one not without a rest.
    if (failure !== undefined) await pause(this.#options.clock, this.#options.leaseMs, this.#stopping.signal);
  }

  /** @param sinceMs monotonic, from before the lease was taken */
  async #renewUntilOver(epoch: number, sinceMs: number, over: AbortSignal): Promise<End> {
    const { leaseMs, clock, log } = this.#options;
    let renewedMs = sinceMs;
    for (;;) {
      await pause(clock, leaseMs / RENEWALS_PER_LEASE, over);
      if (over.aborted) return 'stopping';
      const askedMs = clock.monotonicMs();
      // After a pause of the whole process it asks once all the same: if nobody took over, nothing was lost.
      const patienceMs = Math.max(renewedMs + leaseMs - askedMs, leaseMs / RENEWALS_PER_LEASE);
      try {
        if (!(await this.#renew(epoch, patienceMs))) return 'superseded';
        renewedMs = askedMs;
        this.#heldUntilMs = askedMs + leaseMs;
      } catch (error) {
        log.warn({ event: 'leader.renewal-failed', epoch, err: error }, 'could not renew the lease');
        if (clock.monotonicMs() - renewedMs >= leaseMs) return 'lease-over';
      }
    }
  }

  /** @throws MeshError TIMED_OUT when there is no answer in time */
  async #renew(epoch: number, patienceMs: number): Promise<boolean> {
    const { store, clock } = this.#options;
    const answered = new AbortController();
    const silence = pause(clock, patienceMs, answered.signal).then(() => {
      if (answered.signal.aborted) return false;
      throw new MeshError('TIMED_OUT', 'the database did not answer a renewal of the lease in time');
    });
    silence.catch(() => undefined);
    try {
      return await Promise.race([store.renew(epoch), silence]);
    } finally {
      answered.abort();
    }
  }
}

const sameTerm = (a: LeaderRow, b: LeaderRow): boolean => a.epoch === b.epoch && a.holder === b.holder;

const sameRow = (a: LeaderRow, b: LeaderRow): boolean => sameTerm(a, b) && a.renewals === b.renewals;

/** From when it was first seen to before it was read again. */
const stoodStill = (
  row: LeaderRow,
  watched: { row: LeaderRow; sinceMs: number } | undefined,
  askedMs: number,
  leaseMs: number,
): boolean => watched !== undefined && sameRow(row, watched.row) && askedMs - watched.sinceMs >= leaseMs;
