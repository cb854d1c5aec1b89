import { test } from 'tap';
import { silentLogger } from '../../common/log.js';
import { finishedOf } from '../../test/support/plane.js';
import { Finished, Outcome } from '../../proto/gen/mesh/v1/agent.js';
import { Stream } from '../../proto/gen/mesh/v1/common.js';
import type { LiveJob } from './jobs.js';
import { ResultQuota } from './result-quota.js';
import { newReport, type Report } from './settlement.js';

const jobOf = (seq: number) => ({ row: { seq, id: `job-${seq}`, submitter: 'anna' } }) as unknown as LiveJob;

function setUp(stored = 0) {
  const said: object[] = [];
  const log = { ...silentLogger, warn: (fields: object) => said.push(fields) } as unknown as typeof silentLogger;
  const store = { tasks: { storedBytes: async () => stored } };
  return { said, quota: new ResultQuota({ jobBytesMax: 1024, store, log }) };
}

const report = (over: Partial<Finished>): Report =>
  newReport(
    finishedOf({ job: 1, index: 0, generation: 1 }, { outcome: Outcome.SUCCEEDED, ...over }),
    ...(['succeeded', 0, { session: undefined }] as const),
  );

const printed = report({
  exitCode: 3,
  output: {
    chunks: [
      { stream: Stream.STDOUT, offset: 40, atMs: 7, data: Buffer.from('much ') },
      { stream: Stream.STDERR, offset: 45, atMs: 9, data: Buffer.from('output') },
    ],
    totalBytes: 51,
  },
});

test('below the quota a report is stored as it came, and each job has its own', (t) => {
  const { quota, said } = setUp();
  const [one, other] = [jobOf(1), jobOf(2)];
  quota.charge(one, 1023);
  t.equal(quota.fit(printed, one), printed);
  quota.charge(one, 1);
  t.not(quota.fit(printed, one), printed);
  t.equal(quota.fit(printed, other), printed);
  t.equal(said.length, 1);
  t.end();
});

test('beyond it a value fails for good, saying why', (t) => {
  const { quota } = setUp();
  const job = jobOf(1);
  quota.charge(job, 1024);
  const { outcome, final, finished } = quota.fit(report({ resultJson: '"value"' }), job);
  t.same({ outcome, final, result: finished.resultJson }, { outcome: 'failed', final: true, result: '' });
  t.match(finished.error, /take 1\.0 KiB, the most they may \(--max-job-result-bytes\)/);
  t.end();
});

test('beyond it a command is judged as ever; a note stands where its output would be', (t) => {
  const { quota } = setUp();
  const job = jobOf(1);
  quota.charge(job, 5000);
  const { outcome, final, finished } = quota.fit(printed, job);
  t.same({ outcome, final, exitCode: finished.exitCode }, { outcome: 'succeeded', final: undefined, exitCode: 3 });
  const [note, ...more] = finished.output?.chunks ?? [];
  t.same(more, []);
  t.match(note, { stream: Stream.SYSTEM, offset: 51, atMs: 9 });
  t.match(String(note?.data), /^\[output left out: the results of this job take 1\.0 KiB/);
  t.equal(finished.output?.totalBytes, 51, 'the place of what is missing is known');
  const silent = report({});
  t.equal(quota.fit(silent, job), silent, 'what brings nothing takes nothing');
  t.end();
});

test('what earlier terms stored counts, and the log says it once a job', async (t) => {
  const { quota, said } = setUp(1024);
  const job = jobOf(1);
  t.equal(quota.fit(printed, job), printed, 'before that is known');
  await quota.load(job);
  for (let times = 0; times < 3; times++) t.not(quota.fit(printed, job), printed);
  t.match(said, [{ event: 'job.results-full', job: 'job-1', submitter: 'anna' }]);
});
