import { sql } from 'kysely';
import type { Database } from './database.js';
import { lease, runAsLeader } from './leading.js';

const ROWS_MAX = 10_000;
/** Small, because an input may be large. */
const INPUTS_IN_CHUNK = 100;

/**
 * Earlier versions made the rows of tasks ahead of their assignment. A range is assigned only where a job's rows end, so
 * those go, from the end, a bounded number in each statement; inputs that no chunk holds any more go back into chunks. A
 * job that is being cancelled keeps its rows: they are cancelled as they are.
 *
 * It is no migration, because a leader of such a version may make rows until the moment at which another takes over.
 */
export async function withdrawRows(database: Database, epoch: number): Promise<void> {
  for (;;) {
    const { withdrawn } = await runAsLeader(
      database,
      epoch,
      sql<{ leading: number; withdrawn: number }>`
        with ${lease(epoch)},
        locked as materialized (
          select seq, id, has_inputs, greatest(cursor, materialised - ${ROWS_MAX}::integer) as first, materialised as after
          from job
          where completed_at is null and not cancelling and materialised > cursor and exists (select from lease)
          order by seq limit 1 for no key update
        ),
        gone as (
          delete from task t using locked l
          where t.job = any (array[l.seq]) and t.index >= l.first and t.index < l.after and t.status = 'QUEUED'
            and t.generation = 0
          returning t.index, t.input
        ),
        kept as (
          insert into job_input (job_id, from_index, to_index, inputs)
          select l.id, min(g.index), max(g.index) + 1, array_agg(g.input order by g.index)
          from locked l cross join gone g
          where l.has_inputs and not exists (
            select from job_input i where i.job_id = l.id and i.from_index <= g.index and i.to_index > g.index
          )
          group by l.id, g.index / ${sql.lit(INPUTS_IN_CHUNK)}
        ),
        moved as (
          update job j set materialised = j.materialised - n.rows, queued = j.queued - n.rows
          from locked l, (select count(*)::integer as rows from gone) n where j.seq = l.seq
        )
        select (select count(*) from lease) as leading, (select count(*) from gone) as withdrawn`,
    );
    if (withdrawn === 0) return;
  }
}
