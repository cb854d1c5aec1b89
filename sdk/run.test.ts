import { type ServerReadableStream, type ServerWritableStream, status } from '@grpc/grpc-js';
import { test } from 'tap';
import { MeshError } from '../common/errors.js';
import { toStatus } from '../common/grpc-errors.js';
import {
  Job,
  type ReadResultsRequest,
  type ReadResultsResponse,
  type RunJobRequest,
  type RunJobResponse,
  type SubmitJobRequest,
  type TaskResult,
  type WatchJobRequest,
  type WatchJobResponse,
} from '../proto/gen/mesh/v1/mesh.js';
import { startFakeMesh } from '../test/support/fake-mesh.js';
import { runJob } from './run.js';
import { BATCH_ITEMS, makeSpec } from './submit.js';

const work = { $case: 'process' as const, value: { argv: ['true'], environment: {} } };
const run = (taskCount: number) => ({ spec: makeSpec({ name: 'n', work, taskCount }), idempotencyKey: 'k' });
const job = (jobStatus: string) => Job.fromPartial({ id: 'j', status: jobStatus });
const result = (index: number): TaskResult => ({ index, status: 'COMPLETED', resultJson: String(index) });

/** A coordinator that can do it step by step too; `onRun` plays the one call. */
async function coordinator(onRun: (call: ServerWritableStream<RunJobRequest, RunJobResponse>) => void) {
  const calls: string[] = [];
  const fake = await startFakeMesh({
    runJob: (call: ServerWritableStream<RunJobRequest, RunJobResponse>) => {
      calls.push('runJob');
      onRun(call);
    },
    submitJob: (call: ServerReadableStream<SubmitJobRequest, { job: Job }>, callback) => {
      calls.push('submitJob');
      call.on('data', () => undefined).on('end', () => callback(null, { job: job('QUEUED') }));
    },
    watchJob: (call: ServerWritableStream<WatchJobRequest, WatchJobResponse>) => {
      calls.push('watchJob');
      call.write({ job: job('COMPLETED') });
      call.end();
    },
    readResults: (call: ServerWritableStream<ReadResultsRequest, ReadResultsResponse>) => {
      calls.push('readResults');
      call.write({ items: [0, 1, 2].map(result) });
      call.end();
    },
  });
  return { ...fake, calls };
}

function listener() {
  const heard: string[] = [];
  return {
    heard,
    onJob: ({ status: jobStatus }: Job) => void heard.push(jobStatus),
    onResults: (results: TaskResult[]) => void heard.push(...results.map(({ resultJson }) => resultJson)),
  };
}

test('one call: the job, its results in order, and its end', async (t) => {
  const fake = await coordinator((call) => {
    call.write({ job: job('QUEUED'), results: [] });
    call.write({ job: undefined, results: [result(0), result(1)] });
    call.write({ job: job('COMPLETED'), results: [result(2)] });
    // The call stays open: its end is not waited for.
  });
  t.teardown(() => fake.stop());
  const { heard, ...listening } = listener();
  const items = ['a', 'b', 'c'].map((value) => ({ value, files: [] }));
  t.match(await runJob(fake.mesh, { ...run(3), items }, listening), { status: 'COMPLETED' });
  t.same(heard, ['QUEUED', '0', '1', '2']);
  t.same(fake.calls, ['runJob']);
});

test('what has ended before is told in the first message, and its results follow', async (t) => {
  const fake = await coordinator((call) => {
    t.equal(call.request.results, true);
    call.write({ job: job('FAILED'), results: [] });
    call.write({ job: job('FAILED'), results: [result(0)] });
    call.end();
  });
  t.teardown(() => fake.stop());
  const { heard, ...listening } = listener();
  t.match(await runJob(fake.mesh, run(1), listening), { status: 'FAILED' });
  t.same(heard, ['FAILED', '0']);
});

test('a call that breaks off after the job is committed goes on step by step; no result comes twice', async (t) => {
  const fake = await coordinator((call) => {
    call.write({ job: job('QUEUED'), results: [result(0)] });
    call.emit('error', { code: status.UNAVAILABLE, details: 'restarting' });
  });
  t.teardown(() => fake.stop());
  const { heard, ...listening } = listener();
  t.match(await runJob(fake.mesh, run(3), listening), { status: 'COMPLETED' });
  t.same(heard, ['QUEUED', '0', '1', '2']);
  t.same(fake.calls, ['runJob', 'watchJob', 'readResults']);
});

test('before that it is made again, with the same key; a refusal is final', async (t) => {
  let tries = 0;
  const fake = await coordinator((call) => {
    t.equal(call.request.idempotencyKey, 'k');
    if (call.request.spec?.name === 'bad') call.emit('error', toStatus(new MeshError('BAD_SPEC', 'no')));
    else if (++tries === 1) call.emit('error', toStatus(new MeshError('OVERLOADED', 'busy')));
    else {
      call.write({ job: job('QUEUED'), results: [] });
      call.write({ job: job('COMPLETED'), results: [] });
      call.end();
    }
  });
  t.teardown(() => fake.stop());
  t.match(await runJob(fake.mesh, run(1), { random: () => 0 }), { status: 'COMPLETED' });
  const bad = { spec: { ...run(1).spec, name: 'bad' }, idempotencyKey: 'k' };
  await t.rejects(runJob(fake.mesh, bad), { code: 'BAD_SPEC' });
  t.same(fake.calls, ['runJob', 'runJob', 'runJob']);
});

test('an older coordinator, and more than one message holds, go step by step', async (t) => {
  const fake = await coordinator((call) => call.emit('error', { code: status.UNIMPLEMENTED, details: 'what?' }));
  t.teardown(() => fake.stop());
  const { heard, ...listening } = listener();
  await runJob(fake.mesh, run(3), listening);
  t.same(heard, ['QUEUED', '0', '1', '2']);
  t.same(fake.calls.splice(0), ['runJob', 'submitJob', 'watchJob', 'readResults']);
  const items = Array.from({ length: BATCH_ITEMS + 1 }, () => ({ value: 'x', files: [] }));
  await runJob(fake.mesh, { ...run(items.length), items });
  t.same(fake.calls, ['submitJob', 'watchJob']);
});

test('what a listener throws ends the call', async (t) => {
  let gone: () => void = () => undefined;
  const left = new Promise<void>((resolve) => (gone = resolve));
  const fake = await coordinator((call) => {
    call.on('cancelled', gone);
    call.write({ job: job('QUEUED'), results: [result(0)] });
  });
  t.teardown(() => fake.stop());
  const onResults = () => {
    throw new Error('the disk is full');
  };
  await t.rejects(runJob(fake.mesh, run(1), { onResults }), { message: 'the disk is full' });
  await left;
});
