import { test } from 'tap';
import { FAILED_TASKS_MAX, JobTrust, JOBS_MAX, NodeTrust, PAUSE_MS, PAUSE_MS_MAX, STREAK_MAX } from './trust.js';

test('a job blocks a node that could not run three attempts in a row', async (t) => {
  const trust = new JobTrust();
  t.notOk(trust.failed(1, 0, 'node-fault'));
  t.notOk(trust.failed(1, 1, 'node-fault'));
  trust.succeeded(1);
  t.notOk(trust.failed(1, 0, 'node-fault'), 'a success between begins the count anew');
  t.notOk(trust.failed(1, 0, 'node-fault'));
  t.notOk(trust.failed(2, 0, 'node-fault'), 'each node for itself');
  t.ok(trust.failed(1, 0, 'node-fault'));
});

test('a job blocks a node that fails what succeeds elsewhere, and never for failing alone', async (t) => {
  const trust = new JobTrust();
  for (let index = 0; index < 50; index++) t.notOk(trust.failed(1, index, 'failed'), 'the job may be at fault');
  trust.succeeded(2);
  t.ok(trust.failed(1, 50, 'failed'));
  const one = new JobTrust();
  one.succeeded(2);
  for (let tries = 0; tries < 50; tries++) t.notOk(one.failed(1, 7, 'failed'), 'one bad task is no bad node');
  const mixed = new JobTrust();
  mixed.succeeded(1);
  mixed.succeeded(2);
  for (let index = 0; index < FAILED_TASKS_MAX * 2; index++)
    t.notOk(mixed.failed(1, index, 'timed-out'), 'some succeed');
});

test('after several jobs a node is suspended; a trial that fails doubles the pause, one that succeeds ends it', async (t) => {
  const trust = new NodeTrust();
  for (let job = 1; job < JOBS_MAX; job++) t.notOk(trust.blocked(0, job));
  t.notOk(trust.blocked(0, 1), 'the same job again is no other');
  t.ok(trust.blocked(0, JOBS_MAX));
  t.equal(trust.state(PAUSE_MS - 1), 'suspended');
  t.equal(trust.whySuspended(PAUSE_MS - 500), 'it failed what others did not; it is tried again in 1 s');
  t.equal(trust.whySuspended(PAUSE_MS), '', 'it is on trial');
  t.notOk(trust.failed(10, 1, 0), 'what had begun before says nothing new');
  let nowMs = PAUSE_MS;
  let pauseMs = PAUSE_MS;
  for (let trials = 0; trials < 10; trials++) {
    t.equal(trust.state(nowMs), 'on-trial');
    t.ok(trials % 2 ? trust.trialFailed(nowMs) : trust.failed(nowMs, 1, 0));
    pauseMs = Math.min(pauseMs * 2, PAUSE_MS_MAX);
    t.equal(trust.suspendedForMs(nowMs), pauseMs);
    nowMs += pauseMs;
  }
  t.ok(trust.succeeded(nowMs));
  t.equal(trust.state(nowMs), 'trusted');
  t.notOk(trust.blocked(nowMs, 1), 'and everything is forgotten');
});

test('who fails everything while others succeed is suspended; who fails while nobody succeeds is not', async (t) => {
  const alone = new NodeTrust();
  for (let n = 0; n < STREAK_MAX * 5; n++) t.notOk(alone.failed(0, n, 0));
  const worse = new NodeTrust();
  for (let n = 1; n < STREAK_MAX; n++) t.notOk(worse.failed(0, n, n));
  t.ok(worse.failed(0, 1, STREAK_MAX));
  const oneJob = new NodeTrust();
  for (let n = 0; n < STREAK_MAX * 5; n++) t.notOk(oneJob.failed(0, 1, n), 'one bad job is no bad node');
  const sometimes = new NodeTrust();
  for (let n = 0; n < STREAK_MAX * 5; n++) {
    t.notOk(sometimes.failed(0, n, n));
    if (n % (STREAK_MAX - 1) === 0) sometimes.succeeded(0);
  }
});
