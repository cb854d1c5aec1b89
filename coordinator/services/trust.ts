/**
 * Which roots this coordinator trusts and presents. What holds for the mesh is one row in the database; every coordinator
 * looks at it each second and takes the step that it says: learns of the other root, gets an intermediate of it, lets
 * the old one go. A step that cannot be taken yet, because whoever signs intermediates is away, is tried again. The
 * generation of the last step taken stands in this coordinator's row, where whoever leads waits for it.
 */
import type { Clock } from '../../common/clock.js';
import { toMeshError } from '../../common/errors.js';
import type { Service } from '../../common/lifecycle.js';
import type { Logger } from '../../common/log.js';
import { Loop } from '../../common/loop.js';
import type { TrustRow, TrustStore } from '../ports.js';

const EVERY_MS = 1000;

export interface TrustOptions {
  store: TrustStore;
  /** What holds, as it was read at the start. */
  state: TrustRow;
  /** Makes the authority of this coordinator what a row says. Repeating it is harmless. @throws MeshError while it cannot */
  follow: (state: TrustRow) => Promise<void>;
  /** A step was taken. */
  onStep: () => void;
  clock: Clock;
  log: Logger;
}

export class Trust implements Service {
  readonly name = 'trust';
  readonly #options: TrustOptions;
  readonly #loop: Loop;
  #state: TrustRow;
  #generation = 0;
  /** What it waits for, as it was said last. */
  #waiting = '';

  constructor(options: TrustOptions) {
    this.#options = options;
    this.#state = options.state;
    this.#loop = new Loop({
      name: 'trust.refresh',
      clock: options.clock,
      everyMs: EVERY_MS,
      turn: () => this.#turn(),
      onError: (error) => this.#wait(error),
    });
  }

  /** What holds for the mesh. */
  get state(): TrustRow {
    return this.#state;
  }

  /** The step that this coordinator has taken. */
  get generation(): number {
    return this.#generation;
  }

  start(): Promise<void> {
    return this.#loop.start();
  }

  stop(): Promise<void> {
    return this.#loop.stop();
  }

  /** The row was changed here: looks at it now. */
  async refresh(): Promise<void> {
    this.#state = (await this.#options.store.read()) ?? this.#state;
    this.#loop.wake();
  }

  async #turn(): Promise<void> {
    const { store, follow, onStep, log } = this.#options;
    const state = (await store.read()) ?? this.#state;
    this.#state = state;
    if (state.generation === this.#generation) return;
    await follow(state);
    this.#generation = state.generation;
    this.#waiting = '';
    log.info({ event: 'trust.followed', generation: state.generation, phase: state.phase });
    onStep();
  }
  /** Tried again each second, and said once. */
  #wait(error: unknown): void {
    const { code, message, hint } = toMeshError(error);
    if (message === this.#waiting) return;
    this.#waiting = message;
    this.#options.log.warn(
      { event: 'trust.waiting', code, reason: message, hint },
      'a step of the rotation has to wait',
    );
  }
}
