import { test } from 'tap';
import { Outcome } from '../../proto/gen/mesh/v1/agent.js';
import { elapse, PlayedAgent, startPlane, submit } from '../../test/support/plane.js';
import { withStore } from '../../test/support/postgres.js';
import { beats, config, copied, held, outcomes, scene, start, taskOf } from '../../test/support/straggler.js';
import type { Store } from '../ports.js';

test('the copy fails: the original goes on alone, is not copied again where that could end the task, and completes', async (t) => {
  const all = await scene(t, { spec: { retries: 1 } });
  const { plane, slow, quick, original, clock } = all;
  const copy = await copied(all);
  await quick.finish([copy], { outcome: Outcome.FAILED, exitCode: 1, error: 'exit code 1' });
  t.match(await taskOf(all), { status: 'RUNNING', failures: 1, node: 'attic' });
  t.same(await outcomes(all), ['failed 1']);
  await elapse(clock, 3000, beats(slow, quick));
  t.equal(plane.ledger.ofTask(original.job, original.index).length, 1);
  await slow.finish([original]);
  t.match(await taskOf(all), { status: 'COMPLETED', node: 'attic', failures: 1 });
  t.equal(plane.ledger.size, 0);
});

test('the copy fails, and the original is copied again when it is a straggler again', async (t) => {
  const all = await scene(t);
  const { plane, clock, store, slow, quick, original } = all;
  const copy = await copied(all);
  await quick.finish([copy], { outcome: Outcome.FAILED, exitCode: 1, error: 'exit code 1' });
  const again = quick.assigned();
  await elapse(clock, 1500, beats(slow, quick));
  t.equal(plane.ledger.ofTask(original.job, original.index).length, 1, 'not at once');
  await elapse(clock, 3000, beats(slow, quick));
  const second = held(await again);
  t.match(second, { index: original.index, generation: 3 });
  t.same(quick.mailbox.all('assign').at(-1)?.groups[0]?.attempts, [3], 'the third of the task');
  t.match(await store.copies.live(), [{ generation: 1, alone: false, failures: 1 }]);
  await quick.finish([second]);
  t.match(await slow.mailbox.next('cancel'), { generations: [1] });
  t.match(await taskOf(all), { status: 'COMPLETED', node: 'cellar', generation: 3, failures: 1 });
  const ends = await store.tasks.attempts(all.job.seq, original.index);
  t.same(
    ends.map(({ generation, attempt, outcome }) => [generation, attempt, outcome]),
    [
      [1, 1, 'cancelled'],
      [2, 2, 'failed'],
    ],
  );
  t.same(await outcomes(all), ['failed 1', 'won 1']);
  t.equal(plane.ledger.size, 0);
});

test('another copy that is refused leaves the original as it was: its result counts', async (t) => {
  const store = await withStore(t);
  let asked = 0;
  const refusing: Store = {
    ...store,
    copies: {
      ...store.copies,
      make: async (epoch, copy) => (++asked === 1 ? store.copies.make(epoch, copy) : { task: undefined, jobs: [] }),
    },
  };
  const all = await scene(t, { store: refusing });
  const { clock, slow, quick } = all;
  await quick.finish([await copied(all)], { outcome: Outcome.FAILED, exitCode: 1, error: 'exit code 1' });
  while (asked < 2) await elapse(clock, 1000, beats(slow, quick));
  await elapse(clock, 1000, beats(slow, quick));
  await slow.finish([all.original]);
  t.match(await taskOf(all), { status: 'COMPLETED', node: 'attic', generation: 1, failures: 1 });
  t.equal(asked, 2, 'nor is it asked for again at once');
});

test('where its task failed a straggler gets its copy, when there is no other node', async (t) => {
  const all = await startPlane(t, { config });
  const { plane, clock } = all;
  const [attic, cellar] = [new PlayedAgent(plane, 'attic', 1), new PlayedAgent(plane, 'cellar', 1)] as const;
  for (const agent of [attic, cellar]) await agent.connect();
  const job = await submit(plane, 2, { speculate: true, backoffMs: 0 });
  const [first, second] = [held(await attic.assigned()), held(await cellar.assigned())];
  const retried = attic.assigned();
  await cellar.finish([second], { outcome: Outcome.FAILED, exitCode: 1, error: 'exit code 1' });
  attic.report([first]);
  await elapse(clock, 3000, beats(attic, cellar));
  const original = held(await retried);
  t.match(original, { index: second.index, generation: 2 }, 'it is tried elsewhere first');
  await start(all, attic, original);
  const copying = cellar.assigned();
  await elapse(clock, 4000, beats(attic, cellar));
  const copy = held(await copying);
  t.match(copy, { index: second.index, generation: 3 });
  await cellar.finish([copy]);
  t.match(await attic.mailbox.next('cancel'), { generations: [2] });
  t.match(await all.store.jobs.get(job.id), { status: 'COMPLETED', counts: { completed: 2 } });
});
