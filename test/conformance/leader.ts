import { test } from 'tap';
import { assignedJob, countsOf, failed, lead, newJob, pages, settlement } from '../support/store-fixtures.js';
import type { Subject } from './subject.js';

/** Who leads (LeaderStore), and that nobody else writes. */
export function leaderConforms({ withStore }: Subject): void {
  test('the lease is taken by compare-and-set and renewed by its holder only', async (t) => {
    const store = await withStore(t);
    t.equal(await store.leader.read(), undefined);
    const tries = await Promise.all(Array.from({ length: 10 }, (_, i) => store.leader.take(undefined, `c${i}`)));
    t.same(
      tries.filter((epoch) => epoch !== undefined),
      [1],
    );
    const seen = await store.leader.read();
    t.match(seen, { epoch: 1, renewals: 0 });
    t.equal(await store.leader.renew(1), true);
    t.equal(await store.leader.take(seen, 'late'), undefined, 'it was renewed since it was seen');
    const now = await store.leader.read();
    t.match(now, { epoch: 1, renewals: 1 });
    const rivals = await Promise.all(Array.from({ length: 10 }, (_, i) => store.leader.take(now, `d${i}`)));
    t.same(
      rivals.filter((epoch) => epoch !== undefined),
      [2],
    );
    t.equal(await store.leader.renew(1), false, 'another epoch rules');
    t.equal(await store.leader.renew(2), true);
  });

  test('every statement of the leader refuses another epoch and changes nothing', async (t) => {
    const store = await withStore(t);
    const epoch = await lead(store);
    const { job, tasks } = await assignedJob(store, epoch, 3);
    const waiting = await store.jobs.create(newJob(3), pages());
    const [task] = tasks;
    if (!task) throw new Error('three tasks were assigned');
    const given = newJob(2, { epoch });
    const taken = await store.jobs.create(given, pages());
    t.match(taken, { created: true, job: { id: given.id, spec: given.spec, counts: { total: 2 } } });
    t.match(await store.jobs.create({ ...given, id: 'another' }, pages()), { created: false, job: { id: given.id } });
    const before = await countsOf(store, job.id);
    await lead(store);
    const refused = { code: 'LEADERSHIP_LOST' };
    for (const wrong of [epoch, epoch + 2]) {
      await t.rejects(store.jobs.create(newJob(1, { epoch: wrong }), pages()), refused);
      await t.rejects(store.tasks.assign(wrong, [{ job: waiting.job.seq, node: 1, from: 0, to: 1 }]), refused);
      await t.rejects(store.jobs.requestCancel(wrong, job.seq, undefined), refused);
      await t.rejects(store.tasks.assign(wrong, [{ job: job.seq, node: 1, from: 0, to: 3 }]), refused);
      await t.rejects(store.tasks.markRunning(wrong, [{ ...task, ageMs: 1 }]), refused);
      await t.rejects(store.tasks.settle(wrong, [settlement(task)]), refused);
      await t.rejects(store.tasks.settle(wrong, [failed(task)]), refused);
      await t.rejects(store.tasks.adopt(wrong, [task]), refused);
      await t.rejects(store.tasks.cancel(wrong, job.seq, 0, 10), refused);
    }
    t.same(await countsOf(store, job.id), before);
    t.same(await countsOf(store, waiting.job.id), waiting.job.counts);
    t.same(await store.tasks.attempts(job.seq, 0), []);
    t.match(await store.jobs.get(job.id), { cancelling: false });
  });

  test('a lease that was given back may be taken at once, and only by one', async (t) => {
    const store = await withStore(t);
    const epoch = await lead(store);
    await store.leader.release(epoch + 1);
    t.not((await store.leader.read())?.holder, '', 'not by a stranger');
    const held = await store.leader.read();
    await store.leader.release(epoch);
    t.match(await store.leader.read(), { epoch, holder: '' });
    t.equal(await store.leader.take(held, 'late'), undefined, 'it was given back since it was seen');
    const seen = await store.leader.read();
    const tries = await Promise.all(['a', 'b', 'c'].map((holder) => store.leader.take(seen, holder)));
    t.same(
      tries.filter((taken) => taken !== undefined),
      [epoch + 1],
    );
  });
}
