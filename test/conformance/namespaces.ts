import { test } from 'tap';
import { NO_QUOTAS } from '../../coordinator/core/quotas.js';
import { DEFAULT_NAMESPACE } from '../../coordinator/ports.js';
import { newJob, pages } from '../support/store-fixtures.js';
import type { Subject } from './subject.js';

/** What becomes of namespaces (NamespaceStore), and what jobs say of theirs. */
export function namespacesConform({ withStore }: Subject): void {
  const everybody = { name: DEFAULT_NAMESPACE, quotas: NO_QUOTAS, members: [] };

  test('a submitter is in one namespace, and in the default one otherwise', async (t) => {
    const { namespaces } = await withStore(t);
    t.same(await namespaces.list(), [everybody]);
    const render = { name: 'render', quotas: { ...NO_QUOTAS, running: 4, bytes: 0 } };
    await namespaces.set({ ...render, members: ['ben', 'anna'], without: [] });
    t.same(await namespaces.list(), [everybody, { ...render, members: ['anna', 'ben'] }]);
    const lab = { name: 'lab', quotas: { running: 1, queued: 2, cpuMillis: 3, bytes: 2 ** 40 } };
    await namespaces.set({ ...lab, members: ['ben'], without: [] });
    t.same(
      (await namespaces.list()).map(({ name, members }) => [name, members]),
      [
        [DEFAULT_NAMESPACE, []],
        ['lab', ['ben']],
        ['render', ['anna']],
      ],
    );
    t.same((await namespaces.list())[1], { ...lab, members: ['ben'] }, 'quotas come back as they were given');
    await namespaces.set({ ...lab, quotas: NO_QUOTAS, members: [], without: ['ben', 'anna'] });
    t.same((await namespaces.list())[1], { name: 'lab', quotas: NO_QUOTAS, members: [] });
    t.same((await namespaces.list())[2]?.members, ['anna'], 'who is a member elsewhere does not leave');
    await namespaces.set({ ...everybody, members: ['anna'], without: [] });
    t.same((await namespaces.list())[2]?.members, [], 'to join the default one is to leave the other');
  });

  test('a namespace that goes leaves its members to the default one', async (t) => {
    const { namespaces } = await withStore(t);
    await namespaces.set({ name: 'lab', quotas: NO_QUOTAS, members: ['anna'], without: [] });
    t.equal(await namespaces.remove('lab'), true);
    t.equal(await namespaces.remove('lab'), false);
    t.same(await namespaces.list(), [everybody]);
  });

  test('the files of retained jobs count for the namespace they were submitted in', async (t) => {
    const { jobs, namespaces } = await withStore(t);
    const { job } = await jobs.create(newJob(1, { namespace: 'lab', stagedBytes: () => 5 }), pages());
    t.equal(job.namespace, 'lab');
    await jobs.create(newJob(1, { namespace: 'lab', stagedBytes: () => 7 }), pages());
    await jobs.create(newJob(1, { stagedBytes: () => 100 }), pages());
    t.equal(await namespaces.storedBytes('lab'), 12);
    t.equal(await namespaces.storedBytes('default'), 100);
    t.equal(await namespaces.storedBytes('nobody'), 0);
  });

  test('who admits a job is asked once, after its inputs; a repetition is let in whatever the answer', async (t) => {
    const { jobs } = await withStore(t);
    let asked = 0;
    const given = newJob(1, { idempotencyKey: 'k', admit: async () => void asked++ });
    const { job } = await jobs.create(given, pages());
    t.equal(asked, 1);
    const full = async () => Promise.reject(new Error('no room'));
    t.same(await jobs.create({ ...given, id: 'another', admit: full }, pages()), { job, created: false });
    const refusing = newJob(1, { admit: async () => Promise.reject(new Error('no')) });
    await t.rejects(jobs.create(refusing, pages()), { message: 'no' });
    t.equal(await jobs.get(refusing.id), undefined);
  });
}
