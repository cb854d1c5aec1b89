import { type Test, test } from 'tap';
import { check, violationText } from './check.js';
import { fromLines, type HistoryEvent, merge, type OnDisconnect, toLine } from './events.js';

type Event<K extends HistoryEvent['kind']> = Extract<HistoryEvent, { kind: K }>;
type Given<K extends HistoryEvent['kind']> = Partial<Omit<Event<K>, 'kind'>>;

/** Events with everything filled in that the test does not care about: task 0 of job `j`, on node `a`. */
const event = <K extends HistoryEvent['kind']>(kind: K, given: Given<K> = {}): HistoryEvent =>
  ({
    ...{ kind, atMs: 0, job: 'j', index: 0, generation: 1, node: 'a', epoch: 1 },
    ...{ outcome: 'succeeded', to: 'COMPLETED', status: 'COMPLETED', failures: 0, losses: 0 },
    ...{ completed: 1, failed: 0, cancelled: 0, slots: 1, holder: 'one', fault: 'cut', target: 'network' },
    ...given,
  }) as HistoryEvent;

const job = (onDisconnect: OnDisconnect = 'keep', tasks = 1): HistoryEvent =>
  event('job-acknowledged', { tasks, onDisconnect, failuresMax: 3, lossesMax: 20 } as Given<'job-acknowledged'>);

const run = (node: string, generation: number, beganMs: number, endedMs: number): HistoryEvent[] => [
  event('attempt-began', { node, generation, atMs: beganMs }),
  event('attempt-ended', { node, generation, atMs: endedMs }),
];

const good: HistoryEvent[] = [
  event('leader-elected'),
  event('node-started'),
  job(),
  event('task-assigned', { atMs: 10 }),
  ...run('a', 1, 20, 30),
  event('attempt-settled', { atMs: 40 }),
  event('task-terminal', { atMs: 40 }),
  event('final-task', { atMs: 100 }),
  event('final-job', { atMs: 100 }),
  event('end', { atMs: 100 }),
];

const caught = (t: Test, invariant: string, history: HistoryEvent[], what: RegExp) => {
  const violations = check(history);
  t.same([...new Set(violations.map((violation) => violation.invariant))], [invariant]);
  t.match(violations.map(violationText).join('\n'), what);
};

test('a good history breaks nothing, and survives being written and read', async (t) => {
  t.same(check(good), []);
  t.same(fromLines(good.map(toLine).join('')), good);
  t.same(fromLines(`${toLine(job())}{"kind":"node-st`), [job()], 'a writer was killed in the middle of a line');
  t.same(fromLines(JSON.stringify(job())), [job()]);
  t.same(
    merge(run('a', 1, 1, 5), run('b', 2, 2, 5)).map(({ kind, atMs }) => [kind, atMs]),
    [
      ['attempt-began', 1],
      ['attempt-began', 2],
      ['attempt-ended', 5],
      ['attempt-ended', 5],
    ],
  );
});

test('I1: a task that never ends, ends twice, or is gone', async (t) => {
  caught(t, 'I1', [job(), event('final-task', { status: 'RUNNING' })], /j\.0 never ended: it is RUNNING/);
  caught(
    t,
    'I1',
    [job(), event('final-job', { status: 'RUNNING', completed: 0 })],
    /1 of 1 tasks of job j never ended/,
  );
  caught(t, 'I1', [job(), event('final-job', { job: 'other' })], /job j was acknowledged and is gone/);
  caught(
    t,
    'I1',
    [job(), event('task-terminal'), event('task-terminal', { status: 'CANCELLED' })],
    /ended as CANCELLED/,
  );
  caught(t, 'I1', [job(), event('task-terminal'), event('final-task', { status: 'FAILED' })], /row says FAILED/);
});

test('I2: two results of one task, or one twice', async (t) => {
  const settled = event('attempt-settled');
  caught(t, 'I2', [job(), settled, event('attempt-settled', { generation: 2 })], /generation 1 had ended/);
  const failed = event('attempt-settled', { outcome: 'failed', to: 'RETRYING' });
  caught(t, 'I2', [job(), failed, failed], /accepted twice/);
  const lost = event('attempt-settled', { outcome: 'node-lost', to: 'RETRYING' });
  t.same(check([job(), lost, settled]), [], 'a loss is taken back when the attempt is adopted');
});

test('I3: a superseded generation, node or epoch', async (t) => {
  const assigned = [event('task-assigned'), event('task-assigned', { generation: 2, node: 'b' })];
  caught(t, 'I3', [...assigned, event('attempt-settled')], /generation 1 on a was accepted .*; current is 2 on b/);
  caught(t, 'I3', [event('task-assigned'), event('attempt-settled', { node: 'b' })], /current is 1 on a/);
  caught(t, 'I3', [...assigned, event('task-assigned')], /generation 1 on a was assigned after generation 2/);
  const elected = event('leader-elected', { epoch: 2, holder: 'two' });
  caught(t, 'I3', [event('leader-elected'), elected, event('attempt-settled')], /epoch 1 wrote .* while epoch 2 ruled/);
  caught(t, 'I3', [elected, event('leader-elected')], /one was elected in epoch 1 after epoch 2/);
});

test('I3: a copy leaves its original current until that is settled or the task is given away again', async (t) => {
  const original = event('task-assigned');
  const copy = event('task-assigned', { generation: 2, node: 'b', copy: true });
  const won = event('attempt-settled');
  t.same(check([original, copy, won]), [], 'the original wins');
  t.same(check([original, copy, event('attempt-settled', { generation: 2, node: 'b' })]), [], 'the copy wins');
  const lost = event('attempt-settled', { outcome: 'node-lost', to: 'RETRYING' });
  caught(t, 'I3', [original, copy, lost, won], /generation 1 on a was accepted .*; current is 2 on b/);
  const anew = event('task-assigned', { generation: 3, node: 'c' });
  caught(t, 'I3', [original, copy, anew, won], /generation 1 on a was accepted .*; current is 3 on c/);
  const ended = event('attempt-settled', { generation: 2, node: 'b', outcome: 'failed', to: 'RETRYING' });
  const again = event('task-assigned', { generation: 3, node: 'c', copy: true });
  t.same(check([original, copy, ended, again, won]), [], 'the original wins over its second copy');
  const late = event('attempt-settled', { generation: 2, node: 'b' });
  caught(t, 'I3', [original, copy, again, late], /generation 2 on b was accepted .*; current is 3 on c/);
});

test('I3: a result that is not of the attempt it ended', async (t) => {
  const settled = (generation: number, outcome = 'succeeded', to: 'COMPLETED' | 'RETRYING' = 'COMPLETED') =>
    event('attempt-settled', { generation, outcome, to, atMs: 40 });
  const other = /generation 2 on a was accepted .* no such attempt had ended there/;
  const still = event('attempt-began', { generation: 2, atMs: 35 });
  caught(t, 'I3', [job(), ...run('a', 1, 10, 20), still, settled(2)], other);
  const again = [...run('a', 1, 10, 20), settled(1, 'failed', 'RETRYING'), settled(2)];
  caught(t, 'I3', [job(), ...again], other);
  t.same(check([job(), ...run('a', 1, 10, 20), settled(2)]), [], 'it went on under another generation');
  t.same(check([job(), ...run('b', 1, 10, 20), settled(1, 'failed', 'RETRYING')]), [], 'it could not be started');
});

test('outbox: a kept result that the next hello does not tell', async (t) => {
  const kept = event('result-kept');
  const hello = (...unacknowledged: { job: string; index: number; generation: number }[]) =>
    event('agent-hello', { unacknowledged } as Given<'agent-hello'>);
  caught(t, 'outbox', [job(), kept, hello()], /generation 1 on a was kept and is not in the agent's hello/);
  t.same(check([job(), kept, hello({ job: 'j', index: 0, generation: 1 })]), []);
  t.same(check([job(), kept, event('attempt-settled'), hello()]), [], 'it was taken');
  const attempts = [{ job: 'j', index: 0, generation: 1 }];
  t.same(check([job(), kept, event('agent-released', { attempts } as Given<'agent-released'>), hello()]), []);
  t.same(check([job(), kept, event('task-assigned', { generation: 2, node: 'b' }), hello()]), [], 'nobody wants it');
  t.same(check([job(), kept, event('task-terminal', { status: 'CANCELLED' }), hello()]), []);
});

test('I4: more failures or losses than the job allows', async (t) => {
  caught(t, 'I4', [job(), event('final-task', { failures: 4 })], /j\.0 failed 4 times, at most 3/);
  caught(t, 'I4', [job(), event('final-task', { losses: 21 })], /was lost 21 times, at most 20/);
});

test('I5: a process that outlives its attempt', async (t) => {
  const began = event('attempt-began');
  caught(t, 'I5', [job(), began, event('end', { atMs: 5 })], /generation 1 on a still runs/);
  const killed = event('node-killed', { atMs: 1 });
  t.same(check([job(), began, killed, event('end', { atMs: 5 })]), [], 'nobody there can end it');
  const restarted = [event('node-started'), began, killed, event('node-started', { atMs: 10 })];
  caught(t, 'I5', [...restarted, event('attempt-ended', { atMs: 60_000 })], /outlived the restart/);
  t.same(check([...restarted, event('attempt-ended', { atMs: 11 })]), []);
});

test('I6: a mesh that stands still', async (t) => {
  const waits = [job(), event('all-healed', { atMs: 1000 })];
  caught(t, 'I6', [...waits, event('task-assigned', { atMs: 50_000 })], /nothing ran and nothing moved for 49\.0 s/);
  t.same(check([...waits, event('task-assigned', { atMs: 30_000 })]), []);
  const backoff = event('attempt-settled', { to: 'RETRYING', outcome: 'failed', dueInMs: 60_000, atMs: 1000 });
  t.same(check([...waits, backoff, event('task-assigned', { atMs: 90_000, generation: 2 })]), [], 'it was in backoff');
  t.same(check([...waits, ...run('a', 1, 2000, 90_000)]), [], 'it runs');
  t.same(check([job(), event('task-terminal'), event('all-healed'), event('end', { atMs: 90_000 })]), [], 'it is done');
});

test('I7: more on a node than it has slots', async (t) => {
  const two = [event('attempt-began'), event('attempt-began', { index: 1 })];
  caught(t, 'I7', [event('node-started'), ...two], /began as number 2 on a node of 1 slots/);
  t.same(check([event('node-started', { slots: 2 }), ...two]), []);
});

test('I8: two attempts of one task at once', async (t) => {
  const both = merge(run('a', 1, 10, 100), run('b', 2, 50, 200));
  caught(t, 'I8', [job('stop'), event('fault-injected'), ...both], /ran beside .* for 50 ms; the job says stop/);
  caught(t, 'I8', [job('keep'), ...both], /the job says keep/);
  t.same(check([job('keep'), event('fault-injected', { atMs: 5 }), ...both]), [], 'there was a fault before');
  t.same(check([job('stop'), ...run('a', 1, 10, 50), ...run('b', 2, 50, 200)]), [], 'one after the other');
  const asleep = [event('node-asleep', { atMs: 20 }), event('node-awake', { atMs: 90 })];
  t.same(check([job('stop'), ...merge(both, asleep)]), [], 'a machine that sleeps cannot kill by the clock');
  const dead = [event('node-killed', { atMs: 20 }), event('node-started', { atMs: 90 })];
  t.same(check([job('stop'), ...merge(both, dead)]), [], 'nor can an agent that was killed');
  const short = [event('node-asleep', { atMs: 20 }), event('node-awake', { atMs: 30 })];
  const long = merge(run('a', 1, 10, 10_000), run('b', 2, 50, 20_000));
  caught(t, 'I8', [job('stop'), ...merge(long, short)], /for 7970 ms/);
});
