import { MeshError } from '../../common/errors.js';
import { submitterOf } from '../core/job.js';
import type { TaskInput } from '../../proto/gen/mesh/v1/common.js';
import type { PutBlobRequest, SubmitJobRequest } from '../../proto/gen/mesh/v1/mesh.js';
import type { JobRow } from '../ports.js';
import { actorOf } from '../services/audit.js';
import type { BlobDepot } from '../services/blob-depot.js';
import type { Intake } from '../services/intake.js';
import type { UploadMeter } from '../services/uploads.js';
import { callerOf } from './authority-services.js';
import type { CallContext } from './authorize.js';

const KEY_LENGTH_MAX = 200;

/** The first message is the specification, the rest are its items. */
export async function receiveJob(
  intake: Intake,
  context: CallContext,
  requests: AsyncIterable<SubmitJobRequest>,
): Promise<JobRow> {
  const messages = requests[Symbol.asyncIterator]();
  const first = await messages.next();
  const start = first.done ? undefined : first.value.body;
  if (start?.$case !== 'start' || !start.value.spec)
    throw new MeshError('BAD_SPEC', 'a submission begins with the job’s specification');
  const { spec, idempotencyKey } = start.value;
  if (idempotencyKey === '' || idempotencyKey.length > KEY_LENGTH_MAX)
    throw new MeshError('USAGE', `an idempotency key has 1 to ${KEY_LENGTH_MAX} characters`);
  const second = await messages.next();
  return intake.submit({
    actor: actorOf(context),
    submitter: submitterOf(callerOf(context)),
    idempotencyKey,
    spec,
    hasItems: !second.done,
    items: itemsOf(second, messages),
  });
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
