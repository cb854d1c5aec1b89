import { test } from 'tap';
import { elapse, jobUntil, OPERATOR, PlayedAgent, startPlane, submit } from '../../test/support/plane.js';

const LEASE_MS = 15_000;

test('a node that is there, or may be, is not removed; one that is gone is forgotten, its name in history', async (t) => {
  const parts = await startPlane(t);
  const { plane, store, clock } = parts;
  const agent = new PlayedAgent(plane, 'attic');
  await agent.connect();
  const job = await submit(plane, 1);
  await agent.finish(await agent.assigned());
  await jobUntil(parts, job.id, ({ status }) => status === 'COMPLETED');
  const { removal } = plane.lead();
  await t.rejects(removal.remove(OPERATOR, 'cellar'), { code: 'NOT_FOUND' });
  await t.rejects(removal.remove(OPERATOR, 'attic'), { code: 'CONFLICT', message: /it is connected/ });
  agent.cut();
  await t.rejects(removal.remove(OPERATOR, 'attic'), { code: 'CONFLICT', message: /within its lease/ });
  await elapse(clock, LEASE_MS + 1000);
  await removal.remove(OPERATOR, 'attic');
  t.same([...plane.fleet.all()], []);
  t.throws(() => plane.fleet.named('attic'), { code: 'NOT_FOUND' });
  await t.rejects(plane.vitals.setDraining('attic', true), { code: 'NOT_FOUND' });
  await t.rejects(removal.remove(OPERATOR, 'attic'), { code: 'NOT_FOUND' });
  t.same(await plane.storedNodes(), []);
  const [task] = await store.tasks.list({ job: job.seq, fromIndex: 0, limit: 1 });
  t.equal(task?.node, 'attic');
});

test('what a revoked node still held is given away when it is removed', async (t) => {
  const parts = await startPlane(t);
  const { plane, store, clock } = parts;
  const agent = new PlayedAgent(plane, 'attic');
  await agent.connect();
  const job = await submit(plane, 1);
  await agent.assigned();
  await store.nodes.setRevoked('attic', true);
  plane.fleet.revoked(plane.fleet.named('attic'));
  agent.cut();
  await plane.lead().removal.remove(OPERATOR, 'attic');
  t.equal(plane.ledger.size, 0);
  const other = new PlayedAgent(plane, 'cellar');
  await other.connect();
  await elapse(clock, LEASE_MS + 1000, () => other.beat());
  await other.finish(await other.assigned());
  await jobUntil(parts, job.id, ({ status }) => status === 'COMPLETED');
});

test('whoever joins under the name begins afresh', async (t) => {
  const { plane, clock } = await startPlane(t);
  const agent = new PlayedAgent(plane, 'attic');
  await agent.connect();
  await plane.vitals.setDraining('attic', true);
  agent.cut();
  await elapse(clock, LEASE_MS + 1000);
  await plane.lead().removal.remove(OPERATOR, 'attic');
  const heir = new PlayedAgent(plane, 'attic');
  const { draining } = await heir.connect();
  t.equal(draining, false);
  t.match([...plane.fleet.all()], [{ row: { name: 'attic', removed: false, revoked: false } }]);
});
