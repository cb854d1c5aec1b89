/** What programs read: proto messages in the JSON shapes of the contract. Times are ISO 8601 UTC; absent is null. */
import type {
  CancelJobResponse,
  Coordinator,
  ExplainResponse,
  Job,
  LogEntry,
  Node,
  Task,
  TaskCounts,
  TaskResult,
  Token,
} from '../proto/gen/mesh/v1/mesh.js';
import type { Namespace } from '../proto/gen/mesh/v1/namespace.js';
import type { WaitingNode } from '../proto/gen/mesh/v1/node.js';
import { approvalPhrase } from '../common/identity/phrase.js';
import type { Secret } from '../proto/gen/mesh/v1/secret.js';

/** ISO 8601 UTC of milliseconds since 1970, or null. Zero is what proto3 sends for "never". */
export const isoTime = (ms: number | undefined): string | null => (ms ? new Date(ms).toISOString() : null);
const orNull = <T>(value: T | undefined): T | null => value ?? null;
const textOrNull = (value: string): string | null => (value === '' ? null : value);

const NO_COUNTS: TaskCounts = {
  total: 0,
  queued: 0,
  assigned: 0,
  running: 0,
  retrying: 0,
  completed: 0,
  failed: 0,
  cancelled: 0,
};

export type JobShape = ReturnType<typeof jobShape>;
export type TaskShape = ReturnType<typeof taskShape>;
export type NodeShape = ReturnType<typeof nodeShape>;
export type CoordinatorShape = ReturnType<typeof coordinatorShape>;

export function jobShape(job: Job) {
  const { total, queued, assigned, running, retrying, completed, failed, cancelled } = job.tasks ?? NO_COUNTS;
  return {
    id: job.id,
    name: job.name,
    type: job.type,
    status: job.status,
    priority: job.priority,
    submitter: job.submitter,
    tasks: { total, queued, assigned, running, retrying, completed, failed, cancelled },
    createdAt: isoTime(job.createdAtMs),
    startedAt: isoTime(job.startedAtMs),
    completedAt: isoTime(job.completedAtMs),
    error: textOrNull(job.error),
    retryOf: textOrNull(job.retryOf),
    namespace: job.namespace,
  };
}

export function taskShape(task: Task) {
  return {
    job: task.job,
    index: task.index,
    status: task.status,
    attempts: task.attempts,
    maxAttempts: task.maxAttempts,
    generation: task.generation,
    failures: task.failures,
    losses: task.losses,
    node: textOrNull(task.node),
    exitCode: orNull(task.exitCode),
    queuedAt: isoTime(task.queuedAtMs),
    assignedAt: isoTime(task.assignedAtMs),
    startedAt: isoTime(task.startedAtMs),
    finishedAt: isoTime(task.finishedAtMs),
    lastError: textOrNull(task.lastError),
    result: parseResult(task.resultJson),
    runMs: task.runUs === undefined ? null : task.runUs / 1000,
    peakMemoryBytes: orNull(task.peakMemoryBytes),
  };
}

/** A result travels as JSON text. Text that does not parse is shown as it is rather than lost. */
export function parseResult(json: string): unknown {
  if (json === '') return null;
  try {
    return JSON.parse(json) as unknown;
  } catch {
    return json;
  }
}

export function nodeShape(node: Node) {
  const capabilities = node.capabilities;
  return {
    id: node.id,
    name: node.name,
    state: node.state,
    draining: node.draining,
    revoked: node.revoked,
    capabilities: {
      cpus: capabilities?.cpus ?? 0,
      memoryBytes: capabilities?.memoryBytes ?? 0,
      gpus: (capabilities?.gpus ?? []).map(({ model, memoryBytes }) => ({ model, memoryBytes })),
      os: capabilities?.os ?? '',
      arch: capabilities?.arch ?? '',
      labels: { ...capabilities?.labels },
      executors: [...(capabilities?.executors ?? [])],
      sandbox: capabilities?.sandbox ?? '',
      sandboxes: [...(capabilities?.sandboxes ?? [])],
      limits: [...(capabilities?.limits ?? [])],
      slots: capabilities?.slots ?? 0,
    },
    load: node.load,
    running: node.running,
    queued: node.queued,
    rttMs: orNull(node.rttMs),
    reliability: node.reliability,
    lastHeartbeatAt: isoTime(node.lastHeartbeatAtMs),
    certFingerprint: node.certFingerprint,
    certExpiresAt: isoTime(node.certExpiresAtMs),
    version: node.version,
    suspended: node.suspended === '' ? null : node.suspended,
    renewalOverdue: node.renewalOverdue,
  };
}

export const cancelShape = (response: CancelJobResponse & { job: Job }) => ({
  ...jobShape(response.job),
  cancelled: response.cancelled,
});

export function explainShape(response: ExplainResponse) {
  return {
    job: response.job,
    index: orNull(response.index),
    status: response.status,
    chosen: textOrNull(response.chosen),
    summary: textOrNull(response.summary),
    nodes: response.nodes.map((node) => ({
      name: node.name,
      feasible: node.feasible,
      reason: node.reason,
      score: orNull(node.score),
      terms: { ...node.terms },
    })),
  };
}

export const namespaceShape = ({ name, quotas, usage, members }: Namespace) => ({
  name,
  quotas: {
    running: orNull(quotas?.running),
    queued: orNull(quotas?.queued),
    cpus: quotas?.cpuMillis === undefined ? null : quotas.cpuMillis / 1000,
    bytes: orNull(quotas?.bytes),
  },
  usage: {
    running: usage?.running ?? 0,
    queued: usage?.queued ?? 0,
    cpus: (usage?.cpuMillis ?? 0) / 1000,
    bytes: usage?.bytes ?? 0,
  },
  members: [...members],
});

export const tokenShape = (token: Token) => ({
  id: token.id,
  role: token.role,
  name: textOrNull(token.name),
  expiresAt: isoTime(token.expiresAtMs),
  usesLeft: token.usesLeft,
});

export type WaitingShape = ReturnType<typeof waitingShape>;

/** @param rootDigest of the mesh as the profile knows it: the words are worked out on this side */
export const waitingShape = (node: WaitingNode, rootDigest: string) => ({
  name: node.name,
  phrase: approvalPhrase(rootDigest, node.publicKey),
  address: node.address,
  token: node.tokenId,
  requestedAt: isoTime(node.requestedAtMs),
  expiresAt: isoTime(node.expiresAtMs),
});

export const secretShape = (secret: Secret) => ({
  name: secret.name,
  owner: secret.owner,
  sizeBytes: secret.sizeBytes,
  setAt: isoTime(secret.setAtMs),
  setBy: secret.setBy,
});

export const resultShape = (result: TaskResult) => ({
  index: result.index,
  status: result.status,
  result: parseResult(result.resultJson),
});

/** `Stream` of common.proto, by number. */
const STREAM_NAMES = ['stdout', 'stdout', 'stderr', 'system'] as const;
export const streamName = (stream: number): string => STREAM_NAMES[stream] ?? 'system';

/** `text` is decoded by the caller, who knows where the last chunk of the same stream ended. */
export const logShape = (job: string, entry: LogEntry, text: string) => ({
  job,
  index: entry.index,
  attempt: entry.attempt,
  stream: streamName(entry.stream),
  at: isoTime(entry.atMs),
  text,
});

/** A page of a list. */
export const coordinatorShape = ({ name, addresses, leader, version, lastSeenAtMs }: Coordinator) => ({
  ...{ name, addresses, leader, version },
  lastSeenAt: isoTime(lastSeenAtMs),
});

export const pageShape = <T>(items: T[], next: string) => ({ items, next: textOrNull(next) });
