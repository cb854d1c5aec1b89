import { test } from 'tap';
import { sql } from 'kysely';
import { openTransaction, withStore } from '../../test/support/postgres.js';
import {
  assignedJob,
  countsOf,
  failed,
  lead,
  madeJob,
  newJob,
  pages,
  untilBlocked,
} from '../../test/support/store-fixtures.js';
import type { PostgresStore } from './index.js';

const inputRows = async (store: PostgresStore): Promise<number> =>
  (await sql<{ n: number }>`select count(*) as n from job_input`.execute(store.database.kysely)).rows[0]?.n ?? -1;

test('of many submissions with one key at once, one makes the job and all get it', async (t) => {
  const store = await withStore(t);
  const tries = await Promise.all(
    Array.from({ length: 10 }, () =>
      store.jobs.create(newJob(2, { idempotencyKey: 'k', hasInputs: true }), pages(['"a"', '"b"'])),
    ),
  );
  t.equal(tries.filter(({ created }) => created).length, 1);
  t.equal(new Set(tries.map(({ job }) => job.id)).size, 1);
  t.equal(await inputRows(store), 1, 'the losers left no inputs');
});

test('inputs are chunked, go to the rows of their tasks in order, and are gone then', async (t) => {
  const store = await withStore(t);
  const epoch = await lead(store);
  const inputs = Array.from({ length: 2500 }, (_, i) => JSON.stringify({ value: `file "${i}" \\ ü\n` }));
  const { job } = await store.jobs.create(
    newJob(2500, { hasInputs: true }),
    pages(inputs.slice(0, 7), [], inputs.slice(7)),
  );
  t.equal(await inputRows(store), 3);
  const given = async (...ends: number[]): Promise<(string | undefined)[]> => {
    const items = ends.slice(1).map((to, place) => ({ job: job.seq, node: 1, from: ends[place] as number, to }));
    const { tasks } = await store.tasks.assign(epoch, items);
    return tasks.sort((x, y) => x.index - y.index).map((task) => task.input);
  };
  t.same(await given(0, 3, 999), inputs.slice(0, 999));
  t.equal(await inputRows(store), 3);
  t.same(await given(999, 1001), inputs.slice(999, 1001));
  t.equal(await inputRows(store), 2, 'a chunk that is used up is deleted');
  t.same(await given(999, 1001), [], 'repeating it gives nothing');
  t.same(await given(1001, 1500, 2500), inputs.slice(1001));
  t.equal(await inputRows(store), 0);
  t.same(
    await store.tasks.inputs([
      { job: job.seq, index: 5, generation: 1 },
      { job: job.seq, index: 9999, generation: 1 },
    ]),
    [inputs[5], undefined],
  );
});

test('a submission that fails half way leaves nothing', async (t) => {
  const store = await withStore(t);
  async function* broken() {
    yield Array.from({ length: 1500 }, () => '1');
    throw new Error('the client went away');
  }
  await t.rejects(store.jobs.create(newJob(2000, { hasInputs: true }), broken()), /went away/);
  await t.rejects(store.jobs.create(newJob(3, { hasInputs: true }), pages(['1', '2'])), { code: 'BAD_SPEC' });
  await t.rejects(store.jobs.create(newJob(3), pages(['1'])), { code: 'BAD_SPEC' });
  t.equal(await inputRows(store), 0);
  t.same(await store.jobs.live(), []);
  await sql`insert into job_input values ('crashed', 0, 1, '{1}', now() - interval '2 days')`.execute(
    store.database.kysely,
  );
  await store.migrate();
  t.equal(await inputRows(store), 0, 'what a crash left is swept at a later start');
});

test('a job that ended is removed with everything of it; a live one is not', async (t) => {
  const store = await withStore(t);
  const epoch = await lead(store);
  const { job, tasks } = await assignedJob(store, epoch, 3);
  await store.jobs.remove([job.seq]);
  t.ok(await store.jobs.get(job.id), 'it is alive');
  await store.tasks.settle(
    epoch,
    tasks.map((task) => failed(task)),
  );
  const soon = Date.now() + 3_600_000;
  t.same(await store.jobs.endedBefore(soon, 10), [{ seq: job.seq, id: job.id }]);
  t.same(await store.jobs.endedBefore(soon - 7_200_000, 10), []);
  await store.jobs.remove([job.seq]);
  t.equal(await store.jobs.get(job.id), undefined);
  for (const table of ['task', 'task_attempt', 'job_input', 'job'])
    t.same(
      (await sql<{ n: number }>`select count(*) as n from ${sql.table(table)}`.execute(store.database.kysely)).rows,
      [{ n: 0 }],
      table,
    );
});

test('an earlier holder of a job row makes the next statement wait, not fail', async (t) => {
  const store = await withStore(t);
  const epoch = await lead(store);
  const job = await madeJob(store, 2);
  const other = await openTransaction(t, store, `select 1 from job where seq = ${job.seq} for update`);
  const assigned = store.tasks.assign(epoch, [{ job: job.seq, node: 1, from: 0, to: 2 }]);
  await untilBlocked(store);
  t.match(await countsOf(store, job.id), { assigned: 0 });
  await other.commit();
  t.equal((await assigned).tasks.length, 2);
});

test('the database refuses rows that break an invariant', async (t) => {
  const store = await withStore(t);
  const epoch = await lead(store);
  const { job } = await assignedJob(store, epoch, 2);
  const db = store.database.kysely;
  const broken = [
    sql`update job set completed = completed + 1 where seq = ${job.seq}`,
    sql`update job set status = 'COMPLETED', completed_at = now() where seq = ${job.seq}`,
    sql`update task set status = 'COMPLETED' where job = ${job.seq}`,
    sql`update task set due_at = now() where job = ${job.seq}`,
    sql`update task set status = 'LOST' where job = ${job.seq}`,
    sql`update task set failures = -1 where job = ${job.seq}`,
  ];
  for (const statement of broken) await t.rejects(statement.execute(db), { code: '23514' });
});

test('jobs that come together are kept together; one that is refused costs the others nothing', async (t) => {
  const store = await withStore(t);
  const epoch = await lead(store);
  const given = Array.from({ length: 30 }, (_, n) => newJob(n + 1, { epoch, idempotencyKey: `k${n % 29}` }));
  const [bad] = given.splice(4, 1, newJob(0, { epoch }));
  const answers = await Promise.allSettled(given.map((job) => store.jobs.create(job, pages())));
  t.match(answers[4], { status: 'rejected' }, 'no job has no tasks');
  t.ok(bad);
  const kept = answers.flatMap((answer) => (answer.status === 'fulfilled' ? [answer.value] : []));
  t.equal(kept.length, 29);
  t.equal(kept.filter(({ created }) => created).length, 28, 'of two with one key the first is kept');
  t.equal(answers[29]?.status === 'fulfilled' && answers[29].value.job.id, given[0]?.id);
  t.ok(new Set(kept.map(({ job }) => job.seq)).size === 28);
  const good = Array.from({ length: 20 }, () => newJob(1, { epoch }));
  await Promise.all(good.map((job) => store.jobs.create(job, pages())));
  const { rows } = await sql<{ commits: number }>`
    select count(distinct xmin::text)::integer as commits from job
    where id = any (${good.map(({ id }) => id)}::text[])`.execute(store.database.kysely);
  t.ok((rows[0]?.commits ?? 20) <= 10, `${rows[0]?.commits} commits for 20 jobs that came at once`);
});
