/**
 * Who leads. The lease is a row with an epoch and a renewal counter; no clocks are compared: a candidate takes the
 * lease only after it has watched the counter stand still for a whole lease on its own monotonic clock, or when the
 * holder is itself (it holds the lock of its data directory, so its former process is gone). Every write that moves a
 * task carries the epoch and is refused in SQL once another epoch rules; so a leader that was paused can do no harm,
 * and finding out late that the lease is lost costs only time.
 */
import type { Clock } from '../../common/clock.js';
import { pause } from '../../common/clock.js';
import { MeshError } from '../../common/errors.js';
import type { Service } from '../../common/lifecycle.js';
import type { Logger } from '../../common/log.js';
import { Loop } from '../../common/loop.js';
import type { LeaderStore } from '../ports.js';

export interface LeadershipOptions {
  store: LeaderStore;
  /** This coordinator, the same after a restart on the same data directory. */
  holder: string;
  leaseMs: number;
  clock: Clock;
  log: Logger;
  /** Another coordinator took over; nothing this process does will be accepted any more. */
  onLost: () => void;
}

export class Leadership implements Service {
  readonly name = 'leadership';
  readonly #options: LeadershipOptions;
  readonly #renewal: Loop;
  readonly #stopping = new AbortController();
  #epoch = 0;

  constructor(options: LeadershipOptions) {
    this.#options = options;
    this.#renewal = new Loop({
      name: 'leadership.renewal',
      clock: options.clock,
      everyMs: options.leaseMs / 3,
      turn: () => this.#renew(),
      onError: (error) => options.log.warn({ event: 'leader.renewal-failed', err: error }, 'could not renew the lease'),
    });
  }

  /** The epoch this process leads under; 0 before it leads and after it lost. */
  get epoch(): number {
    return this.#epoch;
  }

  async start(): Promise<void> {
    const { store, holder, leaseMs, clock, log } = this.#options;
    while (!this.#stopping.signal.aborted) {
      const seen = await store.read();
      if (seen && seen.holder !== holder && seen.holder !== '') {
        log.info({ event: 'leader.waiting', holder: seen.holder, epoch: seen.epoch }, 'another coordinator may lead');
        await pause(clock, leaseMs, this.#stopping.signal);
        if (this.#stopping.signal.aborted) return;
        const now = await store.read();
        if (now && (now.epoch !== seen.epoch || now.renewals !== seen.renewals)) {
          throw new MeshError('IN_USE', `coordinator ${now.holder} leads on this database`, {
            hint: 'stop it first, or give this one a database of its own',
          });
        }
      }
      const epoch = await store.take(seen, holder);
      if (epoch !== undefined) {
        this.#epoch = epoch;
        log.info({ event: 'leader.elected', epoch }, 'this coordinator leads');
        return this.#renewal.start();
      }
    }
  }

  async #renew(): Promise<void> {
    if (this.#epoch === 0 || (await this.#options.store.renew(this.#epoch))) return;
    this.#options.log.error({ event: 'leader.lost', epoch: this.#epoch }, 'another coordinator leads now');
    this.#epoch = 0;
    this.#options.onLost();
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#renewal.stop();
  }
}
