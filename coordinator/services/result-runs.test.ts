import { test } from 'tap';
import { MeshError } from '../../common/errors.js';
import type { SucceededRun } from '../../proto/gen/mesh/v1/agent.js';
import { jobUntil, PlayedAgent, startPlane, submit } from '../../test/support/plane.js';
import { withStore } from '../../test/support/postgres.js';

test('a run is settled and acknowledged as one; said twice, by another, or of what is not live, it changes nothing', async (t) => {
  const parts = await startPlane(t);
  const { plane, store } = parts;
  const agent = new PlayedAgent(plane, 'attic', 8);
  const mallory = new PlayedAgent(plane, 'mallory', 8);
  await agent.connect();
  const job = await submit(plane, 6);
  const held = await agent.assignedAll(6);
  t.same(
    held.map(({ index, generation }) => [index, generation]),
    [0, 1, 2, 3, 4, 5].map((index) => [index, 1]),
  );
  await mallory.connect();
  const run = (first: number, count: number, ...resultsJson: string[]): SucceededRun => ({
    ...{ job: job.seq, first, ageMs: 5, runUs: Array.from({ length: count }, (_, i) => 1000 + i), resultsJson },
  });
  const say = (by: PlayedAgent, ...runs: SucceededRun[]) => plane.results.report(by.session, { items: [], runs });
  say(mallory, run(0, 6, '"forged"'));
  t.same((await mallory.mailbox.next('finishedAck')).indexes, [0, 1, 2, 3, 4, 5], 'stale, one by one');
  t.match((await store.jobs.get(job.id))?.counts, { assigned: 6, completed: 0 });
  t.equal(mallory.session.owedBytes, 0);

  say(agent, run(0, 3, 'null'), run(0, 3, 'null'), run(3, 2, '1', '2'));
  t.same(await agent.mailbox.next('finishedRunsAck'), { jobs: [job.seq, job.seq], firsts: [0, 3], counts: [3, 2] });
  t.same((await agent.mailbox.next('finishedAck')).indexes, [0, 1, 2], 'what was said again is stale');
  t.match(await store.tasks.list({ job: job.seq, fromIndex: 0, limit: 6 }), [
    { status: 'COMPLETED', resultJson: 'null', runUs: 1000 },
    { status: 'COMPLETED', resultJson: 'null', runUs: 1001 },
    { status: 'COMPLETED', resultJson: 'null', runUs: 1002 },
    { status: 'COMPLETED', resultJson: '1', runUs: 1000 },
    { status: 'COMPLETED', resultJson: '2', runUs: 1001 },
    { status: 'ASSIGNED', node: 'attic' },
  ]);

  // One of these has ended: the other counts all the same.
  say(agent, { ...run(4, 2, '3'), exitCode: 0 });
  t.same((await agent.mailbox.next('finishedAck')).indexes, [4, 5]);
  t.match(await jobUntil(parts, job.id, (row) => row.completedAtMs !== undefined), { status: 'COMPLETED' });
  t.match(await store.tasks.list({ job: job.seq, fromIndex: 4, limit: 2 }), [
    { resultJson: '2', exitCode: undefined },
    { resultJson: '3', exitCode: 0 },
  ]);
  t.equal(plane.ledger.size, 0);
  t.equal(agent.session.owedBytes, 0);
  t.match(await plane.metrics.registry.getSingleMetricAsString('mesh_stale_results_total'), / 10$/m);
});

test('what an agent said of its runs before it was gone counts', async (t) => {
  const parts = await startPlane(t);
  const { plane, store } = parts;
  const agent = new PlayedAgent(plane, 'attic', 8);
  await agent.connect();
  const job = await submit(plane, 6);
  await agent.assignedAll(6);
  const run = { job: job.seq, first: 0, ageMs: 0, runUs: [1, 1, 1], resultsJson: [''], exitCode: 0 };
  plane.results.report(agent.session, { items: [], runs: [run] });
  const held = [...plane.ledger.ofNode(agent.session.node)];
  plane.results.lost(held, 'shutdown', 'it was stopped');
  await plane.results.settled();
  t.match(await store.jobs.get(job.id), { counts: { completed: 3 } });
  const tasks = await store.tasks.list({ job: job.seq, fromIndex: 0, limit: 6 });
  t.same(
    tasks.map(({ losses, exitCode }) => [losses, exitCode]),
    [0, 0, 0, 1, 1, 1].map((losses) => [losses, losses === 0 ? 0 : undefined]),
  );
});

test('of a run whose commit answered nothing, the job ends here too', async (t) => {
  const store = await withStore(t);
  let lose = true;
  const settle: typeof store.tasks.settle = async (...said) => {
    const settled = await store.tasks.settle(...said);
    if (!lose) return settled;
    lose = false;
    throw new MeshError('DATABASE_DOWN', 'the connection broke');
  };
  const lossy = { ...store, tasks: { ...store.tasks, settle } };
  const { plane, clock } = await startPlane(t, { store: lossy });
  const agent = new PlayedAgent(plane, 'attic', 4);
  await agent.connect();
  const job = await submit(plane, 3);
  await agent.assignedAll(3);
  const run = { job: job.seq, first: 0, ageMs: 0, runUs: [1, 2, 3], resultsJson: ['null'] };
  plane.results.report(agent.session, { items: [], runs: [run] });
  await plane.results.settled();
  t.same(agent.mailbox.all('finishedRunsAck'), [], 'nothing is acknowledged before its commit');
  clock.advance(500);
  t.same(await agent.mailbox.next('finishedRunsAck'), { jobs: [job.seq], firsts: [0], counts: [3] });
  t.equal(plane.jobs.get(job.seq), undefined);
  t.equal(plane.ledger.size, 0);
});
