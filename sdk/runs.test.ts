import { type ServerDuplexStream, type ServerWritableStream, status } from '@grpc/grpc-js';
import { test, type Test } from 'tap';
import { MeshError } from '../common/errors.js';
import { toCallError } from '../common/grpc-errors.js';
import {
  Job,
  type RunJobRequest,
  type RunJobResponse,
  type RunJobsRequest,
  type RunJobsResponse,
} from '../proto/gen/mesh/v1/mesh.js';
import { startFakeMesh } from '../test/support/fake-mesh.js';
import { ManualClock } from '../test/support/manual-clock.js';
import { Runs } from './runs.js';
import { makeSpec } from './submit.js';

type Answering = ServerDuplexStream<RunJobsRequest, RunJobsResponse>;

const work = { $case: 'process' as const, value: { argv: ['true'], environment: {} } };
const request = (name: string, taskCount = 1): RunJobRequest => ({
  ...{ spec: makeSpec({ name, work, taskCount }), idempotencyKey: name, items: [], results: true },
});
const response = (id: string, jobStatus: string): RunJobResponse => ({
  job: Job.fromPartial({ id, status: jobStatus }),
  results: [],
});
const part = (number: number, value: RunJobResponse): RunJobsResponse => ({ number, part: { $case: 'run', value } });
const ended = (number: number): RunJobsResponse => ({ number, part: { $case: 'ended', value: true } });
const refused = (number: number, code: 'NOT_LEADER' | 'BAD_SPEC'): RunJobsResponse => ({
  ...{ number, part: { $case: 'error', value: toCallError(new MeshError(code, 'no')) } },
});

/** By calls it says `call`; streams are played by `onMessage`. */
async function connected(t: Test, onMessage: (stream: Answering, message: RunJobsRequest, opened: number) => void) {
  const heard: string[] = [];
  let opened = 0;
  const fake = await startFakeMesh({
    runJob: (call: ServerWritableStream<RunJobRequest, RunJobResponse>) => {
      heard.push(`call ${call.request.idempotencyKey}`);
      call.write(response('call', 'COMPLETED'));
      call.end();
    },
    runJobs: (stream: Answering) => {
      const number = ++opened;
      stream.on('data', (message: RunJobsRequest) => {
        heard.push(`stream ${number}: ${message.run?.idempotencyKey ?? `gave up ${message.number}`}`);
        onMessage(stream, message, number);
      });
      stream.on('end', () => {
        heard.push(`stream ${number} ended`);
        stream.end();
      });
    },
  });
  const clock = new ManualClock();
  const runs = new Runs(fake.mesh, clock);
  t.teardown(() => {
    runs.close();
    return fake.stop();
  });
  const run = async (name: string, taskCount?: number) => {
    const said: string[] = [];
    for await (const { job } of runs.run(request(name, taskCount))) said.push(`${job?.id} ${job?.status}`);
    return said;
  };
  return { runs, run, heard, clock };
}

const answer = (stream: Answering, { number, run }: RunJobsRequest) => {
  if (!run) return;
  stream.write(part(number, response(run.idempotencyKey, 'RUNNING')));
  stream.write(part(number, response(run.idempotencyKey, 'COMPLETED')));
  stream.write(ended(number));
};

test('the first job is a call, the following ones share a stream, and what is large has a call of its own', async (t) => {
  const { run, heard } = await connected(t, answer);
  t.same(await run('a'), ['call COMPLETED']);
  t.same(await run('b'), ['b RUNNING', 'b COMPLETED']);
  t.same(await run('c', 1000), ['call COMPLETED']);
  t.same(await Promise.all([run('d'), run('e')]), [
    ['d RUNNING', 'd COMPLETED'],
    ['e RUNNING', 'e COMPLETED'],
  ]);
  t.same(heard, ['call a', 'stream 1: b', 'call c', 'stream 1: d', 'stream 1: e']);
});

test('who reads no further gives the call up; what speaks against a job is told of that job', async (t) => {
  let toldUp: () => void = () => undefined;
  const givenUp = new Promise<void>((resolve) => (toldUp = resolve));
  const { runs, run, heard } = await connected(t, (stream, message) => {
    if (message.run?.idempotencyKey === 'bad') stream.write(refused(message.number, 'BAD_SPEC'));
    else if (message.run) stream.write(part(message.number, response('x', 'RUNNING')));
    else toldUp();
  });
  await run('a');
  for await (const { job } of runs.run(request('b'))) {
    t.equal(job?.status, 'RUNNING');
    break;
  }
  await givenUp;
  await t.rejects(run('bad'), { code: 'BAD_SPEC' });
  t.same(heard, ['call a', 'stream 1: b', 'stream 1: gave up 1', 'stream 1: bad']);
});

test('a stream that breaks: what was not heard of goes by a call, the rest is left to the caller', async (t) => {
  const { run, heard } = await connected(t, (stream, { number, run: asked }, opened) => {
    if (opened > 2) return answer(stream, { number, run: asked });
    if (opened === 2) stream.write(part(number, response('x', 'RUNNING')));
    stream.emit('error', { code: status.UNAVAILABLE, details: 'restarting' });
  });
  await run('a');
  t.same(await run('b'), ['call COMPLETED']);
  await t.rejects(run('c'), { code: 'UNREACHABLE' });
  t.same(await run('d'), ['d RUNNING', 'd COMPLETED']);
  t.same(heard, ['call a', 'stream 1: b', 'call b', 'stream 2: c', 'stream 3: d']);
});

test('a coordinator that does not lead any more is asked by a call, and the next stream is another', async (t) => {
  const { run, heard } = await connected(t, (stream, message, opened) => {
    if (opened === 1) stream.write(refused(message.number, 'NOT_LEADER'));
    else answer(stream, message);
  });
  await run('a');
  t.same(await run('b'), ['call COMPLETED']);
  t.same(await run('c'), ['c RUNNING', 'c COMPLETED']);
  t.same(
    heard.filter((what) => what !== 'stream 1 ended'),
    ['call a', 'stream 1: b', 'call b', 'stream 2: c'],
  );
});

test('a coordinator that knows no such streams is asked once', async (t) => {
  const heard: string[] = [];
  const fake = await startFakeMesh({
    runJob: (call: ServerWritableStream<RunJobRequest, RunJobResponse>) => {
      heard.push('call');
      call.write(response('call', 'COMPLETED'));
      call.end();
    },
    runJobs: (stream: Answering) => {
      heard.push('stream');
      stream.emit('error', { code: status.UNIMPLEMENTED, details: 'what?' });
    },
  });
  t.teardown(() => fake.stop());
  const runs = new Runs(fake.mesh);
  for (const name of ['a', 'b', 'c']) for await (const _ of runs.run(request(name)));
  t.same(heard, ['call', 'stream', 'call', 'call']);
});

test('a stream that nobody uses is ended, and the next job opens another', async (t) => {
  const { run, heard, clock } = await connected(t, answer);
  await run('a');
  await run('b');
  clock.advance(4000);
  await run('c');
  clock.advance(4000);
  await run('d');
  clock.advance(10_000);
  t.same(await run('e'), ['e RUNNING', 'e COMPLETED']);
  t.same(
    heard.filter((what) => what !== 'stream 1 ended'),
    ['call a', 'stream 1: b', 'stream 1: c', 'stream 1: d', 'stream 2: e'],
  );
});
