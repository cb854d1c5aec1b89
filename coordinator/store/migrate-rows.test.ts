/** Databases of the versions that made the rows of tasks ahead of their assignment. */
import { sql } from 'kysely';
import { test } from 'tap';
import { silentLogger } from '../../common/log.js';
import { lead } from '../../test/support/store-fixtures.js';
import { openTestStore, withDatabase } from '../../test/support/postgres.js';
import { migrate } from './migrate.js';

test('rows that were made ahead go, and their inputs wait where inputs wait', async (t) => {
  const store = await openTestStore(t, await withDatabase(t, { migrated: false }));
  await migrate(store.database.target, silentLogger, undefined, undefined, '0012_submitters');
  const db = store.database.kysely;
  // Of 3000 tasks with inputs 2500 have rows and ten were assigned; the others wait in a chunk that was used in part.
  await sql`
    insert into job (id, submitter, idempotency_key, spec_digest, name, type, priority, on_failure, spec, has_inputs,
      total, materialised, cursor, queued, assigned, status, started_at)
    values ('given', 'anna', 'k1', '', 'x', 'process', 0, 'finish', '{}', true, 3000, 2500, 10, 2490, 10, 'RUNNING', now()),
      ('bare', 'anna', 'k2', '', 'x', 'process', 0, 'finish', '{}', false, 100, 60, 0, 60, 0, 'QUEUED', null)`.execute(
    db,
  );
  await sql`insert into task (job, index, input) select 1, n, n::text from generate_series(0, 2499) n`.execute(db);
  await sql`insert into task (job, index) select 2, n from generate_series(0, 59) n`.execute(db);
  await sql`
    update task set status = 'ASSIGNED', generation = 1, node = 1, assigned_at = now() where job = 1 and index < 10`.execute(
    db,
  );
  await sql`
    insert into job_input (job_id, from_index, to_index, inputs)
    select 'given', 2000, 3000, array_agg(n::text order by n) from generate_series(2000, 2999) n`.execute(db);

  await store.migrate();
  const count = async (): Promise<unknown> =>
    (await sql`select job, count(*)::integer as rows from task group by job order by job`.execute(db)).rows;
  t.same(await count(), [{ job: 1, rows: 10 }]);
  t.match(await store.jobs.get('given'), {
    cursor: 10,
    counts: { total: 3000, materialised: 10, queued: 0, assigned: 10 },
  });
  t.match(await store.jobs.get('bare'), { cursor: 0, counts: { total: 100, materialised: 0, queued: 0 } });

  const epoch = await lead(store);
  const { tasks } = await store.tasks.assign(epoch, [
    { job: 1, node: 1, from: 10, to: 3000 },
    { job: 2, node: 1, from: 0, to: 100 },
  ]);
  const ofFirst = tasks.filter(({ job }) => job === 1);
  t.equal(ofFirst.length, 2990);
  t.ok(
    ofFirst.every(({ index, input }) => input === String(index)),
    'every task has its own input',
  );
  t.same(await count(), [
    { job: 1, rows: 3000 },
    { job: 2, rows: 100 },
  ]);
});
