import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { sql } from 'kysely';
import { test } from 'tap';
import { silentLogger } from '../../common/log.js';
import { ManualClock } from '../../test/support/manual-clock.js';
import { temporaryDirectory } from '../../test/support/plane.js';
import { assignedJob, digestOf, lead, settlement } from '../../test/support/store-fixtures.js';
import { withStore } from '../../test/support/postgres.js';
import type { JobRow } from '../ports.js';
import { BlobDepot } from './blob-depot.js';
import type { Jobs } from './jobs.js';
import { LogStore } from './log-store.js';
import { Retention } from './retention.js';

const DAY_MS = 86_400_000;

test('ended jobs go after their time with their logs; live ones and their files stay', async (t) => {
  const store = await withStore(t);
  const epoch = await lead(store);
  const directory = temporaryDirectory(t);
  const clock = new ManualClock();
  const ended = await assignedJob(store, epoch, 3);
  await store.tasks.settle(
    epoch,
    ended.tasks.map((task) => settlement(task)),
  );
  const live = await assignedJob(store, epoch, 1);
  const blobs = new BlobDepot(join(directory, 'blobs'), store.blobs, 1000, new ManualClock());
  const digest = digestOf('hello');
  writeFileSync(join(directory, 'blobs', digest), 'hello');
  await store.blobs.record([{ digest, sizeBytes: 5 }]);
  const logsOf = (id: string) => join(directory, 'logs', id);
  for (const { job } of [ended, live]) mkdirSync(logsOf(job.id), { recursive: true });
  const running: { row: JobRow }[] = [{ row: live.job }];
  const retention = new Retention({
    ...{ store, clock, directory, blobs, log: silentLogger },
    jobs: { all: () => running.values() } as unknown as Jobs,
    logs: new LogStore(join(directory, 'logs'), 1000),
    ...{ retentionMs: 7 * DAY_MS, minFreeBytes: 0 },
  });
  t.teardown(() => retention.stop());
  await retention.start();
  /** One more turn, done. */
  const turn = async () => {
    while (clock.waiting.length === 0) await new Promise((resolve) => setImmediate(resolve));
    clock.advance(30_000);
    while (clock.waiting.length === 0) await new Promise((resolve) => setImmediate(resolve));
  };
  await turn();
  t.ok(await store.jobs.get(ended.job.id), 'not before its time');
  clock.jumpWall(7 * DAY_MS + 60_000);
  await turn();
  t.equal(await store.jobs.get(ended.job.id), undefined);
  t.notOk(existsSync(logsOf(ended.job.id)));
  const { rows } = await sql<{
    n: number;
  }>`select count(*)::integer as n from task where job = ${ended.job.seq}`.execute(store.database.kysely);
  t.same(rows, [{ n: 0 }]);
  t.ok(await store.jobs.get(live.job.id));
  t.ok(existsSync(logsOf(live.job.id)));
  clock.jumpWall(300 * DAY_MS);
  await turn();
  t.ok(existsSync(join(directory, 'blobs', digest)), 'a job that still runs may need it');
  running.pop();
  await turn();
  t.notOk(existsSync(join(directory, 'blobs', digest)));
  t.same(await store.blobs.sizes([digest]), new Map());
});

test('below the threshold no jobs are accepted and ended ones go early; above it all is well again', async (t) => {
  const store = await withStore(t);
  const epoch = await lead(store);
  const directory = temporaryDirectory(t);
  const clock = new ManualClock(Date.now() + 2 * 3_600_000);
  const { job, tasks } = await assignedJob(store, epoch, 1);
  await store.tasks.settle(
    epoch,
    tasks.map((task) => settlement(task)),
  );
  const options = {
    ...{ store, clock, directory, log: silentLogger, retentionMs: 7 * DAY_MS, minFreeBytes: Number.MAX_SAFE_INTEGER },
    jobs: { all: () => [].values() } as unknown as Jobs,
    blobs: new BlobDepot(join(directory, 'blobs'), store.blobs, 1000, new ManualClock()),
    logs: new LogStore(join(directory, 'logs'), 1000),
  };
  const retention = new Retention(options);
  t.teardown(() => retention.stop());
  t.ok(retention.accepts);
  await retention.start();
  while (clock.waiting.length === 0) await new Promise((resolve) => setImmediate(resolve));
  t.notOk(retention.accepts);
  t.equal(await store.jobs.get(job.id), undefined);
  options.minFreeBytes = 0;
  clock.advance(30_000);
  while (clock.waiting.length === 0) await new Promise((resolve) => setImmediate(resolve));
  t.ok(retention.accepts);
});

test('a short disk takes a few old jobs a turn, none of the last hour, and none where that frees nothing', async (t) => {
  const store = await withStore(t);
  const epoch = await lead(store);
  const directory = temporaryDirectory(t);
  const clock = new ManualClock(Date.now() + 60_000);
  const jobs: string[] = [];
  for (let n = 0; n < 50; n++) {
    const { job, tasks } = await assignedJob(store, epoch, 1);
    await store.tasks.settle(epoch, [settlement(tasks[0] as (typeof tasks)[0])]);
    jobs.push(job.id);
  }
  let freeBytes = 1000;
  const retention = new Retention({
    ...{ store, clock, directory, log: silentLogger, retentionMs: 7 * DAY_MS, minFreeBytes: 1_000_000 },
    jobs: { all: () => [].values() } as unknown as Jobs,
    blobs: new BlobDepot(join(directory, 'blobs'), store.blobs, 1000, new ManualClock()),
    logs: new LogStore(join(directory, 'logs'), 1000),
    freeBytes: async () => freeBytes,
  });
  t.teardown(() => retention.stop());
  const left = async () => (await store.jobs.list({ limit: 100 })).length;
  const settled = async () => {
    while (clock.waiting.length === 0) await new Promise((resolve) => setImmediate(resolve));
  };
  const turn = async () => {
    clock.advance(30_000);
    await settled();
  };
  await retention.start();
  await settled();
  t.equal(await left(), 50, 'they ended a minute ago');
  clock.jumpWall(2 * 3_600_000);
  await turn();
  t.equal(await left(), 30);
  freeBytes += 500;
  await turn();
  t.equal(await left(), 10, 'it helped');
  await turn();
  await turn();
  t.equal(await left(), 10, 'it did not');
  for (let n = 0; n < 20; n++) await turn();
  t.equal(await left(), 10, 'a pause, and still nothing is gained');
  freeBytes = 2_000_000;
  await turn();
  t.ok(retention.accepts);
  t.ok(await store.jobs.get(jobs[49] ?? ''), 'the latest are there');
});
