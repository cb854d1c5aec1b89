/**
 * What an agent that has lost its coordinator may still run (self-fencing).
 *
 *   open   the lease holds: everything.
 *   stop   the lease is about to end: attempts that are to stop on disconnect are killed, and none is started.
 *   all    nobody was reached for as long as the others may be kept: those are killed too.
 *
 * The coordinator may give a node's attempts away when its own account of the lease ends. That is later than ours, which
 * counts from the sending of what it counts from the receipt; but killing takes time, and so does noticing. So it begins
 * a margin earlier: a fifth of the lease, and 2 s at most, which is an eternity for SIGKILL and leaves a reconnect,
 * begun after three silent heartbeats, most of the lease. Time is counted through sleep (SteadyTime), looked at before
 * anything is sent or started, after everything that is received, and once a second while anything is held.
 */
import type { Clock, Timer } from '../../common/clock.js';
import type { Logger } from '../../common/log.js';
import type { FenceLevel } from '../core/ledger.js';
import type { LeaseClock } from '../core/lease.js';
import type { SteadyTime } from './steady-time.js';

const LOOK_EVERY_MS = 1000;

/** What is behind the fence. */
export interface Fenced {
  /** Whether there is anything to look after. */
  readonly occupied: boolean;
  /** Ends what may not run any more and starts nothing of the kind; `open` lifts it. */
  fence(level: FenceLevel): void;
}

export interface FenceOptions {
  lease: LeaseClock;
  time: SteadyTime;
  /** How long work goes on without a coordinator unless it is to stop. */
  keepForMs: number;
  clock: Clock;
  log: Logger;
}

export class Fence {
  readonly #options: FenceOptions;
  #fenced: Fenced | undefined;
  #level: FenceLevel = 'open';
  #timer: Timer | undefined;

  constructor(options: FenceOptions) {
    this.#options = options;
  }

  get level(): FenceLevel {
    return this.#level;
  }

  /** The work needs the fence and the fence the work. */
  around(fenced: Fenced): void {
    this.#fenced = fenced;
  }

  /** Fences or lifts, as it is time; true while the lease holds. */
  check(): boolean {
    const nowMs = this.#options.time.now();
    this.#move(this.#due(nowMs));
    return this.#options.lease.holds(nowMs);
  }

  /** There is something to look after. */
  watch(): void {
    if (this.#timer || !this.#fenced?.occupied) return;
    const untilMs = (this.#options.lease.fenceAtMs ?? 0) - this.#options.time.now();
    const waitMs = this.#level === 'open' ? Math.min(LOOK_EVERY_MS, Math.max(1, untilMs)) : LOOK_EVERY_MS;
    this.#timer = this.#options.clock.after(
      waitMs,
      () => {
        this.#timer = undefined;
        this.check();
        this.watch();
      },
      { background: true },
    );
  }

  #due(nowMs: number): FenceLevel {
    const { lease, keepForMs } = this.#options;
    const { fenceAtMs, provedAtMs } = lease;
    if (fenceAtMs === undefined || provedAtMs === undefined) return 'stop';
    if (nowMs < fenceAtMs) return 'open';
    return nowMs < provedAtMs + keepForMs ? 'stop' : 'all';
  }

  #move(level: FenceLevel): void {
    if (level === this.#level) return;
    const { log } = this.#options;
    const before = this.#level;
    this.#level = level;
    if (this.#fenced?.occupied) log.info({ event: 'fence.moved', from: before, to: level });
    this.#fenced?.fence(level);
  }
}
