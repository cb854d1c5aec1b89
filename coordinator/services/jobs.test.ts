import { test } from 'tap';
import { JobSpec } from '../../proto/gen/mesh/v1/mesh.js';
import { KindRegistry } from '../core/work.js';
import type { JobChange, JobRow } from '../ports.js';
import { Changes } from './changes.js';
import { Jobs } from './jobs.js';

const none = { queued: 0, assigned: 0, running: 0, retrying: 0, completed: 0, failed: 0, cancelled: 0 };

const rowOf = (seq: number): JobRow => ({
  ...{ seq, id: `job-${seq}`, name: '', type: 'process', status: 'QUEUED', priority: 0, submitter: 'anna' },
  namespace: 'default',
  spec: JobSpec.fromPartial({ work: { $case: 'process', value: { argv: ['true'] } }, retries: 2, where: 'os=linux' }),
  ...{ retryOf: undefined, cursor: 0, cancelling: false, error: undefined, createdAtMs: 1 },
  counts: { total: 10, materialised: 10, ...none, queued: 10 },
  ...{ startedAtMs: undefined, completedAtMs: undefined },
});

const changeOf = (row: JobRow, over: Partial<JobChange>): JobChange => ({
  ...{ seq: row.seq, status: 'RUNNING', counts: row.counts, cursor: row.cursor, startedAtMs: 2 },
  completedAtMs: undefined,
  ...over,
});

test('memory follows what statements said; a job that ends leaves at once and its watchers hear of it', async (t) => {
  const changes = new Changes();
  const jobs = new Jobs(new KindRegistry(), changes, 1000);
  let heard = 0;
  changes.jobs.subscribe(1, () => heard++);
  const live = jobs.add(rowOf(1));
  t.equal(jobs.add(rowOf(1)), live, 'adding twice is adding once');
  t.match(live, { policy: { failuresMax: 3 }, body: { job: 1, jobId: 'job-1', taskCount: 10, logBytesMax: 1000 } });
  t.equal(jobs.fresh(live), 10);
  t.same(jobs.apply([changeOf(live.row, { cursor: 4 })]), []);
  t.equal(jobs.fresh(live), 6);
  const done = jobs.apply([changeOf(live.row, { status: 'COMPLETED', completedAtMs: 3 })]);
  t.match(done, [{ id: 'job-1', status: 'COMPLETED', completedAtMs: 3 }]);
  t.equal(heard, 2);
  t.equal(jobs.get(1), undefined);
  t.equal(jobs.byId('job-1'), undefined);
  t.same(jobs.apply([changeOf(live.row, {})]), [], 'what arrives late changes nothing');
});

test('answers that arrive in the other order never move a cursor back: no task is given twice', async (t) => {
  const jobs = new Jobs(new KindRegistry(), new Changes(), 1000);
  const live = jobs.add(rowOf(1));
  jobs.apply([changeOf(live.row, { cursor: 8 })]);
  jobs.apply([changeOf(live.row, { cursor: 3 })]);
  t.equal(live.row.cursor, 8);
  t.equal(jobs.fresh(live), 2);
});

test('a row that was read in place of a lost answer is followed like one', async (t) => {
  const jobs = new Jobs(new KindRegistry(), new Changes(), 1000);
  jobs.add(rowOf(1));
  t.match(jobs.follow({ ...rowOf(1), status: 'FAILED', completedAtMs: 9 }), [{ status: 'FAILED' }]);
  t.equal(jobs.size, 0);
});

test('a job that runs what another ran begins with what was learned from it', async (t) => {
  const jobs = new Jobs(new KindRegistry(), new Changes(), 1000);
  const first = jobs.add(rowOf(1));
  const waiting = jobs.add(rowOf(2));
  const foreign = jobs.add({ ...rowOf(3), submitter: 'bert' });
  t.equal(waiting.taskTime.ms, undefined);
  first.taskTime.observe(40, 4);
  t.equal(waiting.taskTime.ms, 10, 'also where it was submitted before');
  t.equal(jobs.add(rowOf(4)).taskTime.ms, 10);
  t.equal(foreign.taskTime.ms, undefined, "another submitter's may be something else");
  waiting.taskTime.observe(300, 1);
  t.equal(waiting.taskTime.ms, 300, 'its own word counts more');
});

test('jobs that end leave their group, and those that had left it end all the same', async (t) => {
  const jobs = new Jobs(new KindRegistry(), new Changes(), 1000);
  const groups = () => [...jobs.waiting().values()].map((group) => [...group].map(({ row }) => row.seq));
  const first = jobs.add(rowOf(1));
  jobs.add(rowOf(2));
  jobs.add({ ...rowOf(3), submitter: 'bert' });
  t.same(groups(), [[1, 2], [3]]);
  jobs.apply([changeOf(first.row, { cursor: 10 })]);
  t.same(groups(), [[2], [3]]);
  jobs.apply([1, 2].map((seq) => changeOf(rowOf(seq), { status: 'CANCELLED', completedAtMs: 3 })));
  t.same(groups(), [[3]]);
});

test('jobs that wait are told by group, as long as they have tasks that nobody was given', async (t) => {
  const jobs = new Jobs(new KindRegistry(), new Changes(), 1000);
  const groups = () => [...jobs.waiting().values()].map((group) => [...group].map(({ row }) => row.seq));
  const first = jobs.add(rowOf(1));
  const second = jobs.add(rowOf(2));
  const foreign = jobs.add({ ...rowOf(3), submitter: 'bert' });
  t.same(groups(), [[1, 2], [3]]);
  t.ok(jobs.hasLike(first));
  t.notOk(jobs.hasLike(foreign));
  second.blockedNodes.add(7);
  t.notOk(jobs.hasLike(first), 'the other one may find no place where this one does');
  jobs.apply([changeOf(first.row, { cursor: 10 })]);
  t.same(groups(), [[2], [3]]);
  second.row.cancelling = true;
  jobs.apply([changeOf(second.row, {})]);
  t.same(groups(), [[3]], 'what is being cancelled waits for nothing');
  jobs.apply([changeOf(foreign.row, { status: 'CANCELLED', completedAtMs: 3 })]);
  t.same(groups(), []);
});
