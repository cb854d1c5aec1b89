/**
 * The database commits, and the answer never arrives. Whatever it was, its outcome is found out by key and not guessed:
 * the counters are right in the end, and every row is there once. Each case also loses the request instead, where nothing
 * was committed; from here the two look the same.
 */
import { sql } from 'kysely';
import { test, type Test } from 'tap';
import { systemClock } from '../../common/clock.js';
import { makeCsr } from '../../common/identity/csr.js';
import { makeKeyPair } from '../../common/identity/keys.js';
import type { JobCounts } from '../../coordinator/core/job.js';
import type { PostgresStore } from '../../coordinator/store/index.js';
import { ManualClock } from '../support/manual-clock.js';
import {
  OPERATOR,
  columns,
  elapse,
  PlayedAgent,
  startPlane,
  submission,
  submit,
  type TestPlane,
} from '../support/plane.js';
import { openTestStore, withDatabase } from '../support/postgres.js';
import { type DatabaseProxy, type Lost, startDatabaseProxy } from '../support/database-proxy.js';

const newRequest = (): Uint8Array => makeCsr(makeKeyPair().privateKey, 'whatever');
const down = { code: 'DATABASE_DOWN' };
const LEASE_MS = 600_000;
const BOTH: readonly Lost[] = ['answer', 'request'];

interface Bench extends TestPlane {
  proxy: DatabaseProxy;
  /** Around the proxy: what is really there. */
  truth: PostgresStore;
}

async function setUp(t: Test): Promise<Bench> {
  const connection = await withDatabase(t, { migrated: true });
  const proxy = await startDatabaseProxy(t, connection);
  const store = await openTestStore(t, proxy.connection);
  // The test's time runs much faster than the database: leases that never end by themselves, the leader's least of all.
  const config = { leaderLease: 100 * LEASE_MS, nodeLease: LEASE_MS, heartbeat: LEASE_MS / 10 };
  const bench = await startPlane(t, { store, config, clock: new ManualClock(systemClock.wallMs()) });
  return { ...bench, proxy, truth: await openTestStore(t, connection) };
}

/** A moment passes, with as much of the database's time as one answer takes. */
async function moment({ clock, truth }: Bench): Promise<void> {
  await elapse(clock, 250);
  await truth.ping();
}

/** Lets time pass until the promise settles. */
async function passing<T>(bench: Bench, promise: Promise<T>): Promise<T> {
  let settled = false;
  const done = promise.finally(() => (settled = true));
  done.catch(() => undefined);
  while (!settled) await moment(bench);
  return done;
}

/** Lets time pass until the job is as the predicate wants it. */
async function untilJob(bench: Bench, id: string, is: (counts: JobCounts) => boolean) {
  for (;;) {
    const row = await bench.truth.jobs.get(id);
    if (row && is(row.counts)) return row;
    await moment(bench);
  }
}

/** What is kept of the tasks, for comparison with the counters. */
async function rowsOf(bench: Bench, seq: number): Promise<Record<string, number>> {
  const counts: Record<string, number> = {};
  for (const { status } of await bench.truth.tasks.list({ job: seq, fromIndex: 0, limit: 1000 }))
    counts[status.toLowerCase()] = (counts[status.toLowerCase()] ?? 0) + 1;
  return counts;
}

for (const lost of BOTH) {
  test(`submit: the ${lost} is lost`, async (t) => {
    const bench = await setUp(t);
    const { plane, truth, proxy } = bench;
    const first = submission(3);
    const gone = proxy.loseNext(/insert into job \(/, lost);
    await t.rejects(passing(bench, plane.intake.submit(first)), down);
    await gone;
    const job = await passing(bench, plane.intake.submit({ ...submission(3), idempotencyKey: first.idempotencyKey }));
    t.equal((await truth.jobs.list({ limit: 10 })).length, 1, 'there is one job');
    const agent = new PlayedAgent(plane, 'a1', 3);
    await agent.connect();
    const tasks = await passing(bench, agent.assignedAll(3));
    await passing(bench, agent.finish(tasks));
    t.match(await truth.jobs.get(job.id), { status: 'COMPLETED', counts: { completed: 3 } });
  });

  test(`submit: the ${lost} is lost, and nobody asks again`, async (t) => {
    const bench = await setUp(t);
    const { plane, truth, proxy } = bench;
    const gone = proxy.loseNext(/insert into job \(/, lost);
    await t.rejects(passing(bench, submit(plane, 3)), down);
    await gone;
    const [job] = await truth.jobs.list({ limit: 10 });
    if (lost === 'request') return t.equal(job, undefined);
    t.ok(job);
    const agent = new PlayedAgent(plane, 'a1', 3);
    await agent.connect();
    await passing(bench, agent.assignedAll(3));
  });

  test(`submit with items: the ${lost} is lost, and nobody asks again`, async (t) => {
    const bench = await setUp(t);
    const { plane, truth, proxy } = bench;
    const gone = proxy.loseNext(/insert into job \(/, lost);
    const items = ['a', 'b', 'c'].map((value) => ({ value, files: [] }));
    await t.rejects(passing(bench, plane.intake.submit(submission(3, {}, [items]))), down);
    await gone;
    const [job] = await truth.jobs.list({ limit: 10 });
    if (lost === 'request') return t.equal(job, undefined);
    const agent = new PlayedAgent(plane, 'a1', 3);
    await agent.connect();
    const tasks = await passing(bench, agent.assignedAll(3));
    const inputs = await truth.tasks.inputs(tasks);
    t.same(
      inputs.map((text) => (JSON.parse(text ?? '{}') as { value?: string }).value),
      ['a', 'b', 'c'],
    );
  });

  for (const [kept, count] of [
    ['as rows', 5],
    ['as a range', 40],
  ] as const)
    test(`assign and complete ${kept}: the ${lost}s are lost`, async (t) => {
      const bench = await setUp(t);
      const { plane, truth, proxy } = bench;
      const job = await submit(plane, count);
      const gone = proxy.loseNext(/insert into task \(job/, lost);
      const agent = new PlayedAgent(plane, 'a1', count);
      await agent.connect();
      const tasks = await passing(bench, agent.assignedAll(count));
      await gone;
      t.same(new Set(tasks.map(({ index }) => index)), new Set(Array.from({ length: count }, (_, index) => index)));
      t.same(new Set(tasks.map(({ generation }) => generation)), new Set([1]), 'assigned once');
      const unheard = proxy.loseNext(/update task t set\s+status = 'COMPLETED'/, lost);
      await passing(bench, agent.finish(tasks, { exitCode: undefined, resultJson: 'null' }));
      await passing(bench, unheard);
      t.same(await rowsOf(bench, job.seq), { completed: count });
      t.match(await truth.jobs.get(job.id), { status: 'COMPLETED', counts: { completed: count, assigned: 0 } });
      const { rows } = await sql<{ n: number }>`select count(*)::integer as n from task`.execute(truth.database.kysely);
      t.same(rows, [{ n: count < 16 ? count : 0 }]);
    });

  test(`settle: the ${lost} is lost, of successes and of failures`, async (t) => {
    const bench = await setUp(t);
    const { plane, truth, proxy } = bench;
    const job = await submit(plane, 4, { retries: 0 });
    const agent = new PlayedAgent(plane, 'a1', 4);
    await agent.connect();
    const tasks = await passing(bench, agent.assignedAll(4));
    const gone = proxy.loseNext(/update task t set\s+status = 'COMPLETED'/, lost);
    await passing(bench, agent.finish(tasks.slice(0, 2)));
    await passing(bench, gone);
    const failing = proxy.loseNext(/insert into task_attempt/, lost);
    await passing(bench, agent.finish(tasks.slice(2), { outcome: 2, exitCode: 1 }));
    await passing(bench, failing);
    t.same(await rowsOf(bench, job.seq), { completed: 2, failed: 2 });
    t.match(await truth.jobs.get(job.id), { status: 'FAILED', counts: { completed: 2, failed: 2 } });
    t.equal((await truth.tasks.attempts(job.seq, 3)).length, 1, 'one attempt is recorded');
    t.equal(plane.jobs.get(job.seq), undefined, 'it has left memory');
    t.equal(plane.ledger.ofNode(agent.node).length, 0);
  });

  test(`started: the ${lost} is lost`, async (t) => {
    const bench = await setUp(t);
    const { plane, truth, proxy } = bench;
    const job = await submit(plane, 2);
    const agent = new PlayedAgent(plane, 'a1', 2);
    await agent.connect();
    const tasks = await passing(bench, agent.assignedAll(2));
    const gone = proxy.loseNext(/set status = 'RUNNING', running_at = now\(\), started_at = now\(\)/, lost);
    plane.results.started(
      agent.session,
      tasks.map((task) => ({ ...task, ageMs: 300 })),
    );
    await passing(bench, gone);
    await passing(bench, agent.finish(tasks));
    t.same(await rowsOf(bench, job.seq), { completed: 2 });
    t.match(await truth.jobs.get(job.id), { status: 'COMPLETED', counts: { completed: 2, running: 0, assigned: 0 } });
  });

  test(`cancel: the ${lost} is lost`, async (t) => {
    const bench = await setUp(t);
    const { plane, truth, proxy } = bench;
    const job = await submit(plane, 4);
    const agent = new PlayedAgent(plane, 'a1', 2);
    await agent.connect();
    await passing(bench, agent.assigned());
    const gone = proxy.loseNext(/update job set cancelling = true/, lost);
    await t.rejects(passing(bench, plane.cancellation.cancel(job, undefined)), down);
    await gone;
    if (lost === 'request') await passing(bench, plane.cancellation.cancel(job, undefined));
    // Where it was committed nobody asks again; it goes on by itself.
    await untilJob(bench, job.id, ({ cancelled }) => cancelled === 4);
    t.same(await rowsOf(bench, job.seq), { cancelled: 4 });
    t.match(await truth.jobs.get(job.id), { status: 'CANCELLED' });
  });

  test(`cancelling rows: the ${lost} is lost`, async (t) => {
    const bench = await setUp(t);
    const { plane, truth, proxy } = bench;
    const job = await submit(plane, 4);
    const agent = new PlayedAgent(plane, 'a1', 2);
    await agent.connect();
    const held = await passing(bench, agent.assignedAll(2));
    const gone = proxy.loseNext(/update task t set status = 'CANCELLED'/, lost);
    await t.rejects(passing(bench, plane.cancellation.cancel(job, undefined)), down);
    await gone;
    const cancelled = await passing(bench, agent.mailbox.next('cancel'));
    t.same(cancelled, columns(held), 'the agent is told');
    await untilJob(bench, job.id, (counts) => counts.cancelled === 4);
    t.match(await truth.jobs.get(job.id), { status: 'CANCELLED' });
  });

  test(`adoption: the ${lost} is lost`, async (t) => {
    const bench = await setUp(t);
    const { plane, truth, proxy, clock } = bench;
    const job = await submit(plane, 2);
    const agent = new PlayedAgent(plane, 'a1', 2);
    await agent.connect();
    const tasks = await passing(bench, agent.assignedAll(2));
    agent.cut();
    for (let passed = 0; passed <= LEASE_MS; passed += LEASE_MS / 10) clock.advance(LEASE_MS / 10);
    await untilJob(bench, job.id, ({ queued, retrying }) => queued + retrying === 2);
    const gone = proxy.loseNext(/set status = 'RUNNING', due_at = null/, lost);
    await t.rejects(passing(bench, agent.connect({ running: tasks })), down);
    await gone;
    await passing(bench, agent.connect({ running: tasks }));
    t.match(await truth.jobs.get(job.id), { counts: { running: 2, queued: 0, retrying: 0 } });
    t.equal(plane.ledger.ofNode(agent.node).length, 2, 'they are its own again');
    await passing(bench, agent.finish(tasks));
    t.same(await rowsOf(bench, job.seq), { completed: 2 });
    t.match(await truth.jobs.get(job.id), { status: 'COMPLETED', counts: { completed: 2, running: 0 } });
  });

  for (const [step, pattern] of [
    ['the token', /update "join_token"/],
    ['the certificate', /record_certificate/],
  ] as const)
    test(`join: the ${lost} of ${step} is lost`, async (t) => {
      const bench = await setUp(t);
      const { plane, truth, proxy } = bench;
      const made = { role: 'agent', name: '', ttlMs: 60_000, uses: 1, replace: false };
      const { row, token } = await plane.enrollment.createToken(OPERATOR, made);
      const csr = newRequest();
      const join = (request: Uint8Array) =>
        passing(bench, plane.enrollment.join({ token, csr: request, name: 'attic', address: '10.0.0.9' }));
      const gone = proxy.loseNext(pattern, lost);
      await t.rejects(join(csr), down);
      await gone;
      const certificate = await join(csr);
      t.equal(certificate.name, 'attic');
      t.match(await truth.tokens.get(row.id), { usesLeft: 0 }, 'spent once');
      t.equal((await truth.certificates.holders('agent', 'attic')).length, 1, 'one certificate');
      await t.rejects(join(newRequest()), { code: 'TOKEN_REFUSED' }, 'another key gets nothing');
    });
}
