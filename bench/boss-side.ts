/**
 * pg-boss doing the same: N jobs that do nothing, from the first insert to the commit that completes the last. It has
 * batches in its interface, so nothing is called for a single job: jobs are inserted, fetched and completed by the
 * thousand, insertion and fetchers at the same time, in this process.
 */
import PgBoss from 'pg-boss';
import { pause, systemClock } from '../common/clock.js';
import { type DatabaseAddress, toConnectionString } from './database.js';
import type { Side } from './side.js';
import { RUN_MS_MAX } from './until.js';

const QUEUE = 'noop';
/** Jobs in one statement: inserted, fetched, completed. */
const BATCH = 2000;
/** Loops that fetch and complete; see bench/profile/contenders.md for what was tried. */
const FETCHERS = 2;
const CONNECTIONS = 10;
const POLL_MS = 2;

async function insert(boss: PgBoss, tasks: number): Promise<void> {
  for (let done = 0; done < tasks; done += BATCH) {
    const count = Math.min(BATCH, tasks - done);
    await boss.insert(Array.from({ length: count }, (_, index) => ({ name: QUEUE, data: { index: done + index } })));
  }
}

/** `database` is one of its own, which is set up here. */
export async function makeBossSide(database: DatabaseAddress): Promise<Side> {
  const boss = new PgBoss({ connectionString: toConnectionString(database), max: CONNECTIONS, schedule: false });
  const failed: Error[] = [];
  boss.on('error', (error) => failed.push(error));
  await boss.start();
  await boss.createQueue(QUEUE);
  return {
    name: 'pg-boss, batched',
    config: {
      batch: `${BATCH} jobs inserted, fetched and completed at a time`,
      fetchers: String(FETCHERS),
      priority: 'off',
      max: String(CONNECTIONS),
      process: 'insertion and fetchers in the process of the bench, no network but the database',
    },
    async run(tasks) {
      // Completed jobs stay for hours otherwise, and every run would be slower than the one before.
      await boss.clearStorage();
      let completed = 0;
      const from = systemClock.monotonicMs();
      const fetcher = async (): Promise<void> => {
        while (completed < tasks && systemClock.monotonicMs() - from < RUN_MS_MAX) {
          const jobs = await boss.fetch(QUEUE, { batchSize: BATCH, priority: false });
          if (jobs.length === 0) {
            await pause(systemClock, POLL_MS);
            continue;
          }
          await boss.complete(
            QUEUE,
            jobs.map(({ id }) => id),
          );
          completed += jobs.length;
        }
      };
      await Promise.all([insert(boss, tasks), ...Array.from({ length: FETCHERS }, fetcher)]);
      const elapsedMs = systemClock.monotonicMs() - from;
      if (failed[0]) throw failed[0];
      if (completed !== tasks) throw new Error(`pg-boss completed ${completed} of ${tasks} jobs`);
      return elapsedMs;
    },
    async stop() {
      await boss.stop({ graceful: false, wait: true });
    },
  };
}
