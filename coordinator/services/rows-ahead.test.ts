import { test } from 'tap';
import { JobSpec } from '../../proto/gen/mesh/v1/mesh.js';
import { KindRegistry } from '../core/work.js';
import type { JobRow, Store } from '../ports.js';
import { Changes } from './changes.js';
import { Jobs } from './jobs.js';
import { FIRST_ROWS, RowsAhead } from './rows-ahead.js';

const none = { assigned: 0, running: 0, retrying: 0, completed: 0, failed: 0, cancelled: 0 };

const rowOf = (seq: number, total: number): JobRow => ({
  ...{ seq, id: `job-${seq}`, name: '', type: 'process', status: 'QUEUED', priority: 0, submitter: 'anna' },
  ...{ namespace: 'default', retryOf: undefined, cursor: 0, cancelling: false, error: undefined, createdAtMs: 1 },
  spec: JobSpec.fromPartial({ work: { $case: 'process', value: { argv: ['true'] } } }),
  counts: { total, materialised: Math.min(total, FIRST_ROWS), ...none, queued: Math.min(total, FIRST_ROWS) },
  ...{ startedAtMs: undefined, completedAtMs: undefined },
});

/** Jobs, and a store that makes the rows it is asked for. */
function setUp(totals: number[]) {
  const jobs = new Jobs(new KindRegistry(), new Changes(), 1000);
  let advanced = 0;
  jobs.onAdvance = () => advanced++;
  const statements: number[] = [];
  const materialise: Store['jobs']['materialise'] = async (_epoch, wanted) => {
    statements.push(wanted.reduce((sum, { rows }) => sum + rows, 0));
    return wanted.map(({ job, rows }) => {
      const { total, materialised } = jobs.get(job)?.row.counts ?? { total: 0, materialised: 0 };
      return { job, rows: Math.min(total, materialised + rows) };
    });
  };
  const rows = new RowsAhead({ store: { jobs: { materialise } } as unknown as Store, jobs, epoch: () => 1 });
  const live = totals.map((total, index) => jobs.add(rowOf(index + 1, total)));
  for (const job of live) rows.follow(job);
  const fill = async () => {
    while (await rows.make());
  };
  /** The planner takes all that is there. */
  const take = () =>
    jobs.apply(live.map(({ row }) => ({ ...row, counts: { ...row.counts }, cursor: row.counts.materialised })));
  return { jobs, live, statements, fill, take, advanced: () => advanced };
}

test('rows of a large job are made as the planner comes near them, a bounded number at a time', async (t) => {
  const total = 200_000;
  const { jobs, live, statements, fill, take, advanced } = setUp([total]);
  const [job] = live;
  if (!job) throw new Error('one job');
  for (let taken = 0; taken < total; taken = job.row.cursor) {
    await fill();
    t.ok(jobs.fresh(job) >= Math.min(30_000, total - taken), `${jobs.fresh(job)} ahead of ${taken}`);
    t.ok(jobs.fresh(job) <= 40_000);
    take();
  }
  t.ok(advanced() > 0, 'that the planner went on was said');
  t.ok(Math.max(...statements) <= 10_000);
  const made = statements.length;
  await fill();
  t.equal(statements.length, made, 'nothing is asked for at the end');
});

test('many large jobs share what is kept ahead, and each has something', async (t) => {
  const { jobs, live, statements, fill } = setUp(Array.from({ length: 1000 }, () => 100_000));
  await fill();
  const ahead = live.map((job) => jobs.fresh(job));
  t.ok(Math.min(...ahead) >= FIRST_ROWS);
  t.ok(ahead.reduce((a, b) => a + b, 0) <= 400_000, `${ahead.reduce((a, b) => a + b, 0)} in all`);
  t.ok(Math.max(...statements) <= 10_200);
});

test('small jobs need nothing more; cancelled ones get nothing', async (t) => {
  const { live, statements, fill } = setUp([FIRST_ROWS, 1, 5000]);
  const [, , cancelled] = live;
  if (!cancelled) throw new Error('three jobs');
  cancelled.row.cancelling = true;
  await fill();
  t.same(statements, []);
});
