import type { Clock, Timer } from '../../common/clock.js';
import type { Logger } from '../../common/log.js';
import type { AuditStore } from '../ports.js';

/** One row for each node in this time, however many results it sent that nobody wanted any more. */
const WINDOW_MS = 60_000;

/**
 * The audit of results that were refused because another attempt has the task, or had. They are ordinary after a
 * partition and suspicious in numbers; a noisy or hostile node must not flood the audit with them, so they are counted
 * and written once a minute. What a crash loses is at most one minute's count.
 */
export class StaleAudit {
  readonly #counts = new Map<string, number>();
  #timer: Timer | undefined;

  constructor(private readonly options: { audit: AuditStore; clock: Clock; log: Logger }) {}

  count(node: string, results: number): void {
    this.#counts.set(node, (this.#counts.get(node) ?? 0) + results);
    this.#timer ??= this.options.clock.after(WINDOW_MS, () => void this.flush(), { background: true });
  }

  async flush(): Promise<void> {
    const { audit, log } = this.options;
    this.#timer?.cancel();
    this.#timer = undefined;
    const counts = [...this.#counts];
    this.#counts.clear();
    for (const [node, results] of counts)
      await audit
        .append({
          actor: `agent/${node}`,
          action: 'result.stale',
          target: node,
          detail: { results, windowMs: WINDOW_MS },
        })
        .catch((error: unknown) => log.warn({ event: 'audit.unwritten', node, results, err: error }));
  }
}
