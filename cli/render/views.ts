/** Jobs, tasks and nodes as people read them. */
import { systemClock } from '../../common/clock.js';
import { formatDuration, formatSize } from '../../common/units.js';
import type { CoordinatorShape, JobShape, NodeShape, TaskShape, WaitingShape } from '../../sdk/shapes.js';
import { type Column, renderFields, renderTable } from './table.js';
import { ago, paintStatus, safe, shorten } from './terminal.js';

const right = (title: string): Column => ({ title, align: 'right' });
const left = (title: string): Column => ({ title });

export function jobsTable(jobs: readonly JobShape[], nowMs: number): string {
  const columns = [
    left('ID'),
    left('NAME'),
    left('STATUS'),
    right('DONE'),
    right('TASKS'),
    right('FAILED'),
    left('BY'),
  ];
  const rows = jobs.map((job) => [
    job.id,
    shorten(safe(job.name), 40),
    paintStatus(job.status),
    String(job.tasks.completed),
    String(job.tasks.total),
    String(job.tasks.failed),
    safe(job.submitter),
    ago(job.createdAt, nowMs),
  ]);
  return renderTable([...columns, left('CREATED')], rows);
}

const span = (from: string | null, to: string | null): string =>
  from === null || to === null ? '' : ` (${formatDuration(Date.parse(to) - Date.parse(from))})`;

export function jobView(job: JobShape): string {
  const { total, ...byStatus } = job.tasks;
  const counts = Object.entries(byStatus)
    .filter(([, count]) => count > 0)
    .map(([status, count]) => `${count} ${status}`);
  const fields: [string, string][] = [
    ['job', job.id],
    ['name', safe(job.name)],
    ['status', paintStatus(job.status)],
    ['type', safe(job.type)],
    ['priority', String(job.priority)],
    ['submitter', safe(job.submitter)],
    ['tasks', `${total}: ${counts.join(', ')}`],
    ['created', job.createdAt ?? '-'],
    ['started', job.startedAt ?? '-'],
    ['completed', `${job.completedAt ?? '-'}${span(job.startedAt, job.completedAt)}`],
  ];
  if (job.error !== null) fields.push(['error', safe(job.error)]);
  if (job.retryOf !== null) fields.push(['retry of', job.retryOf]);
  return renderFields(fields);
}

export function tasksTable(tasks: readonly TaskShape[]): string {
  const columns = [left('TASK'), left('STATUS'), right('ATTEMPTS'), left('NODE'), right('EXIT'), right('RAN')];
  const rows = tasks.map((task) => [
    `${task.job}.${task.index}`,
    paintStatus(task.status),
    `${task.attempts}/${task.maxAttempts}`,
    safe(task.node ?? '-'),
    task.exitCode === null ? '-' : String(task.exitCode),
    task.runMs === null ? '-' : formatDuration(task.runMs),
    shorten(safe(task.lastError ?? ''), 60),
  ]);
  return renderTable([...columns, left('LAST ERROR')], rows);
}

/** The state and the flags beside it. */
function nodeState(node: NodeShape): string {
  const flags = {
    draining: node.draining,
    suspended: node.suspended !== null,
    revoked: node.revoked,
    expiring: node.renewalOverdue,
  };
  const raised = Object.entries(flags).flatMap(([flag, isSet]) => (isSet ? [flag] : []));
  return [node.state, ...raised].map(paintStatus).join(' ');
}

const percent = (share: number): string => `${Math.round(share * 100)} %`;
const milliseconds = (ms: number | null): string => (ms === null ? '-' : `${ms.toFixed(ms < 10 ? 1 : 0)} ms`);

export function nodesTable(nodes: readonly NodeShape[]): string {
  const columns = [
    left('NAME'),
    left('STATE'),
    right('CPUS'),
    right('MEMORY'),
    right('LOAD'),
    right('RUNNING'),
    right('QUEUED'),
    right('RTT'),
    right('RELIABLE'),
    left('SANDBOX'),
    left('PLATFORM'),
  ];
  const rows = nodes.map((node) => [
    safe(node.name),
    nodeState(node),
    String(node.capabilities.cpus),
    formatSize(node.capabilities.memoryBytes),
    percent(node.load),
    String(node.running),
    String(node.queued),
    milliseconds(node.rttMs),
    percent(node.reliability),
    safe(node.capabilities.sandbox),
    safe(`${node.capabilities.os}/${node.capabilities.arch}`),
  ]);
  return renderTable(columns, rows);
}

/** "bubblewrap; process for jobs that ask for it". */
function sandboxLine({ sandbox, sandboxes }: NodeShape['capabilities']): string {
  const others = sandboxes.filter((name) => name !== sandbox);
  return others.length > 0 ? `${sandbox}; ${others.join(', ')} for jobs that ask for it` : sandbox;
}

/** How long it is good for still, as people count. */
function endsIn(expiresAt: string | null): string {
  if (expiresAt === null) return '';
  const leftMs = Date.parse(expiresAt) - systemClock.wallMs();
  return leftMs > 0 ? `${formatDuration(leftMs)} left` : 'expired';
}

const NOT_RENEWED = 'it renews its certificate in vain; the log of its agent says why (certificate.renewal_failed)';

export function nodeView(node: NodeShape): string {
  const { capabilities } = node;
  const labels = Object.entries(capabilities.labels).map(([key, value]) => (value === '' ? key : `${key}=${value}`));
  const gpus = capabilities.gpus.map((gpu) => `${gpu.model} (${formatSize(gpu.memoryBytes)})`);
  return renderFields([
    ['node', safe(node.name)],
    ['id', safe(node.id)],
    ['state', nodeState(node)],
    ...(node.suspended === null ? [] : [['suspended', safe(node.suspended)] as [string, string]]),
    ['platform', safe(`${capabilities.os}/${capabilities.arch}`)],
    ['cpus', `${capabilities.cpus}, ${capabilities.slots} slots`],
    ['memory', formatSize(capabilities.memoryBytes)],
    ['gpus', safe(gpus.join(', ')) || 'none'],
    ['labels', safe(labels.join(', ')) || 'none'],
    ['executors', safe(capabilities.executors.join(', '))],
    ['sandbox', safe(sandboxLine(capabilities))],
    ['enforced', safe(capabilities.limits.join(', ')) || 'unknown'],
    ['load', percent(node.load)],
    ['tasks', `${node.running} running, ${node.queued} queued`],
    ['round trip', milliseconds(node.rttMs)],
    ['reliability', percent(node.reliability)],
    ['last heartbeat', node.lastHeartbeatAt ?? '-'],
    ['certificate', `${safe(node.certFingerprint)}, until ${node.certExpiresAt ?? '-'}, ${endsIn(node.certExpiresAt)}`],
    ...(node.renewalOverdue ? [['expiring', NOT_RENEWED] as [string, string]] : []),
    ['version', safe(node.version)],
  ]);
}

export function coordinatorsTable(coordinators: readonly CoordinatorShape[], nowMs: number): string {
  const columns = [left('COORDINATOR'), left('ROLE'), left('ADDRESS'), left('SEEN'), left('VERSION')];
  const rows = coordinators.map(({ name, leader, addresses, lastSeenAt, version }) => [
    safe(name),
    leader ? 'leader' : 'standby',
    safe(addresses[0] ?? '-'),
    ago(lastSeenAt, nowMs),
    safe(version),
  ]);
  return renderTable(columns, rows);
}

export function waitingTable(waiting: readonly WaitingShape[], nowMs: number): string {
  const columns = [left('WAITING'), left('PHRASE'), left('FROM'), left('TOKEN'), left('SINCE')];
  const rows = waiting.map(({ name, phrase, address, token, requestedAt }) => [
    safe(name),
    phrase,
    safe(address),
    safe(token),
    ago(requestedAt, nowMs),
  ]);
  return renderTable(columns, rows);
}
