import { test } from 'tap';
import { withStore } from '../../test/support/postgres.js';
import {
  assignTasks,
  failed,
  lead,
  newJob,
  pages,
  retracted,
  retrying,
  settlement,
} from '../../test/support/store-fixtures.js';
import { TASK_STATUSES, type TaskStatus } from '../core/task.js';
import type { JobRow, Store } from '../ports.js';
import { TaskPages } from './task-pages.js';

const TOTAL = 14_000;
const GIVEN = 12_000;
/** What became of some tasks; those before GIVEN completed, the others wait. */
const SPECIAL = new Map<number, TaskStatus>([
  [17, 'RETRYING'],
  [40, 'RUNNING'],
  [41, 'ASSIGNED'],
  [50, 'FAILED'],
  [60, 'QUEUED'],
  [11_990, 'ASSIGNED'],
]);

/** A job in the middle of it all: rows for nearly all of its tasks, some in every state. */
async function makeJob(store: Store): Promise<{ epoch: number; job: JobRow }> {
  const epoch = await lead(store);
  const { job } = await store.jobs.create(newJob(TOTAL), pages());
  const { tasks } = await assignTasks(store, epoch, [{ job: job.seq, node: 1, from: 0, to: GIVEN }]);
  const end = { RETRYING: retrying, FAILED: failed, QUEUED: retracted };
  await store.tasks.settle(
    epoch,
    tasks.flatMap((task) => {
      const status = SPECIAL.get(task.index) ?? 'COMPLETED';
      if (status === 'ASSIGNED' || status === 'RUNNING' || status === 'CANCELLED') return [];
      return [status === 'COMPLETED' ? settlement(task) : end[status](task)];
    }),
  );
  const running = tasks.filter(({ index }) => SPECIAL.get(index) === 'RUNNING');
  await store.tasks.markRunning(
    epoch,
    running.map((task) => ({ ...task, ageMs: 1 })),
  );
  return { epoch, job: (await store.jobs.get(job.id)) as JobRow };
}

const before = (index: number): TaskStatus => SPECIAL.get(index) ?? (index < GIVEN ? 'COMPLETED' : 'QUEUED');

/** All pages from the beginning: the indexes found, and how many pages it took. */
async function walk(
  pagesOf: TaskPages,
  job: JobRow,
  status: TaskStatus | undefined,
  limit: number,
): Promise<{ found: number[]; count: number }> {
  const found: number[] = [];
  let count = 0;
  for (let from: number | undefined = 0; from !== undefined; count++) {
    const page = await pagesOf.page(job, status, from, limit);
    if (page.rows.length > limit) throw new Error(`a page of ${page.rows.length}`);
    if (page.rows.some((row) => status !== undefined && row.status !== status)) throw new Error('another state');
    found.push(...page.rows.map(({ index }) => index));
    if (page.next !== undefined && page.next <= from) throw new Error('the pages do not go on');
    from = page.next;
  }
  return { found, count };
}

const indexes = Array.from({ length: TOTAL }, (_, index) => index);

test('pages join to exactly the tasks that are asked for, those without a row too', async (t) => {
  const store = await withStore(t);
  const { job } = await makeJob(store);
  const live = indexes.filter((index) => ['ASSIGNED', 'RUNNING'].includes(before(index)));
  const leading = new TaskPages(store, (_, from) => live.filter((index) => index >= from));
  const standby = new TaskPages(store, undefined);
  for (const status of [undefined, ...TASK_STATUSES]) {
    const wanted = indexes.filter((index) => status === undefined || before(index) === status);
    for (const [who, pagesOf] of [
      ['the leader', leading],
      ['a standby', standby],
    ] as const)
      for (const limit of [100, 5000])
        t.same((await walk(pagesOf, job, status, limit)).found, wanted, `${status ?? 'all'} by ${limit}, ${who}`);
  }
  for (const status of ['RUNNING', 'ASSIGNED', 'RETRYING', 'FAILED'] as const)
    t.equal((await walk(leading, job, status, 100)).count, 1, `${status} is found at once among many`);
  t.match(await leading.page(job, undefined, TOTAL - 1, 5), { rows: [{ index: TOTAL - 1, status: 'QUEUED' }] });
  t.same(await leading.page(job, undefined, TOTAL, 5), { rows: [], next: undefined });
});

test('a cancelled job: what never had a row is cancelled too', async (t) => {
  const store = await withStore(t);
  const { epoch, job } = await makeJob(store);
  await store.jobs.requestCancel(epoch, job.seq, undefined);
  await store.tasks.cancel(epoch, job.seq, 0, TOTAL);
  const cancelled = (await store.jobs.get(job.id)) as JobRow;
  t.match(cancelled, { status: 'CANCELLED', counts: { materialised: TOTAL } });
  const pagesOf = new TaskPages(store, () => []);
  const isEnded = (index: number) => ['COMPLETED', 'FAILED'].includes(before(index));
  t.same(
    (await walk(pagesOf, cancelled, 'CANCELLED', 1000)).found,
    indexes.filter((index) => !isEnded(index)),
  );
  t.same((await walk(pagesOf, cancelled, undefined, 1000)).found, indexes);
  t.same((await walk(pagesOf, cancelled, 'QUEUED', 1000)).found, []);
  const [last] = (await pagesOf.page(cancelled, undefined, TOTAL - 1, 1)).rows;
  t.match(last, { status: 'CANCELLED', generation: 0, finishedAtMs: cancelled.completedAtMs });
});
