/** That the history of real processes shows what happened, broken promises included. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'tap';
import { check } from '../history/check.js';
import type { HistoryEvent } from '../history/events.js';
import { openPool } from '../../coordinator/store/database.js';
import { withStore } from './postgres.js';
import { assignedJob, failed, lead, settlement, retrying } from './store-fixtures.js';
import { databaseEvents, historyOf, noteTransitions, recorded, Trail } from './trail.js';

const promise = (job: string, tasks: number, onDisconnect: 'keep' | 'stop'): HistoryEvent => ({
  ...{ kind: 'job-acknowledged', atMs: 0, job, tasks, onDisconnect, failuresMax: 3, lossesMax: 20 },
});

test('a task that ran leaves its beginning and its end, and its pid as its output', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'mesh-trail-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 'trail');
  const env = { MESH_JOB_ID: 'j', MESH_TASK_INDEX: '3', MESH_GENERATION: '2', MESH_NODE: 'a1', PATH: process.env.PATH };
  const output = execFileSync('sh', ['-c', recorded(path, 'beat 0')], { env, encoding: 'utf8' });
  const trail = new Trail(readFileSync(path, 'utf8').trimEnd().split('\n'));
  t.equal(trail.again, 0);
  t.match(trail.runs, [{ ended: true, first: { pid: Number(output), node: 'a1' } }]);
  t.match(trail.events(), [
    { kind: 'attempt-began', job: 'j', index: 3, generation: 2, node: 'a1' },
    { kind: 'attempt-ended', job: 'j', index: 3, generation: 2, node: 'a1' },
  ]);
});

test('attempts that ran again and side by side are seen', async (t) => {
  const trail = new Trail([
    '10.00 j 0 1 a1 999999901 began',
    '11.00 j 0 2 a2 999999902 began',
    '11.50 j 0 1 a1 999999901 beat',
    '12.00 j 0 2 a2 999999902 ended',
  ]);
  t.equal(trail.again, 1);
  t.match(check(historyOf([promise('j', 1, 'stop')], trail.events())), [{ invariant: 'I8' }]);
  t.match(check(historyOf([promise('j', 1, 'keep')], trail.events())), [{ invariant: 'I8' }], 'there was no fault');
  const fault: HistoryEvent = { kind: 'fault-injected', atMs: 1, fault: 'partition', target: 'a1' };
  t.strictSame(check(historyOf([promise('j', 1, 'keep'), fault], trail.events())), []);
});

test('what still lives has no end', async (t) => {
  const trail = new Trail([`10.00 j 0 1 a1 ${process.pid} began`]);
  t.match(trail.events(), [{ kind: 'attempt-began' }]);
  const node: HistoryEvent = { kind: 'node-started', atMs: 0, node: 'a1', slots: 1 };
  const end: HistoryEvent = { kind: 'end', atMs: 99_000 };
  t.match(check(historyOf([node, promise('j', 1, 'keep')], trail.events(), [end])), [{ invariant: 'I5' }]);
});

test('transitions are noted in the database, and forged ones are seen', async (t) => {
  const store = await withStore(t);
  const sql = openPool({ target: store.database.target, max: 1 });
  t.teardown(() => sql.end({ timeout: 5 }));
  await noteTransitions(sql);
  const epoch = await lead(store);
  const { job, tasks } = await assignedJob(store, epoch, 3);
  const [first, second, third] = tasks as [(typeof tasks)[0], (typeof tasks)[0], (typeof tasks)[0]];
  await store.tasks.settle(epoch, [settlement(first), retrying(second)]);
  const acknowledged = [promise(job.id, 3, 'keep')];
  const seen = await databaseEvents(sql);
  t.match(
    seen.filter(({ kind }) => kind === 'leader-elected' || kind === 'attempt-settled' || kind === 'task-terminal'),
    [
      { kind: 'leader-elected', epoch },
      { kind: 'attempt-settled', index: first.index, outcome: 'succeeded', to: 'COMPLETED', epoch },
      { kind: 'task-terminal', index: first.index, status: 'COMPLETED' },
      { kind: 'attempt-settled', index: second.index, outcome: 'failed', to: 'RETRYING', dueInMs: Number },
    ],
  );
  t.equal(seen.filter(({ kind }) => kind === 'task-assigned').length, 3);
  const open = check(historyOf(acknowledged, seen));
  t.ok(open.length > 0 && open.every(({ invariant }) => invariant === 'I1'), 'two have not ended yet');

  await sql`update task set generation = generation + 1 where index = ${third.index}`;
  await sql`update task set status = 'COMPLETED', finished_at = now(), generation = 1 where index = ${third.index}`;
  const forged = check(historyOf(acknowledged, await databaseEvents(sql)));
  t.ok(
    forged.some(({ invariant }) => invariant === 'I3'),
    'the result of a superseded generation',
  );
  await sql`update task set status = 'RUNNING', running_at = now(), started_at = now(), finished_at = null
            where index = ${first.index}`;
  await sql`update task set status = 'COMPLETED', finished_at = now() where index = ${first.index}`;
  const twice = check(historyOf(acknowledged, await databaseEvents(sql)));
  t.ok(
    twice.some(({ invariant }) => invariant === 'I2'),
    'a second accepted result',
  );
});

test('what is assigned and completed without rows is noted too', async (t) => {
  const store = await withStore(t);
  const sql = openPool({ target: store.database.target, max: 1 });
  t.teardown(() => sql.end({ timeout: 5 }));
  await noteTransitions(sql);
  const epoch = await lead(store);
  const { job, tasks } = await assignedJob(store, epoch, 40);
  const results = tasks.map((task) => settlement(task, { exitCode: undefined, resultJson: 'null' }));
  await store.tasks.settle(epoch, results.slice(0, 30));
  await store.tasks.settle(epoch, [...results.slice(30, 35), ...tasks.slice(35).map((task) => failed(task))]);
  const seen = await databaseEvents(sql);
  const [{ rows, blocks } = { rows: 0, blocks: 0 }] = await sql<{ rows: number; blocks: number }[]>`
    select (select count(*) from task)::int as rows, (select count(*) from task_block)::int as blocks`;
  t.same({ rows, blocks }, { rows: 10, blocks: 1 });
  t.equal(seen.filter(({ kind }) => kind === 'task-assigned').length, 40);
  t.equal(seen.filter((event) => event.kind === 'task-terminal' && event.status === 'COMPLETED').length, 35);
  t.equal(seen.filter((event) => event.kind === 'final-task').length, 40);
  t.same(check(historyOf([promise(job.id, 40, 'keep')], seen)), []);

  await sql`insert into task_block (job, first, after, node, assigned_at, age_ms)
            values (${job.seq}, 29, 31, 1, now(), '{1,1}')`;
  const twice = check(historyOf([promise(job.id, 40, 'keep')], await databaseEvents(sql)));
  t.ok(
    twice.some(({ invariant }) => invariant === 'I2'),
    'a second accepted result',
  );
});
