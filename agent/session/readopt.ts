import type { Finished } from '../../proto/gen/mesh/v1/agent.js';
import type { Ledger } from '../core/ledger.js';
import type { LogStreamer } from './log-streamer.js';
import type { Outbox } from './outbox.js';
import type { Reconciliation } from './upstream.js';

/**
 * Attempts that were given away and are further ahead than their replacements: they go on under a new generation.
 * Returns the results that go out under it.
 */
export function readopt(
  { ledger, logs, outbox }: { ledger: Ledger; logs: LogStreamer; outbox: Outbox },
  readopted: Reconciliation['readopted'],
): Finished[] {
  const { attempts, generations = [] } = readopted ?? {};
  if (!attempts) return [];
  return attempts.jobs.flatMap((job, i) => {
    const ref = { job, index: attempts.indexes[i] as number, generation: attempts.generations[i] as number };
    const generation = generations[i] as number;
    if (generation <= ref.generation) return [];
    ledger.renumber(ref, generation);
    logs.renumber(ref, generation);
    return outbox.renumber(ref, generation) ?? [];
  });
}
