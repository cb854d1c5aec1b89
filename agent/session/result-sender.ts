/**
 * The way of results out of the agent: into the outbox at once, in batches into the journal, and from there to the
 * coordinator of the moment. Without one they wait in the outbox.
 */
import { Batcher } from '../../common/batcher.js';
import type { Clock } from '../../common/clock.js';
import type { Logger } from '../../common/log.js';
import type { SucceededRun } from '../../proto/gen/mesh/v1/agent.js';
import { Delivery } from './delivery.js';
import { Gatherer } from './gatherer.js';
import { inBatches, type Outbox } from './outbox.js';
import type { Result } from './results.js';
import type { Upstream } from './upstream.js';

const BATCH_MAX = 1000;

export interface ResultSenderOptions {
  outbox: Outbox;
  clock: Clock;
  log: Logger;
  /** How many attempts wait on this node to begin. */
  queued: () => number;
}

export class ResultSender {
  readonly #outbox: Outbox;
  readonly #delivery: Delivery;
  readonly #gatherer: Gatherer;
  readonly #batcher: Batcher<Result>;

  constructor({ outbox, clock, log, queued }: ResultSenderOptions) {
    this.#outbox = outbox;
    this.#delivery = new Delivery(outbox);
    this.#gatherer = new Gatherer({ clock, queued, send: (runs) => this.#batcher.addAll(runs) });
    this.#batcher = new Batcher({
      itemsMax: BATCH_MAX,
      flush: (results) => this.#flush(results),
      onError: (err) => log.warn({ event: 'results.unsent', err }, 'results wait for the next session'),
    });
  }

  /** Resolves when the stream or the window takes no more of what the outbox has. */
  connected(upstream: Upstream): Promise<void> {
    return this.#delivery.connected(upstream);
  }

  disconnected(): void {
    this.#delivery.disconnected();
  }

  /** Acknowledgements have made room: sends what waits for it. */
  pump(): void {
    void this.#delivery.pump();
  }

  send(result: Result): void {
    this.#outbox.add(result);
    this.pass(result);
  }

  /** Those of commands may wait for others. */
  sendRun(run: SucceededRun): void {
    if (run.exitCode === undefined) return this.send(run);
    this.#outbox.add(run);
    this.#gatherer.add(run);
  }

  /** What the outbox has already, or need not have. Takes along what waits. */
  pass(result: Result): void {
    this.#gatherer.release();
    this.#batcher.add(result);
  }

  /** What could begin here has begun: what waits may go now. */
  weigh(): void {
    this.#gatherer.weigh();
  }

  /** Resolves when everything so far is kept, and sent as far as it can be. */
  async idle(): Promise<void> {
    this.#gatherer.release();
    await this.#batcher.idle();
  }

  async #flush(results: Result[]): Promise<void> {
    for (const batch of inBatches(results, BATCH_MAX)) {
      await this.#delivery.send(await this.#outbox.store(batch));
    }
  }
}
