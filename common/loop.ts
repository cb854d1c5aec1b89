import { type Clock, type Timer } from './clock.js';
import type { Service } from './lifecycle.js';

export interface LoopOptions {
  name: string;
  clock: Clock;
  /** The longest time between two turns. Infinity when only `wake` starts one. */
  everyMs: number;
  turn: () => Promise<void>;
  onError: (error: unknown) => void;
}

/**
 * A turn at a time, after every `wake` and at least once per `everyMs`. Wakes during a turn are merged into one more
 * turn. A turn that throws is reported and the next one comes as usual.
 */
export class Loop implements Service {
  readonly name: string;
  readonly #options: LoopOptions;
  #timer: Timer | undefined;
  #running: Promise<void> | undefined;
  #inTurn = false;
  #again = false;
  #stopped = true;

  constructor(options: LoopOptions) {
    this.name = options.name;
    this.#options = options;
  }

  async start(): Promise<void> {
    this.#stopped = false;
    this.wake();
  }

  wake(): void {
    if (this.#stopped) return;
    if (this.#inTurn) {
      this.#again = true;
      return;
    }
    this.#timer?.cancel();
    this.#running = this.#turns();
  }

  async #turns(): Promise<void> {
    // A flag, because the first turn may wake the loop before the promise is there.
    this.#inTurn = true;
    do {
      this.#again = false;
      try {
        await this.#options.turn();
      } catch (error) {
        this.#options.onError(error);
      }
    } while (this.#again && !this.#stopped);
    this.#inTurn = false;
    this.#running = undefined;
    if (!this.#stopped && this.#options.everyMs !== Number.POSITIVE_INFINITY) {
      this.#timer = this.#options.clock.after(this.#options.everyMs, () => this.wake());
    }
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#timer?.cancel();
    await this.#running;
  }
}
