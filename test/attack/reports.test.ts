/** What agents say about tasks that are not theirs, or not theirs any more; over mutual TLS, through the real door. */
import { test } from 'tap';
import { Finished, Outcome } from '../../proto/gen/mesh/v1/agent.js';
import { type Front, hello, next, openFront, type Session } from '../support/front.js';
import { type HeldTask, submit, tasksOf } from '../support/plane.js';

async function connect(front: Front, name: string): Promise<Session> {
  const session = front.agent(front.mesh.credential('agent', name)).session();
  session.on('error', () => undefined);
  session.write(hello(`boot-${name}`));
  await next(session, 'welcome');
  return session;
}

async function report(session: Session, task: HeldTask): Promise<void> {
  const item = Finished.fromPartial({ ...task, outcome: Outcome.SUCCEEDED, resultJson: '"forged"', runUs: 5 });
  session.write({ body: { $case: 'finished', value: { items: [item], runs: [] } } });
  await next(session, 'finishedAck');
}

async function rowOf({ store }: Front, { job, index }: HeldTask) {
  const [row] = await store.tasks.list({ job, fromIndex: index, limit: 1 });
  return row;
}

/** Who was audited with results that nobody wanted. */
async function stale({ plane, store }: Front): Promise<string[]> {
  await plane.audit.idle();
  return (await store.audit.find({ action: 'result.stale', limit: 10 })).map(({ actor }) => actor);
}

test('A19: an agent reports the task of another; who it is comes from its connection', async (t) => {
  const front = await openFront(t);
  const honest = await connect(front, 'honest');
  await submit(front.plane, 1);
  const [task] = tasksOf(await next(honest, 'assign'));
  if (!task) throw new Error('one task');
  const before = await rowOf(front, task);
  const mallory = await connect(front, 'mallory');
  await report(mallory, task);
  t.same(await rowOf(front, task), before, 'nothing changed');
  t.same(await stale(front), ['agent/mallory']);
  await report(honest, task);
  t.match(
    await rowOf(front, task),
    { status: 'COMPLETED', resultJson: '"forged"' },
    'from the one it was given to it counts',
  );
});

test('A20: the result of a superseded generation is acknowledged, changes nothing, and is audited in number', async (t) => {
  const front = await openFront(t);
  const agent = await connect(front, 'attic');
  const job = await submit(front.plane, 1);
  const [task] = tasksOf(await next(agent, 'assign'));
  if (!task) throw new Error('one task');
  agent.write({
    body: {
      $case: 'finished',
      value: { items: [Finished.fromPartial({ ...task, outcome: Outcome.FAILED, exitCode: 1, runUs: 5 })], runs: [] },
    },
  });
  const [again] = tasksOf(await next(agent, 'assign'));
  t.match(again, { ...task, generation: task.generation + 1 }, 'it failed, and was given out anew');
  const before = await rowOf(front, task);
  for (let times = 0; times < 50; times++) await report(agent, task);
  t.same(await rowOf(front, task), before, 'nothing changed');
  t.match(await front.store.jobs.get(job.id), { counts: { completed: 0, assigned: 1 } });
  await front.plane.stop();
  const entries = await front.store.audit.find({ action: 'result.stale', limit: 100 });
  t.same(
    entries.map(({ actor, detail }) => [actor, (JSON.parse(detail) as { times: number }).times]),
    [
      ['agent/attic', 49],
      ['agent/attic', 1],
    ],
    'the first at once, the rest in one entry',
  );
});
