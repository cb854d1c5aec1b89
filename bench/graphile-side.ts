/**
 * graphile-worker doing the same: N jobs that do nothing, from the first insert to the commit that completes the last.
 * Insertion and workers share this process, which spares it every network hop but the database's. The workers run
 * before the first job is inserted and are idle, as the mesh's agents are.
 */
import { Logger, type RunnerOptions, type WorkerUtils, makeWorkerUtils, run, runMigrations } from 'graphile-worker';
import postgres from 'postgres';
import { systemClock } from '../common/clock.js';
import { type DatabaseAddress, toConnectionString } from './database.js';
import type { Side } from './side.js';
import { until } from './until.js';

/** What can be set and was tried; everything else is graphile-worker's default. */
export interface GraphileSettings {
  concurrentJobs: number;
  /** Jobs fetched, and locked, in one statement; absent: each worker fetches its own. */
  localQueue?: number;
  /** Completions of so many milliseconds share a statement; absent: each has its own. */
  completeDelayMs?: number;
  /** Jobs in one statement. */
  insertBatch: number;
  /** `addJobs` sends each job as JSON and gets its row back; `sql` has `add_jobs` make them where they are stored. */
  insertion: 'addJobs' | 'sql';
}

/** The settings in its documentation's first example, but as many jobs at a time as the best has. */
export const GRAPHILE_DEFAULT: GraphileSettings = { concurrentJobs: 48, insertBatch: 5000, insertion: 'sql' };

/** The best of a sweep, see bench/profile/contenders.md: `npm run bench -- graphile-sweep`. */
export const GRAPHILE_BEST: GraphileSettings = {
  concurrentJobs: 48,
  localQueue: 4000,
  completeDelayMs: 20,
  insertBatch: 5000,
  insertion: 'sql',
};

/** The same with jobs that come from JavaScript, as most programs have them. */
export const GRAPHILE_API: GraphileSettings = { ...GRAPHILE_BEST, insertion: 'addJobs' };

/** The embedded server has room for 40, which the coordinator shares. */
const CONNECTIONS = 20;
const POLL_MS = 2;

export const silent = new Logger(() => () => undefined);

export function toPreset({ concurrentJobs, localQueue, completeDelayMs }: GraphileSettings): RunnerOptions['preset'] {
  return {
    worker: {
      concurrentJobs,
      maxPoolSize: CONNECTIONS,
      ...(localQueue === undefined ? {} : { localQueue: { size: localQueue } }),
      ...(completeDelayMs === undefined
        ? {}
        : { completeJobBatchDelay: completeDelayMs, failJobBatchDelay: completeDelayMs }),
    },
  };
}

/** Jobs `from` up to `to`, both included, each with its index, made and stored by one statement. */
const ADD_JOBS = `
  select count(*) from graphile_worker.add_jobs(array(
    select row('noop', json_build_object('index', index), null, null, null, null, null, null)::graphile_worker.job_spec
    from generate_series($1::int, $2::int) as index))`;

async function insert(utils: WorkerUtils, tasks: number, { insertBatch, insertion }: GraphileSettings): Promise<void> {
  for (let done = 0; done < tasks; done += insertBatch) {
    const count = Math.min(insertBatch, tasks - done);
    if (insertion === 'sql') {
      await utils.withPgClient((client) => client.query(ADD_JOBS, [done, done + count - 1]));
    } else {
      await utils.addJobs(
        Array.from({ length: count }, (_, index) => ({ identifier: 'noop', payload: { index: done + index } })),
      );
    }
  }
}

/** `database` is one of its own, which is migrated here. */
export async function makeGraphileSide(
  name: string,
  settings: GraphileSettings,
  database: DatabaseAddress,
): Promise<Side> {
  const connectionString = toConnectionString(database);
  await runMigrations({ connectionString, logger: silent });
  const sql = postgres({ ...database, max: 1, onnotice: () => undefined });
  const isEmpty = async (): Promise<boolean> => {
    const [row] = await sql<{ some: boolean }[]>`select exists (select from graphile_worker._private_jobs) as some`;
    return row?.some === false;
  };
  const { concurrentJobs, localQueue, completeDelayMs, insertBatch, insertion } = settings;
  const delay = completeDelayMs === undefined ? 'off' : `${completeDelayMs} ms`;
  return {
    name,
    config: {
      concurrentJobs: String(concurrentJobs),
      maxPoolSize: String(CONNECTIONS),
      localQueue: localQueue === undefined ? 'off' : String(localQueue),
      completeJobBatchDelay: delay,
      failJobBatchDelay: delay,
      insertion: `${insertion === 'sql' ? 'add_jobs in SQL from generate_series' : 'addJobs'}, ${insertBatch} at a time`,
      process: 'insertion and workers in the process of the bench, no network but the database',
    },
    async run(tasks) {
      if (!(await isEmpty())) throw new Error('graphile-worker has jobs left over from another run');
      let executed = 0;
      const utils = await makeWorkerUtils({ connectionString, logger: silent });
      const runner = await run({
        preset: toPreset(settings),
        connectionString,
        logger: silent,
        noHandleSignals: true,
        taskList: { noop: () => void executed++ },
      });
      const from = systemClock.monotonicMs();
      await insert(utils, tasks, settings);
      await until('the last job', POLL_MS, () => executed >= tasks);
      // All have run; the commit that completes the last is the end.
      await until('the last commit', POLL_MS, isEmpty);
      const elapsedMs = systemClock.monotonicMs() - from;
      await runner.stop();
      await utils.release();
      if (executed !== tasks) throw new Error(`graphile-worker ran ${executed} of ${tasks} jobs`);
      return elapsedMs;
    },
    async stop() {
      await sql.end();
    },
  };
}
