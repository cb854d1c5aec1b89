import { createHash } from 'node:crypto';
import { test } from 'tap';
import { Outcome } from '../../proto/gen/mesh/v1/agent.js';
import type { TaskInput } from '../../proto/gen/mesh/v1/common.js';
import { jobUntil, PlayedAgent, startPlane, submission, submit, type TestPlane } from '../../test/support/plane.js';
import type { NamespaceChange } from './namespaces.js';

const NONE = { running: undefined, queued: undefined, cpuMillis: undefined, bytes: undefined };
const change = (
  name: string,
  over: Partial<NamespaceChange> = {},
  quotas: Partial<NamespaceChange['quotas']> = {},
) => ({
  ...{ name, members: [], without: [] },
  ...over,
  quotas: { ...NONE, ...quotas },
});
const someone = { name: 'operator/admin', address: '127.0.0.1', certificate: 'ab' };
const namespacesOf = ({ plane }: TestPlane) => plane.lead().namespaces;

test('a job counts for the namespace of its submitter at that moment', async (t) => {
  const parts = await startPlane(t);
  const namespaces = namespacesOf(parts);
  t.equal((await submit(parts.plane, 1)).namespace, 'default');
  await namespaces.set(change('lab', { members: ['anna'] }), someone);
  const job = await submit(parts.plane, 2);
  t.equal(job.namespace, 'lab');
  t.match(await namespaces.list(), [
    { row: { name: 'default' }, usage: { queued: 1 } },
    { row: { name: 'lab', members: ['anna'] }, usage: { queued: 2, running: 0, cpuMillis: 0, bytes: 0 } },
  ]);
  await namespaces.set(change('lab', { without: ['anna'] }), someone);
  t.equal(namespaces.nameOf('anna'), 'default');
  t.equal((await parts.store.jobs.get(job.id))?.namespace, 'lab', 'a job stays where it was submitted');
});

test('quotas outlive the term, and a change leaves the others as they are', async (t) => {
  const parts = await startPlane(t);
  const namespaces = namespacesOf(parts);
  await namespaces.set(change('lab', {}, { running: 3, bytes: 100 }), someone);
  await Promise.all([
    namespaces.set(change('lab', {}, { bytes: null }), someone),
    namespaces.set(change('lab', {}, { queued: 7 }), someone),
  ]);
  await namespaces.start();
  t.match((await namespaces.list())[1]?.row.quotas, { running: 3, queued: 7, bytes: undefined });
});

test('waiting tasks beyond the quota are refused, a repeated submission is not', async (t) => {
  const parts = await startPlane(t);
  await namespacesOf(parts).set(change('default', {}, { queued: 10 }), someone);
  const given = submission(8);
  const { id } = await parts.plane.intake.submit(given);
  await t.rejects(submit(parts.plane, 3), {
    code: 'QUOTA',
    message: 'the namespace default has a quota of 10 queued tasks; 8 wait, and this job has 3',
  });
  t.same((await parts.store.jobs.list({ limit: 10 })).length, 1, 'nothing is left of it');
  t.equal((await parts.plane.intake.submit(given)).id, id, 'what was taken is taken');
  t.equal((await submit(parts.plane, 2)).counts.total, 2, 'what fits is taken');
});

test('many submissions at a time do not pass one quota together', async (t) => {
  const parts = await startPlane(t);
  await namespacesOf(parts).set(change('default', {}, { queued: 10 }), someone);
  const outcomes = await Promise.allSettled(Array.from({ length: 20 }, () => submit(parts.plane, 3)));
  t.equal(outcomes.filter(({ status }) => status === 'fulfilled').length, 3);
  t.equal((await namespacesOf(parts).list())[0]?.usage.queued, 9);
});

test('each different file counts once, for as long as its job is kept', async (t) => {
  const parts = await startPlane(t);
  const { plane } = parts;
  await namespacesOf(parts).set(change('default', {}, { bytes: 1000 }), someone);
  const contents = ['a', 'b'].map((letter) => Buffer.from(letter.repeat(400)));
  const digests = contents.map((data) => createHash('sha256').update(data).digest('hex'));
  const upload = plane.blobs.upload();
  for (const [at, data] of contents.entries()) {
    await upload.begin(digests[at] as string);
    await upload.append(data);
  }
  await upload.finish();
  const file = (digest: string) => ({ path: 'f', digest, sizeBytes: 400, executable: false });
  const item = (digest: string): TaskInput => ({ value: '', files: [file(digest)] });
  const given = (...of: string[]) => plane.intake.submit(submission(of.length, {}, [of.map(item)]));
  const [a, b] = digests as [string, string];
  await given(a, a, a);
  t.equal((await namespacesOf(parts).list())[0]?.usage.bytes, 400);
  await given(a);
  await t.rejects(given(b), { code: 'QUOTA', message: /800 B are stored, and this job brings 400 B/ });
  t.equal((await submit(plane, 1)).counts.total, 1, 'a job without files is taken');
});

test('running tasks stay within the quota, and why says so', async (t) => {
  const parts = await startPlane(t);
  const { plane } = parts;
  const namespaces = namespacesOf(parts);
  await namespaces.set(change('lab', { members: ['anna'] }, { running: 3 }), someone);
  const agent = new PlayedAgent(plane, 'big', 16);
  await agent.connect();
  const job = await submit(plane, 8);
  const first = await agent.assignedAll(3);
  t.equal(plane.ledger.heldByJob(job.seq), 3);
  const row = await parts.store.jobs.get(job.id);
  if (!row) throw new Error('the job is there');
  t.equal(
    plane.explain.answer(row, undefined).summary,
    'held back: the namespace lab has its quota of 3 running tasks assigned',
  );
  await agent.finish(first.slice(0, 2));
  t.equal((await agent.assignedAll(2)).length, 2, 'what ends makes room');
  t.equal(plane.ledger.heldByJob(job.seq), 3);
  await namespaces.set(change('lab', {}, { running: null }), someone);
  t.equal((await agent.assignedAll(3)).length, 3, 'without the quota the rest follows at once');
  await jobUntil(parts, job.id, ({ counts }) => counts.assigned === 6);
});

test('what still runs of a cancelled job counts until its agent has killed it', async (t) => {
  const parts = await startPlane(t);
  const { plane } = parts;
  await namespacesOf(parts).set(change('default', {}, { running: 3 }), someone);
  const agent = new PlayedAgent(plane, 'big', 16);
  await agent.connect();
  const { id, seq } = await submit(plane, 3);
  const running = await agent.assignedAll(3);
  const row = await parts.store.jobs.get(id);
  if (row) await plane.cancellation.cancel(row, undefined);
  await jobUntil(parts, id, ({ status }) => status === 'CANCELLED');
  t.equal(plane.ledger.occupiedByJob(seq), 3);
  t.match((await namespacesOf(parts).list())[0]?.usage, { running: 3, cpuMillis: 3000 }, 'it is no live job any more');
  const next = await submit(plane, 3);
  await agent.finish(running.slice(0, 1), { outcome: Outcome.CANCELLED });
  t.equal((await agent.assignedAll(1)).length, 1);
  t.equal(plane.ledger.occupiedByJob(next.seq), 1, 'one is dead, so one is given');
});

test('CPUs: tasks that ask for more than the quota never get in, the others share it', async (t) => {
  const parts = await startPlane(t);
  const { plane } = parts;
  await namespacesOf(parts).set(change('default', {}, { cpuMillis: 4000 }), someone);
  await t.rejects(submit(plane, 1, { resources: { cpuMillis: 5000, memoryBytes: 0, gpus: 0, custom: {} } }), {
    code: 'QUOTA',
    message: /a quota of 4 CPUs; one task of this job asks for 5/,
  });
  const agent = new PlayedAgent(plane, 'big', 16);
  await agent.connect();
  const job = await submit(plane, 8, { resources: { cpuMillis: 1500, memoryBytes: 0, gpus: 0, custom: {} } });
  await agent.assignedAll(2);
  t.equal(plane.ledger.heldByJob(job.seq), 2);
});

test('what cannot be changed says why', async (t) => {
  const parts = await startPlane(t);
  const namespaces = namespacesOf(parts);
  await t.rejects(namespaces.set(change('Lab'), someone), { code: 'BAD_NAME' });
  await t.rejects(namespaces.set(change('lab', { members: ['__proto__'] }), someone), { code: 'BAD_NAME' });
  await t.rejects(namespaces.set(change('lab', { members: ['a'], without: ['a'] }), someone), {
    code: 'USAGE',
    message: /join and leave/,
  });
  await t.rejects(namespaces.set(change('lab', {}, { running: 0 }), someone), {
    code: 'USAGE',
    message: /0 running tasks/,
  });
  await t.rejects(namespaces.set(change('lab', {}, { bytes: 2 ** 60 }), someone), { code: 'USAGE' });
  await t.rejects(namespaces.remove('default', someone), { code: 'CONFLICT' });
  await t.rejects(namespaces.remove('lab', someone), { code: 'NOT_FOUND' });
  await namespaces.set(change('lab', { members: ['anna'] }), someone);
  const { id } = await submit(parts.plane, 1);
  await t.rejects(namespaces.remove('lab', someone), { code: 'CONFLICT', message: /1 job of the namespace lab/ });
  const row = await parts.store.jobs.get(id);
  if (row) await parts.plane.cancellation.cancel(row, undefined);
  await namespaces.remove('lab', someone);
  t.equal(namespaces.nameOf('anna'), 'default');
});
