/**
 * graphile-worker doing the same: N jobs that do nothing, from the first insert to the commit that completes the last.
 * Insertion and workers share this process, which spares it every network hop but the database's. The workers run
 * before the first job is inserted and are idle, as the mesh's agents are.
 */
import { Logger, type RunnerOptions, makeWorkerUtils, run, runMigrations } from 'graphile-worker';
import postgres from 'postgres';
import { systemClock } from '../common/clock.js';
import { type DatabaseAddress, toConnectionString } from './database.js';
import type { Side } from './side.js';
import { until } from './until.js';

export type GraphileMode = 'default' | 'batched';

const CONCURRENCY = 24;
/** The embedded server has room for 40, which the coordinator shares. */
const CONNECTIONS = 20;
const COMPLETE_DELAY_MS = 20;
/** Jobs in one add_jobs statement. */
const INSERT_BATCH = 5000;
const POLL_MS = 2;

const silent = new Logger(() => () => undefined);

/**
 * The documented settings of each mode; everything else is graphile-worker's default. `batched` fetches 500 jobs at
 * once and completes what ends within 20 ms in one statement.
 */
function options(mode: GraphileMode): Pick<RunnerOptions, 'preset'> {
  const shared = { concurrentJobs: CONCURRENCY, maxPoolSize: CONNECTIONS };
  if (mode === 'default') return { preset: { worker: shared } };
  return {
    preset: {
      worker: {
        ...shared,
        localQueue: { size: 500 },
        completeJobBatchDelay: COMPLETE_DELAY_MS,
        failJobBatchDelay: COMPLETE_DELAY_MS,
      },
    },
  };
}

async function insert(connectionString: string, tasks: number): Promise<void> {
  const utils = await makeWorkerUtils({ connectionString, logger: silent });
  try {
    for (let done = 0; done < tasks; done += INSERT_BATCH) {
      const count = Math.min(INSERT_BATCH, tasks - done);
      await utils.addJobs(
        Array.from({ length: count }, (_, index) => ({ identifier: 'noop', payload: { index: done + index } })),
      );
    }
  } finally {
    await utils.release();
  }
}

/** `database` is one of its own, which is migrated here. */
export async function makeGraphileSide(mode: GraphileMode, database: DatabaseAddress): Promise<Side> {
  const connectionString = toConnectionString(database);
  await runMigrations({ connectionString, logger: silent });
  const sql = postgres({ ...database, max: 1, onnotice: () => undefined });
  const isEmpty = async (): Promise<boolean> => {
    const [row] = await sql<{ some: boolean }[]>`select exists (select from graphile_worker._private_jobs) as some`;
    return row?.some === false;
  };
  return {
    name: `graphile-worker, ${mode}`,
    config: {
      concurrentJobs: String(CONCURRENCY),
      maxPoolSize: String(CONNECTIONS),
      localQueue: mode === 'batched' ? '500' : 'off',
      completeJobBatchDelay: mode === 'batched' ? `${COMPLETE_DELAY_MS} ms` : 'off',
      failJobBatchDelay: mode === 'batched' ? `${COMPLETE_DELAY_MS} ms` : 'off',
      insertion: `addJobs, ${INSERT_BATCH} at a time`,
      process: 'insertion and workers in the process of the bench, no network but the database',
    },
    async run(tasks) {
      if (!(await isEmpty())) throw new Error('graphile-worker has jobs left over from another run');
      let executed = 0;
      const runner = await run({
        ...options(mode),
        connectionString,
        logger: silent,
        noHandleSignals: true,
        taskList: { noop: () => void executed++ },
      });
      const from = systemClock.monotonicMs();
      await insert(connectionString, tasks);
      await until('the last job', POLL_MS, () => executed >= tasks);
      // All have run; the commit that completes the last is the end.
      await until('the last commit', POLL_MS, isEmpty);
      const elapsedMs = systemClock.monotonicMs() - from;
      await runner.stop();
      if (executed !== tasks) throw new Error(`graphile-worker ran ${executed} of ${tasks} jobs`);
      return elapsedMs;
    },
    async stop() {
      await sql.end();
    },
  };
}
