import { test } from 'tap';
import { elapse, PlayedAgent, startPlane, submit } from '../../test/support/plane.js';
import { withStore } from '../../test/support/postgres.js';
import type { Store } from '../ports.js';

test('the round trip is the echo’s age less the time the agent held it', async (t) => {
  const { plane, clock } = await startPlane(t);
  const agent = new PlayedAgent(plane, 'attic');
  await agent.connect();
  clock.advance(1000);
  const { pingUs, sequence, epoch, draining } = agent.beat();
  t.same({ pingUs, sequence, epoch, draining }, { pingUs: 1_000_000, sequence: 1, epoch: 1, draining: false });
  clock.advance(2012);
  agent.beat({ echoUs: pingUs, echoHeldUs: 2_000_000 });
  t.equal(plane.fleet.get(agent.node)?.roundTrip?.smoothedMs, 12);
  agent.beat({ echoUs: pingUs, echoHeldUs: 9_000_000 });
  t.equal(plane.fleet.get(agent.node)?.roundTrip?.smoothedMs, 12, 'an impossible sample is ignored');
});

test('a heartbeat’s load is bounded, also when it is no number', async (t) => {
  const { plane } = await startPlane(t);
  const agent = new PlayedAgent(plane, 'attic');
  await agent.connect();
  const loadAfter = (load: number) => {
    agent.beat({ load });
    return plane.fleet.get(agent.node)?.load;
  };
  t.same([0.5, 7, -1, Number.NaN, Infinity].map(loadAfter), [0.5, 1, 0, 0, 0]);
});

test('three missed heartbeats make a node SUSPECT, the end of the lease OFFLINE, a heartbeat HEALTHY again', async (t) => {
  const { plane, clock, store } = await startPlane(t);
  const agent = new PlayedAgent(plane, 'attic', 1);
  await agent.connect();
  const job = await submit(plane, 1);
  await agent.assigned();
  const state = () => plane.fleet.get(agent.node)?.liveness.state;
  await elapse(clock, 6000);
  t.equal(state(), 'HEALTHY');
  await elapse(clock, 1000);
  t.equal(state(), 'SUSPECT');
  t.equal(plane.ledger.size, 1, 'it keeps its work');
  agent.beat();
  t.equal(state(), 'HEALTHY');
  await elapse(clock, 15_500);
  t.equal(state(), 'OFFLINE');
  t.match(agent.mailbox.heard.at(-1), { $case: 'goodbye' }, 'a half-open stream is closed');
  await plane.results.settled();
  t.equal(plane.ledger.size, 0);
  t.match(await store.tasks.attempts(job.seq, 0), [{ outcome: 'node-lost' }]);
});

test('a coordinator that stood still excuses the silence it did not hear', async (t) => {
  const { plane, clock } = await startPlane(t);
  const agent = new PlayedAgent(plane, 'attic', 1);
  await agent.connect();
  await elapse(clock, 2000);
  clock.advance(60_000);
  // The silence that counts: two seconds before, three after.
  await elapse(clock, 3000);
  t.equal(plane.fleet.get(agent.node)?.liveness.state, 'HEALTHY');
  await elapse(clock, 12_000);
  t.equal(plane.fleet.get(agent.node)?.liveness.state, 'OFFLINE', 'but not the silence after it');
});

test('a session does not outlive its certificate', async (t) => {
  const { plane, clock } = await startPlane(t);
  const agent = new PlayedAgent(plane, 'attic', 1, { notAfterMs: clock.wallMs() + 10_000 });
  await agent.connect();
  const beats = () => void (agent.session.open && agent.beat());
  await elapse(clock, 9500, beats);
  t.ok(agent.session.open);
  await elapse(clock, 1500, beats);
  t.notOk(agent.session.open);
  t.match(agent.mailbox.heard.at(-1), { $case: 'goodbye', value: { reason: 'its certificate has expired' } });
});

test('vitals are saved every few seconds; a node that was never heard of is not', async (t) => {
  const { plane, clock, store } = await startPlane(t);
  const agent = new PlayedAgent(plane, 'attic', 1);
  await agent.connect();
  agent.beat();
  const node = plane.fleet.get(agent.node);
  if (!node) throw new Error('it joined');
  node.reliability = 0.25;
  node.finished = 7;
  await elapse(clock, 5500, () => void agent.beat());
  let [row] = await store.nodes.all();
  while (row?.finished !== 7) [row] = await store.nodes.all();
  t.equal(row.reliability, 0.25);
  t.ok(Math.abs((row.lastHeartbeatAtMs ?? 0) - clock.wallMs()) < 1000);
});

test('a draining node keeps what runs and gets nothing more until it is undrained', async (t) => {
  const { plane } = await startPlane(t);
  const agent = new PlayedAgent(plane, 'attic', 1);
  await agent.connect();
  await plane.vitals.setDraining('attic', true);
  t.ok(agent.beat().draining, 'it is told');
  const job = await submit(plane, 1);
  await new Promise((resolve) => setImmediate(resolve));
  t.equal(plane.ledger.heldByJob(job.seq), 0);
  await plane.vitals.setDraining('attic', false);
  t.equal((await agent.assigned()).length, 1);
  await t.rejects(plane.vitals.setDraining('nowhere', true), { code: 'NOT_FOUND' });
});

test('a leader that was paused past its own lease extends nobody’s before it knows that it still leads', async (t) => {
  const store = await withStore(t);
  let resume: () => void = () => undefined;
  const resumed = new Promise<void>((resolve) => (resume = resolve));
  const slow: Store = {
    ...store,
    leader: { ...store.leader, renew: (epoch) => resumed.then(() => store.leader.renew(epoch)) },
  };
  const { plane, clock } = await startPlane(t, { store: slow, config: { leaderLease: 6000 } });
  const agent = new PlayedAgent(plane, 'attic', 1);
  await agent.connect();
  clock.advance(5999);
  t.equal(agent.beat().epoch, 1);
  clock.advance(1);
  t.throws(() => agent.beat(), /not sure to lead/, 'what waited in the socket is not answered');
  t.equal(plane.fleet.get(agent.node)?.liveness.state, 'HEALTHY', 'though it was heard');
  await t.rejects(agent.connect(), { code: 'NOT_READY' }, 'nor does anybody get a welcome, which is a lease too');
  resume();
  while (!plane.holdsLead) await store.ping();
  await agent.connect();
  t.equal(agent.beat().epoch, 1, 'nobody had taken over');
});
