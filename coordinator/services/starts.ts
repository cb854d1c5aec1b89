/** Beginnings of attempts, as agents tell them, gathered and written together. */
import { Batcher } from '../../common/batcher.js';
import type { Clock } from '../../common/clock.js';
import type { Logger } from '../../common/log.js';
import type { Started } from '../../proto/gen/mesh/v1/agent.js';
import type { Ledger } from '../core/ledger.js';
import type { Store } from '../ports.js';
import type { Jobs } from './jobs.js';
import type { AgentSession } from './session.js';
import { Unsaved } from './unsaved.js';

const BATCH_MAX = 1000;

export interface StartsOptions {
  store: Store;
  jobs: Jobs;
  ledger: Ledger;
  clock: Clock;
  log: Logger;
  epoch: () => number;
}

interface Start {
  session: AgentSession;
  item: Started;
  /** Monotonic. */
  startedMs: number;
  unsure?: true;
}

/** What one takes in memory while it waits, about. */
const START_BYTES = 256;

export class Starts {
  readonly #options: StartsOptions;
  readonly #batcher: Batcher<Start>;
  readonly #unsaved: Unsaved<Start>;

  constructor(options: StartsOptions) {
    this.#options = options;
    this.#batcher = new Batcher({
      itemsMax: BATCH_MAX,
      flush: (items) => this.#write(items),
      onError: (error, items) => this.#unsaved.failed(error, items),
    });
    this.#unsaved = new Unsaved({
      ...{ kind: 'starts', clock: options.clock, log: options.log },
      again: (items) => this.#batcher.addAll(items),
    });
  }

  add(session: AgentSession, items: readonly Started[]): void {
    const nowMs = this.#options.clock.monotonicMs();
    session.owe(items.length * START_BYTES);
    this.#batcher.addAll(items.map((item) => ({ session, item, startedMs: nowMs - item.ageMs })));
  }

  /** Resolves when what was said so far is written, or waits for the next try. */
  idle(): Promise<void> {
    return this.#batcher.idle();
  }

  /** What could not be written until now is not tried again. */
  stop(): void {
    this.#unsaved.stop();
  }

  /** The ledger follows the agent's word at once; the rows follow for people, and for whoever leads next. */
  async #write(items: Start[]): Promise<void> {
    const { store, jobs, ledger, clock, epoch } = this.#options;
    const live = items.filter(({ session, item, startedMs }) => ledger.markRunning(item, session.node, startedMs));
    if (live.length === 0) return this.#written(items);
    const nowMs = clock.monotonicMs();
    const rows = live.map(({ session, item, startedMs }) => ({
      ...item,
      node: session.node,
      ageMs: nowMs - startedMs,
    }));
    const { jobs: jobChanges } = await store.tasks.markRunning(epoch(), rows);
    jobs.apply(jobChanges);
    this.#written(items);
  }

  #written(items: readonly Start[]): void {
    this.#unsaved.saved(items);
    for (const { session } of items) session.repay(START_BYTES);
  }
}
