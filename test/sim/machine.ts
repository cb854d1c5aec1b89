/**
 * A machine and the one process of ours on it. Everything that reaches the process from outside (a timer, a message, an
 * answer of the database) goes through `enter`: a killed process hears nothing any more, so whatever it was waiting for
 * never comes; one that stands still hears all of it when it goes on, timers first, as an event loop does.
 */
import type { Clock, Timer } from '../../common/clock.js';
import type { World } from './world.js';

/** 2026-11-21, so that dates in a trace look like dates. */
export const WALL_START_MS = 1_795_219_200_000;

export class Machine {
  wallOffsetMs = 0;
  #asleep = false;
  #sleptMs = 0;
  #sleepSinceMs = 0;
  readonly #onWake = new Set<() => void>();

  constructor(
    readonly world: World,
    readonly name: string,
  ) {}

  get asleep(): boolean {
    return this.#asleep;
  }

  /** Stands still while the machine sleeps. */
  monotonicMs(): number {
    const { nowMs } = this.world;
    return (this.#asleep ? this.#sleepSinceMs : nowMs) - this.#sleptMs;
  }

  /** Goes on while the machine sleeps. */
  bootMs(): number {
    return this.world.nowMs;
  }

  wallMs(): number {
    return WALL_START_MS + this.world.nowMs + this.wallOffsetMs;
  }

  suspend(): void {
    if (this.#asleep) return;
    this.#asleep = true;
    this.#sleepSinceMs = this.world.nowMs;
  }

  wake(): void {
    if (!this.#asleep) return;
    this.#sleptMs += this.world.nowMs - this.#sleepSinceMs;
    this.#asleep = false;
    for (const listener of [...this.#onWake]) listener();
  }

  /** Calls after so much time of this machine. */
  after(delayMs: number, run: () => void): Timer {
    const dueMs = this.monotonicMs() + Math.max(0, delayMs);
    let cancelled = false;
    let handle = this.world.after(delayMs, () => look());
    const look = (): void => {
      if (cancelled) return;
      if (this.#asleep) {
        const again = () => {
          this.#onWake.delete(again);
          handle = this.world.after(dueMs - this.monotonicMs(), look);
        };
        this.#onWake.add(again);
      } else if (dueMs - this.monotonicMs() > 1e-6) {
        handle = this.world.after(dueMs - this.monotonicMs(), look);
      } else {
        run();
      }
    };
    return {
      cancel: () => {
        cancelled = true;
        handle.cancel();
      },
    };
  }

  onWake(listener: () => void): void {
    this.#onWake.add(listener);
  }
}

type State = 'running' | 'stopped' | 'dead';

export class Process {
  #state: State = 'running';
  readonly #timers: (() => void)[] = [];
  readonly #inbox: (() => void)[] = [];
  readonly clock: Clock;

  constructor(
    readonly machine: Machine,
    readonly name: string,
  ) {
    this.clock = {
      monotonicMs: () => machine.monotonicMs(),
      wallMs: () => machine.wallMs(),
      after: (delayMs, fire) => {
        let cancelled = false;
        const timer = machine.after(delayMs, () => this.#enter(this.#timers, () => !cancelled && fire()));
        return {
          cancel: () => {
            cancelled = true;
            timer.cancel();
          },
        };
      },
    };
  }

  get world(): World {
    return this.machine.world;
  }

  get alive(): boolean {
    return this.#state !== 'dead';
  }

  get stopped(): boolean {
    return this.#state === 'stopped';
  }

  /** Something from outside reaches it: now, when it goes on, or never. */
  enter(run: () => void): void {
    this.#enter(this.#inbox, run);
  }

  #enter(queue: (() => void)[], run: () => void): void {
    if (this.#state === 'dead') return;
    if (this.#state === 'stopped' || this.machine.asleep) queue.push(run);
    else run();
  }

  /** SIGSTOP. */
  stop(): void {
    if (this.#state === 'running') this.#state = 'stopped';
  }

  /** SIGCONT. */
  resume(): void {
    if (this.#state === 'stopped') this.#state = 'running';
    this.catchUp();
  }

  /** It goes on, or its machine woke: what came meanwhile comes now, each by itself. */
  catchUp(): void {
    if (this.#state !== 'running' || this.machine.asleep) return;
    for (const run of [...this.#timers.splice(0), ...this.#inbox.splice(0)])
      this.world.after(0, () => this.#enter(this.#inbox, run));
  }

  /** SIGKILL: nothing of it runs any more, not even what is half done. */
  kill(): void {
    this.#state = 'dead';
    this.#timers.length = 0;
    this.#inbox.length = 0;
  }
}
