/** A coordinator of a version that made the rows of tasks ahead of their assignment led until now. */
import { sql } from 'kysely';
import { test } from 'tap';
import { assignTasks, lead } from '../../test/support/store-fixtures.js';
import { withStore } from '../../test/support/postgres.js';

test('rows that were made ahead go, and their inputs wait where inputs wait', async (t) => {
  const store = await withStore(t);
  const db = store.database.kysely;
  // Of 30,000 tasks with inputs 25,500 have rows and ten were assigned; the others wait in a chunk that was used in part.
  // The third job's cancellation came no further than its first page.
  await sql`
    insert into job (id, submitter, idempotency_key, spec_digest, name, type, priority, on_failure, spec, has_inputs,
      total, materialised, cursor, queued, assigned, cancelled, skipped, status, cancelling, started_at)
    values
      ('given', 'anna', 'k1', '', 'x', 'process', 0, 'finish', '{}', true, 30000, 25500, 10, 25490, 10, 0, 0, 'RUNNING', false, now()),
      ('bare', 'anna', 'k2', '', 'x', 'process', 0, 'finish', '{}', false, 100, 60, 0, 60, 0, 0, 0, 'QUEUED', false, null),
      ('going', 'anna', 'k3', '', 'x', 'process', 0, 'finish', '{}', false, 100, 100, 0, 40, 0, 60, 40, 'QUEUED', true, null)`.execute(
    db,
  );
  await sql`insert into task (job, index, input) select 1, n, n::text from generate_series(0, 25499) n`.execute(db);
  await sql`insert into task (job, index) select j, n from (values (2), (3)) jobs(j), generate_series(0, 59) n`.execute(
    db,
  );
  await sql`
    update task set status = 'ASSIGNED', generation = 1, node = 1, assigned_at = now() where job = 1 and index < 10`.execute(
    db,
  );
  await sql`update task set status = 'CANCELLED', finished_at = now() where job = 3 and index < 20`.execute(db);
  await sql`
    insert into job_input (job_id, from_index, to_index, inputs)
    select 'given', 25000, 30000, array_agg(n::text order by n) from generate_series(25000, 29999) n`.execute(db);
  const rows = async (): Promise<unknown> =>
    (await sql`select job, count(*)::integer as rows from task group by job order by job`.execute(db)).rows;

  const epoch = await lead(store);
  await t.rejects(store.jobs.withdrawRows(epoch + 1), { code: 'LEADERSHIP_LOST' });
  await store.jobs.withdrawRows(epoch);
  t.same(await rows(), [
    { job: 1, rows: 10 },
    { job: 3, rows: 60 },
  ]);
  t.match(await store.jobs.get('given'), {
    cursor: 10,
    counts: { total: 30_000, materialised: 10, queued: 0, assigned: 10 },
  });
  t.match(await store.jobs.get('bare'), { cursor: 0, counts: { total: 100, materialised: 0, queued: 0 } });
  await store.jobs.withdrawRows(epoch);

  const { tasks } = await assignTasks(store, epoch, [
    { job: 1, node: 1, from: 10, to: 30_000 },
    { job: 2, node: 1, from: 0, to: 100 },
  ]);
  const ofFirst = tasks.filter(({ job }) => job === 1);
  t.equal(ofFirst.length, 29_990);
  t.ok(
    ofFirst.every(({ index, input }) => input === String(index)),
    'every task has its own input',
  );
  t.match(await store.tasks.cancel(epoch, 3, 0, 100), { cancelled: 40, job: { status: 'CANCELLED' } });
});
