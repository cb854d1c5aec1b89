import { test } from 'tap';
import { Job, type ListTasksResponse, Task } from '../proto/gen/mesh/v1/mesh.js';
import { requireDone } from './await-job.js';

const failed = Job.fromPartial({ id: 'j', status: 'FAILED', tasks: { total: 3, failed: 1, completed: 2 } });

const listing = (...pages: Partial<ListTasksResponse>[]) => ({
  listTasks: async () => ({ items: [], next: '', ...pages.shift() }),
});

test('a job that failed says which task failed first, and why, in one short line', async (t) => {
  const lastError = `Error: \u001b[31mboom${'x'.repeat(300)}\n    at somewhere`;
  const mesh = listing({ next: '2' }, { items: [Task.fromPartial({ index: 2, lastError })] });
  await t.rejects(requireDone(mesh, failed), {
    code: 'JOB_FAILED',
    message: /^job j is FAILED, 2 of 3 tasks completed: task 2: Error: boomx+…$/,
  });
});

test('what cannot be asked for is left out; what the job says itself is not asked for', async (t) => {
  const denied = { listTasks: () => Promise.reject(new Error('denied')) };
  await t.rejects(requireDone(denied, failed), { message: 'job j is FAILED, 2 of 3 tasks completed' });
  await t.rejects(requireDone(denied, { ...failed, error: 'because' }), { message: /completed: because$/ });
  await t.resolves(requireDone(denied, { ...failed, status: 'COMPLETED' }));
});
