import type { ServerWritableStream } from '@grpc/grpc-js';
import { status } from '@grpc/grpc-js';
import { test } from 'tap';
import { MeshError } from '../common/errors.js';
import { toStatus } from '../common/grpc-errors.js';
import { Job, type WatchJobRequest, type WatchJobResponse } from '../proto/gen/mesh/v1/mesh.js';
import { startFakeMesh } from '../test/support/fake-mesh.js';
import { requireCompleted, waitForJob } from './watch.js';

type Call = ServerWritableStream<WatchJobRequest, WatchJobResponse>;
const job = (jobStatus: string) => ({ job: Job.fromPartial({ id: 'j', status: jobStatus, error: 'because' }) });

test('waits until the job ends, across a coordinator that goes away', async (t) => {
  let calls = 0;
  const fake = await startFakeMesh({
    watchJob: (call: Call) => {
      calls++;
      call.write(job('RUNNING'));
      if (calls === 1) call.emit('error', { code: status.UNAVAILABLE, details: 'restarting' });
      else {
        call.write(job('FAILED'));
        call.end();
      }
    },
  });
  t.teardown(() => fake.stop());
  const seen: string[] = [];
  const ended = await waitForJob(fake.mesh, 'j', { onChange: (change) => seen.push(change.status) });
  t.equal(ended.status, 'FAILED');
  t.equal(calls, 2);
  t.same(seen, ['RUNNING', 'RUNNING', 'FAILED']);
});

test('time runs out, and other errors are not waited for', async (t) => {
  const fake = await startFakeMesh({
    watchJob: (call: Call) => {
      if (call.request.id === 'gone') call.emit('error', toStatus(new MeshError('NOT_FOUND', 'no job gone')));
      else if (call.request.id === 'away') call.emit('error', { code: status.UNAVAILABLE, details: 'away' });
      else call.write(job('RUNNING'));
    },
  });
  t.teardown(() => fake.stop());
  await t.rejects(waitForJob(fake.mesh, 'j', { timeoutMs: 20 }), { code: 'TIMED_OUT', message: /after 20 ms/ });
  await t.rejects(waitForJob(fake.mesh, 'gone'), { code: 'NOT_FOUND', message: 'no job gone' });
  await t.rejects(waitForJob(fake.mesh, 'away', { patienceMs: 0 }), { code: 'UNREACHABLE' });
});

test('only a completed job counts as done', async (t) => {
  t.doesNotThrow(() => requireCompleted(Job.fromPartial({ status: 'COMPLETED' })));
  for (const other of ['FAILED', 'CANCELLED', 'PARTIALLY_COMPLETED'])
    t.throws(() => requireCompleted(Job.fromPartial({ id: 'j', status: other, error: 'because' })), {
      code: 'JOB_FAILED',
      message: `job j is ${other}, 0 of 0 tasks completed: because`,
    });
});
