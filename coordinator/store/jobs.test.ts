import { test } from 'tap';
import { sql } from 'kysely';
import { openTransaction, withStore } from '../../test/support/postgres.js';
import {
  assignTasks,
  assignedJob,
  countsOf,
  failed,
  lead,
  madeJob,
  newJob,
  pages,
  untilBlocked,
} from '../../test/support/store-fixtures.js';
import { JobSpec } from '../../proto/gen/mesh/v1/mesh.js';
import type { AssignedTask, NewJob } from '../ports.js';
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

test('what is answered to a submission is what is kept', async (t) => {
  const store = await withStore(t);
  const epoch = await lead(store);
  const work = {
    $case: 'function' as const,
    value: { moduleDigest: 'a'.repeat(64), exportName: 'f', environment: {} },
  };
  const resources = { cpuMillis: 500, custom: { licence: 1 } };
  const spec = JobSpec.decode(
    JobSpec.encode(JobSpec.fromPartial({ name: 'as it is', work, taskCount: 3, priority: 7, resources })).finish(),
  );
  const over: Partial<NewJob>[] = [
    { spec },
    { spec, namespace: 'team', retryOf: 'job0', submitter: 'ben', epoch },
    { spec, epoch, place: () => 4 },
    {},
  ];
  for (const one of over) {
    const { job, created } = await store.jobs.create(newJob(3, one), pages());
    t.ok(created);
    t.same(job, await store.jobs.get(job.id));
  }
});

test('inputs are chunked, are given with their tasks in order, and stay until their job is removed', async (t) => {
  const store = await withStore(t);
  const epoch = await lead(store);
  const inputs = Array.from({ length: 2500 }, (_, i) => JSON.stringify({ value: `file "${i}" \\ ü\n` }));
  const { job } = await store.jobs.create(
    newJob(2500, { hasInputs: true }),
    pages(inputs.slice(0, 7), [], inputs.slice(7)),
  );
  const given = async (...ends: number[]): Promise<AssignedTask[]> => {
    const items = ends.slice(1).map((to, place) => ({ job: job.seq, node: 1, from: ends[place] as number, to }));
    const { tasks } = await assignTasks(store, epoch, items);
    return tasks.sort((x, y) => x.index - y.index);
  };
  const inputsOf = (tasks: AssignedTask[]) => tasks.map(({ input }) => input);
  const first = await given(0, 3, 999);
  t.same(inputsOf(first), inputs.slice(0, 999), 'a few with rows, and a range');
  t.same(inputsOf(await given(999, 1001)), inputs.slice(999, 1001), 'of two chunks');
  t.same(await given(999, 1001), [], 'repeating it gives nothing');
  const last = await given(1001, 1500, 2500);
  t.same(inputsOf(last), inputs.slice(1001));
  const refs = [5, 1, 1000, 2499, 9999].map((index) => ({ job: job.seq, index, generation: 1 }));
  t.same(await store.tasks.inputs(refs), [inputs[5], inputs[1], inputs[1000], inputs[2499], undefined]);
  await sql`delete from job_input where job_id = ${job.id}`.execute(store.database.kysely);
  t.equal(await inputRows(store), 3, 'a coordinator of an earlier version cannot delete what is still needed');
  await store.tasks.settle(
    epoch,
    [...first, ...last, ...refs.slice(2, 3)].map((ref) => failed({ ...ref, node: 1 })),
  );
  await store.jobs.requestCancel(epoch, job.seq, undefined);
  t.match(await store.tasks.cancel(epoch, job.seq, 0, 2500), { job: { status: 'CANCELLED' } });
  t.same(
    (await store.tasks.unfinishedInputs(job.seq, 0, 5000)).map(({ input }) => input),
    inputs,
    'rows that were made of tasks in ranges have their inputs',
  );
  await store.jobs.remove([job.seq]);
  t.equal(await inputRows(store), 0);
});

test('tasks are not assigned without the inputs they are to have', async (t) => {
  const store = await withStore(t);
  const epoch = await lead(store);
  const { job } = await store.jobs.create(newJob(40, { hasInputs: true }), pages(new Array(40).fill('1')));
  await sql`alter table job_input disable trigger user`.execute(store.database.kysely);
  await sql`delete from job_input`.execute(store.database.kysely);
  const plain = await madeJob(store, 40);
  const items = [job, plain].map(({ seq }) => ({ job: seq, node: 1, from: 0, to: 40 }));
  const { tasks } = await assignTasks(store, epoch, items);
  t.same([tasks.length, new Set(tasks.map((task) => task.job))], [40, new Set([plain.seq])]);
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
  const assigned = assignTasks(store, epoch, [{ job: job.seq, node: 1, from: 0, to: 2 }]);
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
