import { test } from 'tap';
import { openTestStore, openTransaction, withDatabase } from '../../test/support/postgres.js';
import { assignTasks, countsOf, lead, madeJob, settlement, untilBlocked } from '../../test/support/store-fixtures.js';

test('a statement that meets a takeover under way waits for it, then refuses', async (t) => {
  const connection = await withDatabase(t, { migrated: true });
  const [paused, successor] = [await openTestStore(t, connection), await openTestStore(t, connection)];
  const epoch = await lead(paused);
  const job = await madeJob(paused, 3);
  // The takeover has happened in a transaction that has not committed. A snapshot taken now still shows the old epoch, so
  // a guard that only read it would let the statement commit after the takeover.
  const takeover = await openTransaction(t, successor, "update leader set epoch = epoch + 1, holder = 'successor'");
  const late = paused.tasks.assign(epoch, [{ job: job.seq, node: 1, from: 0, to: 3 }]);
  const refused = t.rejects(late, { code: 'LEADERSHIP_LOST' });
  await untilBlocked(successor);
  await takeover.commit();
  await refused;
  t.match(await countsOf(successor, job.id), { materialised: 0, assigned: 0 });
});

test('a takeover waits for the statement it meets, which counts then', async (t) => {
  const connection = await withDatabase(t, { migrated: true });
  const [leader, successor] = [await openTestStore(t, connection), await openTestStore(t, connection)];
  const epoch = await lead(leader);
  const job = await madeJob(leader, 3);
  const seen = await successor.leader.read();
  const blocker = await openTransaction(t, successor, `select 1 from job where seq = ${job.seq} for update`);
  const inFlight = assignTasks(leader, epoch, [{ job: job.seq, node: 1, from: 0, to: 3 }]);
  await untilBlocked(successor);
  const takeover = successor.leader.take(seen, 'successor');
  await untilBlocked(successor, 2);
  await blocker.commit();
  t.equal((await inFlight).tasks.length, 3);
  t.equal(await takeover, epoch + 1);
  t.match(await successor.tasks.live(), [{ index: 0 }, { index: 1 }, { index: 2 }], 'the successor sees what was done');
  await t.rejects(leader.tasks.settle(epoch, [settlement({ job: job.seq, index: 0, generation: 1, node: 1 })]), {
    code: 'LEADERSHIP_LOST',
  });
});

test('a renewal waits for no statement of the leader, however slowly it commits', async (t) => {
  const connection = await withDatabase(t, { migrated: true });
  const store = await openTestStore(t, connection);
  const epoch = await lead(store);
  // What every statement of the leader does first; it is not committed until the end of the test.
  const slow = await openTransaction(t, store, `select 1 from leader where epoch = ${epoch} for key share`);
  t.equal(await store.leader.renew(epoch), true);
  t.equal(await store.leader.renew(epoch), true);
  const seen = await store.leader.read();
  let taken = false;
  const takeover = store.leader.take(seen, 'successor').finally(() => (taken = true));
  await untilBlocked(store);
  t.equal(taken, false, 'a takeover waits');
  await slow.commit();
  t.equal(await takeover, epoch + 1);
});

test('a renewal has its own connection: slow statements, however many, do not hold it up', async (t) => {
  const connection = await withDatabase(t, { migrated: true });
  const store = await openTestStore(t, connection, { poolMax: 2 });
  const observer = await openTestStore(t, connection);
  const epoch = await lead(store);
  const blocker = await openTransaction(t, observer, 'lock table node in access exclusive mode');
  const held = Array.from({ length: 10 }, () => store.nodes.all());
  let answered = 0;
  for (const statement of held) void statement.then(() => answered++);
  await untilBlocked(observer, 2);
  t.equal(await store.leader.renew(epoch), true);
  await store.ping();
  t.equal(answered, 0, 'all others wait');
  await blocker.commit();
  await Promise.all(held);
});
