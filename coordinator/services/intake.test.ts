import { test } from 'tap';
import { digestOf } from '../../test/support/store-fixtures.js';
import { PlayedAgent, startPlane, submission, submit } from '../../test/support/plane.js';
import { withStore } from '../../test/support/postgres.js';
import type { TaskInput } from '../../proto/gen/mesh/v1/common.js';
import { receiveBlobs } from '../rpc/receive.js';

const item = (value: string, files: TaskInput['files'] = []): TaskInput => ({ value, files });

async function* pagesOf(pages: TaskInput[][], onPage: (page: number) => Promise<void> | void = () => undefined) {
  for (const [number, page] of pages.entries()) {
    await onPage(number);
    yield page;
  }
}

test('a job is acknowledged by its commit; its items reach its tasks in order', async (t) => {
  const { plane } = await startPlane(t);
  const job = await plane.intake.submit({
    ...submission(3, { array: undefined }),
    hasItems: true,
    items: pagesOf([[item('a'), item('b')], [item('c')]]),
  });
  t.match(job, { status: 'QUEUED', submitter: 'anna', counts: { total: 3, materialised: 0 } });
  const agent = new PlayedAgent(plane, 'attic', 3);
  await agent.connect();
  const { groups } = await agent.mailbox.next('assign');
  t.same(
    groups.map(({ indexes, inputs }) => [indexes, inputs.map(({ value }) => value)]),
    [
      [
        [0, 1, 2],
        ['a', 'b', 'c'],
      ],
    ],
  );
});

test('items are taken a page at a time: what is not stored is not asked for', async (t) => {
  const { plane } = await startPlane(t);
  const pages = Array.from({ length: 5 }, (_, page) => Array.from({ length: 1000 }, (_, i) => item(`${page}.${i}`)));
  let asked = 0;
  let stored = 0;
  const job = await plane.intake.submit({
    ...submission(5000, { array: undefined }),
    hasItems: true,
    items: pagesOf(pages, (page) => {
      asked = page;
      t.ok(asked - stored <= 1, 'at most one page is on its way');
      stored = page;
    }),
  });
  t.equal(job.counts.total, 5000);
});

test('a wrong number of items leaves no job and no inputs, and the key is free', async (t) => {
  const store = await withStore(t);
  const { plane } = await startPlane(t, { store });
  const given = submission(3, { array: undefined });
  for (const count of [2, 4]) {
    const items = Array.from({ length: count }, (_, i) => item(String(i)));
    await t.rejects(plane.intake.submit({ ...given, hasItems: true, items: pagesOf([items]) }), {
      code: 'BAD_SPEC',
      message: `the job announced 3 tasks and described ${count}`,
    });
  }
  t.same(await store.jobs.list({ limit: 10 }), []);
  const left = await store.database.run((db) => db.selectFrom('job_input').selectAll().execute());
  t.same(left, []);
  const right = await plane.intake.submit({
    ...given,
    hasItems: true,
    items: pagesOf([[item('a'), item('b'), item('c')]]),
  });
  t.equal(right.counts.total, 3);
});

test('a client that breaks off in the middle leaves nothing', async (t) => {
  const { plane, store } = await startPlane(t);
  async function* broken() {
    yield [item('a')];
    throw new Error('the connection broke');
  }
  const given = { ...submission(2, { array: undefined }), hasItems: true, items: broken() };
  await t.rejects(plane.intake.submit(given), { message: 'the connection broke' });
  t.same(await store.jobs.list({ limit: 10 }), []);
});

test('the same key: the same job for the same specification, an error for another, also in a race', async (t) => {
  const { plane, store } = await startPlane(t);
  const given = submission(3);
  const first = await plane.intake.submit(given);
  t.equal((await plane.intake.submit(given)).id, first.id);
  await t.rejects(plane.intake.submit({ ...given, spec: { ...given.spec, priority: 5 } }), {
    code: 'IDEMPOTENCY_CONFLICT',
  });
  const other = await plane.intake.submit({ ...given, submitter: 'bert' });
  t.not(other.id, first.id, 'keys are the submitter’s own');

  const items = () => ({ hasItems: true, items: pagesOf([[item('a'), item('b')]]) });
  const raced = { ...submission(2, { array: undefined }), idempotencyKey: 'raced' };
  const answers = await Promise.all(Array.from({ length: 6 }, () => plane.intake.submit({ ...raced, ...items() })));
  t.equal(new Set(answers.map(({ id }) => id)).size, 1, 'six at once make one job');
  await t.rejects(
    plane.intake.submit({ ...raced, hasItems: true, items: pagesOf([[item('a'), item('x')]]) }),
    { code: 'IDEMPOTENCY_CONFLICT' },
    'the items are part of it',
  );
  t.equal((await store.jobs.list({ limit: 10 })).length, 3);
});

test('files that were not uploaded are named; uploaded ones pass', async (t) => {
  const { plane } = await startPlane(t);
  const digest = digestOf('hello');
  const work = { $case: 'function' as const, value: { moduleDigest: digest, exportName: 'default', environment: {} } };
  await t.rejects(submit(plane, 1, { work }), { code: 'BAD_SPEC', message: new RegExp(digest) });
  const file = { path: 'a.txt', digest, sizeBytes: 5, executable: false };
  const staged = () => ({
    ...submission(1, { array: undefined }),
    hasItems: true,
    items: pagesOf([[item('a', [file])]]),
  });
  await t.rejects(plane.intake.submit(staged()), { code: 'BAD_SPEC', message: /1 files of the job were not uploaded/ });
  async function* upload() {
    yield { digest, data: Buffer.from('hello') };
  }
  await receiveBlobs(plane.blobs, upload(), plane.lead().uploads.begin('submitter/anna'));
  t.equal((await plane.intake.submit(staged())).counts.total, 1);
});

test('more live jobs than allowed are refused with an error that may be tried again', async (t) => {
  const parts = await startPlane(t, { config: { maxLiveJobs: 2 } });
  const { plane } = parts;
  const agent = new PlayedAgent(plane, 'attic', 4);
  await agent.connect();
  const first = await submit(plane, 1);
  await submit(plane, 1);
  await t.rejects(submit(plane, 1), { code: 'OVERLOADED', message: /^2 jobs are waiting or running/ });
  const tasks = await agent.assignedAll(2);
  await agent.finish(tasks.filter(({ job }) => job === first.seq));
  await submit(plane, 1);
});

test('a disk that is short takes no new jobs', async (t) => {
  const { plane } = await startPlane(t, { config: { minFreeBytes: Number.MAX_SAFE_INTEGER } });
  while (
    await submit(plane, 1).then(
      () => true,
      (error: { code: string }) => error.code !== 'DISK_FULL',
    )
  );
  await t.rejects(submit(plane, 1), { code: 'DISK_FULL' });
});
