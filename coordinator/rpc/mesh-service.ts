import type { UntypedServiceImplementation } from '@grpc/grpc-js';
import type * as api from '../../proto/gen/mesh/v1/mesh.js';
import { type MeshServiceServer, MeshServiceService as Mesh } from '../../proto/gen/mesh/v1/mesh.js';
import type { BlobDepot } from '../services/blob-depot.js';
import type { Cancellation } from '../services/cancellation.js';
import type { Enrollment } from '../services/enrollment.js';
import type { Explain } from '../services/explain.js';
import type { Fleet, LiveNode } from '../services/fleet.js';
import type { LogReader } from '../services/log-reader.js';
import type { Queries } from '../services/queries.js';
import type { Resubmission } from '../services/resubmission.js';
import type { Vitals } from '../services/vitals.js';
import { MeshError } from '../../common/errors.js';
import type { Ledger } from '../core/ledger.js';
import type { Gate } from './authorize.js';
import { callerOf } from './authority-services.js';
import { receiveBlobs, receiveJob } from './receive.js';
import { presentJob, presentNode, presentTask, presentToken, resultOf } from './present.js';
import type { Intake } from '../services/intake.js';

export interface MeshServiceOptions {
  gate: Gate;
  intake: Intake;
  queries: Queries;
  logReader: LogReader;
  cancellation: Cancellation;
  resubmission: Resubmission;
  explain: Explain;
  enrollment: Enrollment;
  blobs: BlobDepot;
  fleet: Fleet;
  ledger: Ledger;
  vitals: Vitals;
}

/** Results or log bytes that are gathered into one message. */
const MESSAGE_BYTES = 256 * 1024;

export function makeMeshService(options: MeshServiceOptions): MeshServiceServer {
  return { ...jobMethods(options), ...readMethods(options), ...nodeMethods(options), ...tokenMethods(options) };
}

type Methods<K extends keyof MeshServiceServer> = Pick<MeshServiceServer & UntypedServiceImplementation, K>;

function jobMethods({
  gate,
  intake,
  queries,
  cancellation,
  resubmission,
  blobs,
}: MeshServiceOptions): Methods<'submitJob' | 'missingBlobs' | 'putBlob' | 'cancelJob' | 'retryJob'> {
  return {
    submitJob: gate.clientStream<api.SubmitJobRequest, api.SubmitJobResponse>(
      Mesh.submitJob.path,
      async (requests, context) => ({ job: presentJob(await receiveJob(intake, callerOf(context), requests)) }),
    ),
    missingBlobs: gate.unary<api.MissingBlobsRequest, api.MissingBlobsResponse>(
      Mesh.missingBlobs.path,
      async ({ digests }) => ({ digests: await blobs.missing(digests) }),
    ),
    putBlob: gate.clientStream<api.PutBlobRequest, api.PutBlobResponse>(Mesh.putBlob.path, async (requests) => ({
      stored: await receiveBlobs(blobs, requests),
    })),
    cancelJob: gate.unary<api.CancelJobRequest, api.CancelJobResponse>(Mesh.cancelJob.path, async ({ id }, context) => {
      const caller = callerOf(context);
      const cancelled = await cancellation.cancel(await queries.job(id, caller), undefined);
      return { job: presentJob(await queries.job(id, caller)), cancelled };
    }),
    retryJob: gate.unary<api.RetryJobRequest, api.RetryJobResponse>(Mesh.retryJob.path, async ({ id }, context) => {
      const caller = callerOf(context);
      return { job: presentJob(await resubmission.retry(await queries.job(id, caller), caller)) };
    }),
  };
}

function readMethods({
  gate,
  queries,
  logReader,
  explain,
}: MeshServiceOptions): Methods<
  'getJob' | 'listJobs' | 'listTasks' | 'watchJob' | 'readLogs' | 'readResults' | 'explain'
> {
  return {
    getJob: gate.unary<api.GetJobRequest, api.GetJobResponse>(Mesh.getJob.path, async ({ id }, context) => ({
      job: presentJob(await queries.job(id, callerOf(context))),
    })),
    listJobs: gate.unary<api.ListJobsRequest, api.ListJobsResponse>(Mesh.listJobs.path, async (query, context) => {
      const { rows, next } = await queries.list(query, callerOf(context));
      return { items: rows.map(presentJob), next };
    }),
    listTasks: gate.unary<api.ListTasksRequest, api.ListTasksResponse>(Mesh.listTasks.path, async (query, context) => {
      const caller = callerOf(context);
      const job = await queries.job(query.job, caller);
      const { rows, next } = await queries.tasks(job, query);
      const items = rows.map((row) => presentTask(job, row));
      return { items: caller.role === 'viewer' ? items.map((task) => ({ ...task, resultJson: '' })) : items, next };
    }),
    watchJob: gate.serverStream<api.WatchJobRequest, api.WatchJobResponse>(
      Mesh.watchJob.path,
      async function* ({ id }, context, gone) {
        for await (const row of queries.watch(id, callerOf(context), gone)) yield { job: presentJob(row) };
      },
    ),
    readLogs: gate.serverStream<api.ReadLogsRequest, api.ReadLogsResponse>(
      Mesh.readLogs.path,
      async function* ({ job: id, index, attempt, follow }, context, gone) {
        const job = await queries.job(id, callerOf(context));
        const entries = logReader.read(job, { index, attempt, follow }, gone);
        for await (const items of gathered(entries, (entry) => entry.data.length)) yield { items };
      },
    ),
    readResults: gate.serverStream<api.ReadResultsRequest, api.ReadResultsResponse>(
      Mesh.readResults.path,
      async function* ({ job: id, follow }, context, gone) {
        const caller = callerOf(context);
        const pages = queries.results(await queries.job(id, caller), caller, follow, gone);
        for await (const rows of gathered(pages, (row) => (row.resultJson?.length ?? 0) + (row.output?.length ?? 0)))
          yield {
            items: rows.map((row) => ({ index: row.index, status: row.status, resultJson: resultOf(row) })),
          };
      },
    ),
    explain: gate.unary<api.ExplainRequest, api.ExplainResponse>(Mesh.explain.path, async (request, context) => {
      const job = await queries.job(request.job, callerOf(context));
      return explain.answer(job, request.index === undefined ? undefined : await queries.task(job, request.index));
    }),
  };
}

function nodeMethods({
  gate,
  fleet,
  ledger,
  vitals,
}: MeshServiceOptions): Methods<'listNodes' | 'getNode' | 'drainNode'> {
  const present = (node: LiveNode) => {
    const attempts = ledger.ofNode(node.row.seq);
    const running = attempts.filter((attempt) => attempt.holding).length;
    return presentNode(node, { running, queued: attempts.length - running });
  };
  return {
    listNodes: gate.unary<api.ListNodesRequest, api.ListNodesResponse>(Mesh.listNodes.path, async () => ({
      items: [...fleet.all()].sort((a, b) => (a.row.name < b.row.name ? -1 : 1)).map(present),
      coordinators: [],
    })),
    getNode: gate.unary<api.GetNodeRequest, api.GetNodeResponse>(Mesh.getNode.path, async ({ name }) => {
      const node = fleet.byName(name);
      if (!node)
        throw new MeshError('NOT_FOUND', `there is no node "${name.slice(0, 80)}"`, { hint: 'see: mesh nodes' });
      return { node: present(node) };
    }),
    drainNode: gate.unary<api.DrainNodeRequest, api.DrainNodeResponse>(
      Mesh.drainNode.path,
      async ({ name, draining }) => ({ node: present(await vitals.setDraining(name, draining)) }),
    ),
  };
}

function tokenMethods({ gate, enrollment }: MeshServiceOptions): Methods<'createToken' | 'listTokens' | 'revokeToken'> {
  return {
    createToken: gate.unary<api.CreateTokenRequest, api.CreateTokenResponse>(
      Mesh.createToken.path,
      async (request, context) => {
        const { row, token } = await enrollment.createToken({ ...request, createdBy: callerOf(context).name });
        return { token: presentToken(row), secret: token };
      },
    ),
    listTokens: gate.unary<api.ListTokensRequest, api.ListTokensResponse>(Mesh.listTokens.path, async () => ({
      items: (await enrollment.listTokens()).map(presentToken),
    })),
    revokeToken: gate.unary<api.RevokeTokenRequest, api.RevokeTokenResponse>(
      Mesh.revokeToken.path,
      async ({ id }, context) => {
        await enrollment.revokeToken(callerOf(context).name, id);
        return {};
      },
    ),
  };
}

/** Splits pages that are too large for a message; keeps small ones as they come. */
async function* gathered<T>(pages: AsyncIterable<T[]>, sizeOf: (item: T) => number): AsyncGenerator<T[]> {
  for await (const page of pages) {
    let batch: T[] = [];
    let bytes = 0;
    for (const item of page) {
      batch.push(item);
      bytes += sizeOf(item);
      if (bytes < MESSAGE_BYTES) continue;
      yield batch;
      batch = [];
      bytes = 0;
    }
    if (batch.length > 0) yield batch;
  }
}
