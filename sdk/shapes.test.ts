import { test } from 'tap';
import { Capabilities } from '../proto/gen/mesh/v1/common.js';
import { ExplainResponse, Job, Node, Task, TaskResult, Token } from '../proto/gen/mesh/v1/mesh.js';
import {
  cancelShape,
  explainShape,
  jobShape,
  nodeShape,
  pageShape,
  resultShape,
  taskShape,
  tokenShape,
} from './shapes.js';

const at = Date.UTC(2026, 0, 2, 3, 4, 5, 6);
const iso = '2026-01-02T03:04:05.006Z';
const tasks = { total: 9, queued: 1, assigned: 1, running: 1, retrying: 1, completed: 2, failed: 2, cancelled: 1 };

test('job', async (t) => {
  const job = Job.fromPartial({
    id: 'i',
    name: 'n',
    type: 'process',
    status: 'RUNNING',
    submitter: 's',
    namespace: 'lab',
    createdAtMs: at,
    tasks,
  });
  const expected = {
    ...{ id: 'i', name: 'n', type: 'process', status: 'RUNNING', priority: 0, submitter: 's', tasks },
    ...{ createdAt: iso, startedAt: null, completedAt: null, error: null, retryOf: null, namespace: 'lab' },
  };
  t.strictSame(jobShape(job), expected);
  t.strictSame(cancelShape({ job, cancelled: 4 }), { ...expected, cancelled: 4 });
  t.strictSame(jobShape(Job.fromPartial({ ...job, completedAtMs: at, error: 'e' })).completedAt, iso);
});

test('task: absent is null, zero stays zero, a result is JSON', async (t) => {
  const task = Task.fromPartial({
    job: 'j',
    status: 'COMPLETED',
    queuedAtMs: at,
    exitCode: 0,
    resultJson: '{"a":1}',
    runUs: 1500,
  });
  t.match(taskShape(task), {
    job: 'j',
    index: 0,
    exitCode: 0,
    result: { a: 1 },
    node: null,
    queuedAt: iso,
    runMs: 1.5,
  });
  const waiting = taskShape(Task.fromPartial({ job: 'j', index: 3, node: 'n', lastError: 'x' }));
  t.match(waiting, {
    exitCode: null,
    result: null,
    node: 'n',
    lastError: 'x',
    assignedAt: null,
    peakMemoryBytes: null,
  });
});

test('node', async (t) => {
  const capabilities = Capabilities.fromPartial({
    cpus: 4,
    gpus: [{ model: 'g', memoryBytes: 1 }],
    labels: { a: 'b' },
  });
  const shape = nodeShape(Node.fromPartial({ name: 'n', state: 'HEALTHY', capabilities, lastHeartbeatAtMs: at }));
  t.match(shape, { name: 'n', rttMs: null, lastHeartbeatAt: iso, certExpiresAt: null, suspended: null });
  t.equal(shape.renewalOverdue, false);
  t.equal(nodeShape(Node.fromPartial({ name: 'n', suspended: 'it failed' })).suspended, 'it failed');
  t.match(shape.capabilities, { cpus: 4, gpus: [{ model: 'g', memoryBytes: 1 }], labels: { a: 'b' }, executors: [] });
});

test('explanation, token, result and page', async (t) => {
  const response = ExplainResponse.fromPartial({
    job: 'j',
    index: 0,
    status: 'QUEUED',
    nodes: [{ name: 'n', reason: 'full' }],
  });
  t.strictSame(explainShape(response), {
    ...{ job: 'j', index: 0, status: 'QUEUED', chosen: null, summary: null },
    nodes: [{ name: 'n', feasible: false, reason: 'full', score: null, terms: {} }],
  });
  const token = Token.fromPartial({ id: 'i', role: 'agent', expiresAtMs: at, usesLeft: 1 });
  t.strictSame(tokenShape(token), { id: 'i', role: 'agent', name: null, expiresAt: iso, usesLeft: 1 });
  t.strictSame(resultShape(TaskResult.fromPartial({ index: 2, status: 'FAILED' })), {
    index: 2,
    status: 'FAILED',
    result: null,
  });
  t.strictSame(resultShape(TaskResult.fromPartial({ resultJson: '"text"' })).result, 'text');
  t.strictSame(pageShape([1], ''), { items: [1], next: null });
  t.strictSame(pageShape([1], 'c'), { items: [1], next: 'c' });
});
