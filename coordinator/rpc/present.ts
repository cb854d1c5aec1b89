import { OutputTail, Stream } from '../../proto/gen/mesh/v1/common.js';
import type { Job, Node, Task, Token } from '../../proto/gen/mesh/v1/mesh.js';
import type { JobRow, TaskRow, TokenRow } from '../ports.js';
import type { LiveNode } from '../services/fleet.js';

/** Rows to messages. A task that has no row yet counts as queued. */
export function presentJob(row: JobRow): Job {
  const { total, materialised, ...counts } = row.counts;
  return {
    id: row.id,
    name: row.name,
    type: row.type,
    status: row.status,
    priority: row.priority,
    submitter: row.submitter,
    tasks: { total, ...counts, queued: counts.queued + total - materialised },
    createdAtMs: row.createdAtMs,
    startedAtMs: row.startedAtMs,
    completedAtMs: row.completedAtMs,
    error: row.error ?? '',
    retryOf: row.retryOf ?? '',
    namespace: row.namespace,
  };
}

/** What a function returned, or the standard output that travelled with a command's result, as JSON; '' for none. */
export function resultOf(row: { resultJson: string | undefined; output: Uint8Array | undefined }): string {
  if (row.resultJson !== undefined) return row.resultJson;
  if (row.output === undefined) return '';
  const chunks = OutputTail.decode(row.output).chunks.filter((chunk) => chunk.stream === Stream.STDOUT);
  return JSON.stringify(Buffer.concat(chunks.map((chunk) => chunk.data)).toString('utf8'));
}

/** What people see as attempts is failures + losses + the live or the successful one. */
export function presentTask(job: JobRow, row: TaskRow): Task {
  const began = ['ASSIGNED', 'RUNNING', 'COMPLETED'].includes(row.status);
  return {
    job: job.id,
    index: row.index,
    status: row.status,
    attempts: row.failures + row.losses + (began ? 1 : 0),
    maxAttempts: job.spec.retries + 1,
    generation: row.generation,
    failures: row.failures,
    losses: row.losses,
    node: row.node ?? '',
    exitCode: row.exitCode,
    queuedAtMs: row.queuedAtMs,
    assignedAtMs: row.assignedAtMs,
    startedAtMs: row.startedAtMs,
    finishedAtMs: row.finishedAtMs,
    lastError: row.lastError ?? '',
    resultJson: resultOf(row),
    runUs: row.runUs,
    peakMemoryBytes: row.peakMemoryBytes,
  };
}

/** What the leader knows of a node besides its row. */
export interface NodeAccount {
  running: number;
  queued: number;
  /** Why it gets nothing now; empty when it does. */
  suspended: string;
  renewalOverdue: boolean;
}

export function presentNode(node: LiveNode, account: NodeAccount): Node {
  const { row } = node;
  return {
    id: row.id,
    name: row.name,
    state: node.liveness.state,
    draining: row.draining,
    revoked: row.revoked,
    capabilities: row.capabilities,
    load: node.load,
    running: account.running,
    queued: account.queued,
    rttMs: node.roundTrip?.smoothedMs,
    reliability: node.reliability,
    lastHeartbeatAtMs: node.lastHeartbeatAtMs,
    certFingerprint: row.certificateFingerprint,
    certExpiresAtMs: row.certificateExpiresAtMs,
    version: row.version,
    suspended: account.suspended,
    renewalOverdue: account.renewalOverdue,
  };
}

export const presentToken = (row: TokenRow): Token => ({
  id: row.id,
  role: row.role,
  name: row.name ?? '',
  expiresAtMs: row.expiresAtMs,
  usesLeft: row.usesLeft,
});
