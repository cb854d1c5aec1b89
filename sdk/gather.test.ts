import type { sendUnaryData, ServerReadableStream, ServerUnaryCall } from '@grpc/grpc-js';
import { test } from 'tap';
import { MeshError } from '../common/errors.js';
import { toCallError } from '../common/grpc-errors.js';
import {
  Job,
  type SubmitJobRequest,
  type SubmitJobResponse,
  type SubmitJobsRequest,
  type SubmitJobsResponse,
} from '../proto/gen/mesh/v1/mesh.js';
import { startFakeMesh } from '../test/support/fake-mesh.js';
import { makeSpec, submitJob } from './submit.js';

const spec = (bytes = 1) =>
  makeSpec({
    name: 'n',
    work: { $case: 'process', value: { argv: ['x'.repeat(bytes)], environment: {} } },
    taskCount: 1,
  });

/** Which keys came in which call. A call that is held is answered when the test says so. */
class Recorded {
  readonly alone: string[] = [];
  readonly together: string[][] = [];
  hold = false;
  #held: (() => void)[] = [];
  #came: () => void = () => undefined;

  readonly methods = {
    submitJob: (
      call: ServerReadableStream<SubmitJobRequest, SubmitJobResponse>,
      callback: sendUnaryData<SubmitJobResponse>,
    ) => this.#one(call, callback),
    submitJobs: (
      call: ServerUnaryCall<SubmitJobsRequest, SubmitJobsResponse>,
      callback: sendUnaryData<SubmitJobsResponse>,
    ) => this.#many(call, callback),
  };

  #one(
    call: ServerReadableStream<SubmitJobRequest, SubmitJobResponse>,
    callback: sendUnaryData<SubmitJobResponse>,
  ): void {
    call.on('data', ({ body }: SubmitJobRequest) => {
      if (body?.$case !== 'start') return;
      const { idempotencyKey: id } = body.value;
      this.alone.push(id);
      this.#answer(() => callback(null, { job: Job.fromPartial({ id }) }));
    });
    call.on('error', () => undefined);
  }

  #many(
    { request: { jobs } }: ServerUnaryCall<SubmitJobsRequest, SubmitJobsResponse>,
    callback: sendUnaryData<SubmitJobsResponse>,
  ): void {
    this.together.push(jobs.map(({ idempotencyKey }) => idempotencyKey));
    const outcomes = jobs.map(({ idempotencyKey: id }) =>
      id.startsWith('bad')
        ? { outcome: { $case: 'error' as const, value: toCallError(new MeshError('BAD_SPEC', id, { hint: 'mend' })) } }
        : { outcome: { $case: 'job' as const, value: Job.fromPartial({ id }) } },
    );
    this.#answer(() => callback(null, { outcomes }));
  }

  /** Resolves when a call has come that is held. */
  async heldOne(): Promise<void> {
    while (this.#held.length === 0) await new Promise<void>((resolve) => (this.#came = resolve));
  }

  release(): void {
    for (const answer of this.#held.splice(0)) answer();
  }

  #answer(answer: () => void): void {
    if (!this.hold) return answer();
    this.#held.push(answer);
    this.#came();
  }
}

test('a lone submission goes at once; what comes meanwhile goes together, each with its own outcome', async (t) => {
  const recorded = new Recorded();
  recorded.hold = true;
  const fake = await startFakeMesh(recorded.methods);
  t.teardown(() => fake.stop());
  const submit = (idempotencyKey: string) => submitJob(fake.mesh, { spec: spec(), idempotencyKey });
  const first = submit('first');
  await recorded.heldOne();
  const good = [submit('a'), submit('b')];
  const bad = submit('bad');
  recorded.hold = false;
  recorded.release();
  t.equal((await first).id, 'first');
  t.same(
    (await Promise.all(good)).map(({ id }) => id),
    ['a', 'b'],
  );
  await t.rejects(bad, { code: 'BAD_SPEC', message: 'bad', hint: 'mend' });
  t.same(recorded.alone, ['first']);
  t.same(recorded.together, [['a', 'b', 'bad']]);
});

test('a call carries a hundred jobs, and a megabyte of specifications unless one has more', async (t) => {
  const recorded = new Recorded();
  const fake = await startFakeMesh(recorded.methods);
  t.teardown(() => fake.stop());
  await Promise.all(
    Array.from({ length: 250 }, (_, index) => submitJob(fake.mesh, { spec: spec(), idempotencyKey: String(index) })),
  );
  t.same(
    recorded.together.map((keys) => keys.length),
    [100, 100, 50],
  );
  t.same(recorded.alone, []);
  recorded.together.length = 0;
  const sizes = [600_000, 300_000, 600_000, 100, 100];
  await Promise.all(
    sizes.map((bytes, index) => submitJob(fake.mesh, { spec: spec(bytes), idempotencyKey: String(index) })),
  );
  t.same(recorded.together, [
    ['0', '1'],
    ['2', '3', '4'],
  ]);
});

test('a coordinator that does not know the call is asked one by one, from then on at once', async (t) => {
  const recorded = new Recorded();
  const fake = await startFakeMesh({ submitJob: recorded.methods.submitJob });
  t.teardown(() => fake.stop());
  const submit = (idempotencyKey: string) => submitJob(fake.mesh, { spec: spec(), idempotencyKey });
  t.same(
    (await Promise.all(['a', 'b', 'c'].map(submit))).map(({ id }) => id),
    ['a', 'b', 'c'],
  );
  recorded.hold = true;
  const first = submit('d');
  await recorded.heldOne();
  recorded.hold = false;
  t.equal((await submit('e')).id, 'e', 'while another is under way');
  recorded.release();
  t.equal((await first).id, 'd');
});

test('what is broken off while it waits is not sent, and costs the others nothing', async (t) => {
  const recorded = new Recorded();
  recorded.hold = true;
  const fake = await startFakeMesh(recorded.methods);
  t.teardown(() => fake.stop());
  const over = new AbortController();
  const submit = (idempotencyKey: string, signal?: AbortSignal) =>
    submitJob(fake.mesh, { spec: spec(), idempotencyKey }, { signal });
  const first = submit('first');
  await recorded.heldOne();
  const others = [submit('a'), submit('b')];
  const broken = submit('c', over.signal);
  over.abort();
  await t.rejects(broken, { code: 'INTERRUPTED' });
  await t.rejects(submit('d', over.signal), { code: 'INTERRUPTED' });
  recorded.hold = false;
  recorded.release();
  await Promise.all([first, ...others]);
  t.same(recorded.together, [['a', 'b']]);
});
