import type { UntypedServiceImplementation } from '@grpc/grpc-js';
import type * as api from '../../proto/gen/mesh/v1/mesh.js';
import { type MeshServiceServer, MeshServiceService as Mesh } from '../../proto/gen/mesh/v1/mesh.js';
import { actorOf, type Audit } from '../services/audit.js';
import type { BlobDepot } from '../services/blob-depot.js';
import type { Cancellation } from '../services/cancellation.js';
import type { Enrollment } from '../services/enrollment.js';
import type { Explain } from '../services/explain.js';
import type { Fleet, LiveNode } from '../services/fleet.js';
import type { LogReader } from '../services/log-reader.js';
import type { Queries } from '../services/queries.js';
import type { Resubmission } from '../services/resubmission.js';
import type { Roster } from '../services/roster.js';
import type { Uploads } from '../services/uploads.js';
import type { Vitals } from '../services/vitals.js';
import type { Identity } from '../../common/identity/identity.js';
import type { Ledger } from '../core/ledger.js';
import type { JobRow } from '../ports.js';
import type { CallContext, Gate } from './authorize.js';
import { callerOf } from './authority-services.js';
import { receiveBlobs, receiveJob, receiveJobs, takeJob } from './receive.js';
import { presentJob, presentNode, presentTask, presentToken, resultOf } from './present.js';
import type { Intake } from '../services/intake.js';

/** What serves people. Everything of the term is asked for anew by each call. */
export interface MeshPlane {
  /** What it does while it leads; undefined while it stands by. */
  readonly term: LeadingPlane | undefined;
  /** @throws MeshError NOT_LEADER that says where to go */
  lead(): LeadingPlane;
  readonly roster: Roster;
  readonly audit: Audit;
  /** Answered by every coordinator; from the store where it does not lead. */
  readonly queries: Queries;
  readonly enrollment: Enrollment;
  readonly blobs: BlobDepot;
  storedNodes(): Promise<LiveNode[]>;
}

export interface LeadingPlane {
  readonly leaving: AbortSignal;
  readonly ended: AbortSignal;
  readonly intake: Intake;
  readonly queries: Queries;
  readonly logReader: LogReader;
  readonly cancellation: Cancellation;
  readonly resubmission: Resubmission;
  readonly explain: Explain;
  readonly fleet: Fleet;
  readonly ledger: Ledger;
  readonly uploads: Uploads;
  readonly vitals: Vitals;
}

export interface MeshServiceOptions {
  gate: Gate;
  plane: MeshPlane;
}

/** Results or log bytes that are gathered into one message. */
const MESSAGE_BYTES = 256 * 1024;

export function makeMeshService(options: MeshServiceOptions): MeshServiceServer {
  return { ...jobMethods(options), ...readMethods(options), ...nodeMethods(options), ...tokenMethods(options) };
}

type Methods<K extends keyof MeshServiceServer> = Pick<MeshServiceServer & UntypedServiceImplementation, K>;

function jobMethods({
  gate,
  plane,
}: MeshServiceOptions): Methods<
  'submitJob' | 'submitJobs' | 'runJob' | 'runJobs' | 'missingBlobs' | 'putBlob' | 'cancelJob' | 'retryJob'
> {
  const follow = (request: api.RunJobRequest, context: CallContext, gone: AbortSignal) =>
    whileLeading(plane, gone, (term, over) => run(term, request, context, over));
  return {
    submitJob: gate.clientStream<api.SubmitJobRequest, api.SubmitJobResponse>(
      Mesh.submitJob.path,
      async (requests, context) => ({
        job: presentJob(await receiveJob(plane.lead().intake, context, requests)),
      }),
    ),
    submitJobs: gate.unary<api.SubmitJobsRequest, api.SubmitJobsResponse>(
      Mesh.submitJobs.path,
      async ({ jobs }, context) => ({
        outcomes: await receiveJobs<api.SubmitJobOutcome>(plane.lead().intake, context, jobs, {
          admit: () => gate.again(context),
          present: (row) => ({ outcome: { $case: 'job', value: presentJob(row) } }),
          refuse: (error) => ({ outcome: { $case: 'error', value: gate.reportPart(Mesh.submitJobs.path, error) } }),
        }),
      }),
    ),
    runJob: gate.serverStream<api.RunJobRequest, api.RunJobResponse>(Mesh.runJob.path, follow),
    runJobs: gate.manyCalls<api.RunJobRequest, api.RunJobResponse>(Mesh.runJobs.path, {
      path: Mesh.runJob.path,
      handle: follow,
      ended: () => plane.lead().leaving,
    }),
    missingBlobs: gate.unary<api.MissingBlobsRequest, api.MissingBlobsResponse>(
      Mesh.missingBlobs.path,
      async ({ digests }) => {
        plane.lead();
        return { digests: await plane.blobs.missing(digests) };
      },
    ),
    putBlob: gate.clientStream<api.PutBlobRequest, api.PutBlobResponse>(
      Mesh.putBlob.path,
      async (requests, context) => {
        const { role, name } = callerOf(context);
        const meter = plane.lead().uploads.begin(`${role}/${name}`);
        return { stored: await receiveBlobs(plane.blobs, requests, meter) };
      },
    ),
    cancelJob: gate.unary<api.CancelJobRequest, api.CancelJobResponse>(Mesh.cancelJob.path, async ({ id }, context) => {
      const caller = callerOf(context);
      const { cancellation, queries } = plane.lead();
      const job = await queries.job(id, caller);
      const cancelled = await cancellation.cancel(job, undefined);
      plane.audit.note(actorOf(context), 'job.cancelled', job.id, { tasks: cancelled });
      return { job: presentJob(await queries.job(id, caller)), cancelled };
    }),
    retryJob: gate.unary<api.RetryJobRequest, api.RetryJobResponse>(Mesh.retryJob.path, async ({ id }, context) => {
      const caller = callerOf(context);
      const { resubmission, queries } = plane.lead();
      return { job: presentJob(await resubmission.retry(await queries.job(id, caller), caller, context.address)) };
    }),
  };
}

function readMethods({
  gate,
  plane,
}: MeshServiceOptions): Methods<
  'getJob' | 'listJobs' | 'listTasks' | 'watchJob' | 'readLogs' | 'readResults' | 'explain'
> {
  return {
    getJob: gate.unary<api.GetJobRequest, api.GetJobResponse>(Mesh.getJob.path, async ({ id }, context) => ({
      job: presentJob(await plane.queries.job(id, callerOf(context))),
    })),
    listJobs: gate.unary<api.ListJobsRequest, api.ListJobsResponse>(Mesh.listJobs.path, async (query, context) => {
      const { rows, next } = await plane.queries.list(query, callerOf(context));
      return { items: rows.map(presentJob), next };
    }),
    listTasks: gate.unary<api.ListTasksRequest, api.ListTasksResponse>(Mesh.listTasks.path, async (query, context) => {
      const caller = callerOf(context);
      const { queries } = plane;
      const job = await queries.job(query.job, caller);
      const { rows, next } = await queries.tasks(job, query);
      const items = rows.map((row) => presentTask(job, row));
      return { items: caller.role === 'viewer' ? items.map((task) => ({ ...task, resultJson: '' })) : items, next };
    }),
    watchJob: gate.serverStream<api.WatchJobRequest, api.WatchJobResponse>(
      Mesh.watchJob.path,
      ({ id }, context, gone) =>
        whileLeading(plane, gone, async function* ({ queries }, over) {
          for await (const row of queries.watch(id, callerOf(context), over)) yield { job: presentJob(row) };
        }),
    ),
    readLogs: gate.serverStream<api.ReadLogsRequest, api.ReadLogsResponse>(
      Mesh.readLogs.path,
      ({ job: id, index, attempt, follow }, context, gone) =>
        whileLeading(plane, gone, async function* ({ queries, logReader }, over) {
          const job = await queries.job(id, callerOf(context));
          const entries = logReader.read(job, { index, attempt, follow }, over);
          for await (const items of gathered(entries, (entry) => entry.data.length)) yield { items };
        }),
      ({ items }) => items.reduce((bytes, { data }) => bytes + data.length, 0),
    ),
    readResults: gate.serverStream<api.ReadResultsRequest, api.ReadResultsResponse>(
      Mesh.readResults.path,
      ({ job: id, follow }, context, gone) => {
        const caller = callerOf(context);
        const read = async function* (queries: Queries, over: AbortSignal) {
          yield* results(queries, await queries.job(id, caller), caller, follow, over);
        };
        return follow
          ? whileLeading(plane, gone, ({ queries }, over) => read(queries, over))
          : read(plane.queries, gone);
      },
    ),
    explain: gate.unary<api.ExplainRequest, api.ExplainResponse>(Mesh.explain.path, async (request, context) => {
      const { queries, explain } = plane.lead();
      const job = await queries.job(request.job, callerOf(context));
      return explain.answer(job, request.index === undefined ? undefined : await queries.task(job, request.index));
    }),
  };
}

/** What a submission comes to. Its first message waits until the work is given away, which is what takes time. */
async function* run(
  { intake, queries }: LeadingPlane,
  request: api.RunJobRequest,
  context: CallContext,
  over: AbortSignal,
): AsyncGenerator<api.RunJobResponse> {
  const caller = callerOf(context);
  const job = await takeJob(intake, context, request);
  await new Promise((resolve) => setImmediate(resolve));
  yield { job: presentJob(job), results: [] };
  // The last results wait for the job that ends with them: they are one message.
  let last: api.TaskResult[] = [];
  for await (const { items } of request.results ? results(queries, job, caller, true, over) : []) {
    if (items.at(-1)?.index === job.counts.total - 1) last = items;
    else yield { job: undefined, results: items };
  }
  const ended = await queries.ended(job, over);
  if (ended) yield { job: presentJob(ended), results: last };
}

async function* results(
  queries: Queries,
  job: JobRow,
  caller: Identity,
  follow: boolean,
  gone: AbortSignal,
): AsyncGenerator<api.ReadResultsResponse> {
  const pages = queries.results(job, caller, follow, gone);
  for await (const rows of gathered(pages, (row) => (row.resultJson?.length ?? 0) + (row.output?.length ?? 0)))
    yield { items: rows.map((row) => ({ index: row.index, status: row.status, resultJson: resultOf(row) })) };
}

/**
 * A stream that waits for changes, of which only the leader hears: when its term ends before the stream does, the client
 * is told where to go on. @throws MeshError NOT_LEADER
 */
async function* whileLeading<T>(
  plane: MeshPlane,
  gone: AbortSignal,
  read: (term: LeadingPlane, over: AbortSignal) => AsyncIterable<T>,
): AsyncGenerator<T> {
  const term = plane.lead();
  const over = new AbortController();
  const end = () => over.abort();
  for (const signal of [gone, term.ended]) {
    if (signal.aborted) end();
    signal.addEventListener('abort', end, { once: true });
  }
  try {
    yield* read(term, over.signal);
  } finally {
    for (const signal of [gone, term.ended]) signal.removeEventListener('abort', end);
  }
  if (term.ended.aborted && !gone.aborted) throw plane.roster.notLeader();
}

function nodeMethods({ gate, plane }: MeshServiceOptions): Methods<'listNodes' | 'getNode' | 'drainNode'> {
  const present = (node: LiveNode, term?: Pick<LeadingPlane, 'fleet' | 'ledger'>) => {
    const { holding: running, waiting: queued } = term?.ledger.countOn(node.row.seq) ?? { holding: 0, waiting: 0 };
    const suspended = term?.fleet.whySuspended(node) ?? '';
    const renewalOverdue = term?.fleet.isRenewalOverdue(node) ?? false;
    return presentNode(node, { running, queued, suspended, renewalOverdue });
  };
  return {
    listNodes: gate.unary<api.ListNodesRequest, api.ListNodesResponse>(Mesh.listNodes.path, async () => {
      const { term, roster } = plane;
      const nodes = term ? [...term.fleet.all()] : await plane.storedNodes();
      return {
        items: nodes.sort((a, b) => (a.row.name < b.row.name ? -1 : 1)).map((node) => present(node, term)),
        coordinators: roster.list(),
      };
    }),
    getNode: gate.unary<api.GetNodeRequest, api.GetNodeResponse>(Mesh.getNode.path, async ({ name }) => {
      const term = plane.lead();
      return { node: present(term.fleet.named(name), term) };
    }),
    drainNode: gate.unary<api.DrainNodeRequest, api.DrainNodeResponse>(
      Mesh.drainNode.path,
      async ({ name, draining }, context) => {
        const term = plane.lead();
        const node = await term.vitals.setDraining(name, draining);
        await plane.audit.record(actorOf(context), draining ? 'node.drained' : 'node.undrained', node.row.name);
        return { node: present(node, term) };
      },
    ),
  };
}

function tokenMethods({ gate, plane }: MeshServiceOptions): Methods<'createToken' | 'listTokens' | 'revokeToken'> {
  const enrollment = () => {
    plane.lead();
    return plane.enrollment;
  };
  return {
    createToken: gate.unary<api.CreateTokenRequest, api.CreateTokenResponse>(
      Mesh.createToken.path,
      async (request, context) => {
        const { row, token } = await enrollment().createToken(actorOf(context), request);
        return { token: presentToken(row), secret: token };
      },
    ),
    listTokens: gate.unary<api.ListTokensRequest, api.ListTokensResponse>(Mesh.listTokens.path, async () => ({
      items: (await enrollment().listTokens()).map(presentToken),
    })),
    revokeToken: gate.unary<api.RevokeTokenRequest, api.RevokeTokenResponse>(
      Mesh.revokeToken.path,
      async ({ id }, context) => {
        await enrollment().revokeToken(actorOf(context), id);
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
