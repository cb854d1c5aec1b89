import { MeshError } from '../../common/errors.js';
import { submitterOf } from '../core/job.js';
import type { TaskInput } from '../../proto/gen/mesh/v1/common.js';
import type { PutBlobRequest, RunJobRequest, SubmitJobRequest, SubmitJobStart } from '../../proto/gen/mesh/v1/mesh.js';
import type { JobRow } from '../ports.js';
import { actorOf } from '../services/audit.js';
import type { BlobDepot } from '../services/blob-depot.js';
import type { Intake } from '../services/intake.js';
import type { UploadMeter } from '../services/uploads.js';
import { callerOf } from './authority-services.js';
import type { CallContext } from './authorize.js';

const KEY_LENGTH_MAX = 200;
/** What is submitted together is committed together: see coordinator/store/job-create.ts. */
const JOBS_TOGETHER_MAX = 100;

/** The first message is the specification, the rest are its items. */
export async function receiveJob(
  intake: Intake,
  context: CallContext,
  requests: AsyncIterable<SubmitJobRequest>,
): Promise<JobRow> {
  const messages = requests[Symbol.asyncIterator]();
  const first = await messages.next();
  const start = first.done ? undefined : first.value.body;
  const begun = begin(start?.$case === 'start' ? start.value : undefined, context);
  const second = await messages.next();
  return intake.submit({ ...begun, hasItems: !second.done, items: itemsOf(second, messages) });
}

/**
 * Jobs without items, each with its own outcome, in their order. What is more than one job counts as more than one request.
 * @throws MeshError USAGE when there are none or too many
 */
export function receiveJobs<T>(
  intake: Intake,
  context: CallContext,
  jobs: readonly SubmitJobStart[],
  each: { admit: () => void; present: (row: JobRow) => T; refuse: (error: unknown) => T },
): Promise<T[]> {
  if (jobs.length === 0 || jobs.length > JOBS_TOGETHER_MAX)
    throw new MeshError(
      'USAGE',
      `${jobs.length} jobs were submitted in one call, which takes 1 to ${JOBS_TOGETHER_MAX}`,
    );
  return Promise.all(
    jobs.map(async (job, at) => {
      try {
        if (at > 0) each.admit();
        return each.present(await intake.submit({ ...begin(job, context), hasItems: false, items: NOTHING }));
      } catch (error) {
        return each.refuse(error);
      }
    }),
  );
}

/** All of it is in one message. */
export function takeJob(intake: Intake, context: CallContext, { items, ...start }: RunJobRequest): Promise<JobRow> {
  const hasItems = items.length > 0;
  return intake.submit({ ...begin(start, context), hasItems, items: hasItems ? inOnePiece(items) : NOTHING });
}

async function* inOnePiece(items: TaskInput[]): AsyncGenerator<TaskInput[]> {
  yield items;
}

const NOTHING: AsyncIterable<TaskInput[]> = { async *[Symbol.asyncIterator]() {} };

/** @throws MeshError BAD_SPEC, USAGE */
function begin(
  start: Pick<SubmitJobStart, 'spec' | 'idempotencyKey'> | undefined,
  context: CallContext,
): Omit<Parameters<Intake['submit']>[0], 'hasItems' | 'items'> {
  if (!start?.spec) throw new MeshError('BAD_SPEC', 'a submission begins with the job’s specification');
  const { spec, idempotencyKey } = start;
  if (idempotencyKey === '' || idempotencyKey.length > KEY_LENGTH_MAX)
    throw new MeshError('USAGE', `an idempotency key has 1 to ${KEY_LENGTH_MAX} characters`);
  return { actor: actorOf(context), submitter: submitterOf(callerOf(context)), idempotencyKey, spec };
}

async function* itemsOf(
  first: IteratorResult<SubmitJobRequest>,
  rest: AsyncIterator<SubmitJobRequest>,
): AsyncGenerator<TaskInput[]> {
  for (let message = first; !message.done; message = await rest.next()) {
    if (message.value.body?.$case !== 'items')
      throw new MeshError('BAD_SPEC', 'only items may follow the specification');
    yield message.value.body.value.items;
  }
}

/** Several blobs on one stream, each begun by a message with its digest. Returns how many were stored. */
export async function receiveBlobs(
  depot: BlobDepot,
  requests: AsyncIterable<PutBlobRequest>,
  meter: UploadMeter,
): Promise<number> {
  const upload = depot.upload();
  try {
    for await (const { digest, data } of requests) {
      if (digest !== '') {
        await upload.begin(digest);
        meter.done();
      }
      await meter.add(data.length);
      await upload.append(data);
    }
    return await upload.finish();
  } catch (error) {
    await upload.abandon();
    throw error;
  } finally {
    meter.done();
  }
}
