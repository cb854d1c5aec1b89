import { type RawBuilder, sql } from 'kysely';
import { bigints, ints, texts } from './arrays.js';
import type { Database } from './database.js';
import type { Span } from './task-ranges.js';

/** What holds something of tasks. */
const TABLES = ['task', 'task_original', 'task_attempt', 'task_range', 'task_block'] as const;

/** Rows of one table that a statement deletes at most: short transactions, so that others are not held up. */
const ROWS_MAX = 5000;

/**
 * Deletes jobs that have ended. Rows first, a bounded number per statement, however many jobs they are of; the jobs last:
 * what a crash leaves is found and removed again.
 */
export async function removeJobs(database: Database, seqs: readonly number[]): Promise<void> {
  if (seqs.length === 0) return;
  const { rows: jobs } = await database.run((db) =>
    sql<{ seq: number; id: string; materialised: number }>`
      select seq, id, materialised from job
      where seq = any (${bigints(seqs, (seq) => seq)}) and completed_at is not null`.execute(db),
  );
  const made = jobs.map(({ seq, materialised }) => ({ job: seq, from: 0, to: materialised }));
  for (const ranges of inBatches(made)) {
    for (const table of TABLES) await database.run((db) => removeStatement(table, ranges).execute(db));
  }
  const ids = jobs.map(({ id }) => id);
  await database.run((db) =>
    sql`delete from job_input i using unnest(${texts(ids, (id) => id)}) as u(id) where i.job_id = any (array[u.id])`.execute(
      db,
    ),
  );
  await database.run((db) =>
    sql`delete from job j using unnest(${bigints(jobs, ({ seq }) => seq)}) as u(seq) where j.seq = any (array[u.seq])`.execute(
      db,
    ),
  );
}

/** The job is compared as in leading.ts, `keyOf`: the key is the only way to the rows. */
export const removeStatement = (table: (typeof TABLES)[number], ranges: readonly Span[]): RawBuilder<unknown> => sql`
  delete from ${sql.table(table)} t
  using unnest(
    ${bigints(ranges, ({ job }) => job)}, ${ints(ranges, ({ from }) => from)}, ${ints(ranges, ({ to }) => to)}
  ) as u(job, first, after)
  where t.job = any (array[u.job]) and ${first(table)} >= u.first and ${first(table)} < u.after`;

const first = (table: (typeof TABLES)[number]): RawBuilder<unknown> =>
  table === 'task_range' || table === 'task_block' ? sql`t.first` : sql`t.index`;

/** Cuts ranges so that each batch has at most ROWS_MAX rows. */
function* inBatches(ranges: readonly Span[]): Generator<Span[]> {
  let batch: Span[] = [];
  let rows = 0;
  for (const { job, to } of ranges) {
    for (let from = 0; from < to; ) {
      const after = Math.min(to, from + ROWS_MAX - rows);
      batch.push({ job, from, to: after });
      rows += after - from;
      from = after;
      if (rows < ROWS_MAX) continue;
      yield batch;
      batch = [];
      rows = 0;
    }
  }
  if (batch.length > 0) yield batch;
}
