import { test } from 'tap';
import { identityOf } from '../../test/support/plane.js';
import { testLimits, testThrottle } from '../../test/support/limits.js';
import { ManualClock } from '../../test/support/manual-clock.js';
import { checkLimits, flagOf, type Limit, type Limits, limitSettings } from './limits.js';
import { StagedFiles } from './staged-files.js';
import { Uploads } from './uploads.js';

const entries = Object.entries(limitSettings) as [keyof Limits, Limit][];

test('the defaults go together, and each is within its range', (t) => {
  t.doesNotThrow(() => checkLimits(testLimits()));
  for (const [key, { describe, beyond, caveat, flag }] of entries) {
    t.match(flag, /^--[a-z-]+ <(?:number|size|duration)>$/);
    for (const text of [describe, beyond, caveat]) t.ok(text.length > 0, `${key} is described`);
  }
  t.end();
});

test('a value out of its range is refused with the range, each of them', (t) => {
  for (const [key, { min, max }] of entries) {
    for (const value of [min - 1, max + 1]) {
      t.throws(() => checkLimits(testLimits({ [key]: value })), {
        code: 'BAD_CONFIG',
        message: new RegExp(`^${flagOf(key)} \\(.+\\) is out of its range$`),
        hint: /^choose from .+ to .+; see docs\/limits\.md$/,
      });
    }
  }
  t.end();
});

test('two that cannot be together are named together', (t) => {
  t.throws(() => checkLimits(testLimits({ maxHandshakesPerAddress: 2000 })), {
    code: 'BAD_CONFIG',
    message: '--max-handshakes-per-address (2,000) is more than --max-connections-per-address (1,024) lets through',
    hint: /lower --max-handshakes-per-address or raise --max-connections-per-address/,
  });
  t.throws(() => checkLimits(testLimits({ maxConnections: 200 })), { message: /--max-connections \(200\)/ });
  t.throws(() => checkLimits(testLimits({ maxBlobBytes: 2 ** 37 })), {
    message: /128 GiB\) is more than --max-upload/,
  });
  t.end();
});

test('one who asks too often is told the limit, its value, its setting and when to come back', (t) => {
  const clock = new ManualClock();
  const throttle = testThrottle({ maxRequestRate: 2, maxAgentRequestRate: 10, maxStrangerRate: 1 }, clock);
  const [anna, bob, box] = [
    identityOf('operator', 'anna'),
    identityOf('submitter', 'anna'),
    identityOf('agent', 'box'),
  ];
  const times = (count: number, ask: () => void) => {
    for (let i = 0; i < count; i++) ask();
  };
  times(20, () => throttle.request(anna, '10.0.0.1'));
  const refusal = { code: 'OVERLOADED', message: 'operator/anna asks more often than 2/s' };
  t.throws(() => throttle.request(anna, '10.0.0.1'), {
    ...refusal,
    hint: 'try again in 500 ms; the limit is --max-request-rate of the coordinator',
  });
  t.throws(() => throttle.request(anna, '10.0.0.2'), refusal, 'wherever it comes from');
  times(20, () => throttle.request(bob, '10.0.0.1'));
  times(100, () => throttle.request(box, '10.0.0.1'));
  t.throws(() => throttle.request(box, '10.0.0.1'), { message: 'agent/box calls more often than 10/s' });
  times(10, () => throttle.request(undefined, '10.0.0.1'));
  t.throws(() => throttle.request(undefined, '10.0.0.1'), { message: /^10\.0\.0\.1 asks without a certificate/ });
  throttle.request(undefined, '10.0.0.2');
  clock.advance(500);
  throttle.request(anna, '10.0.0.1');
  t.throws(() => throttle.request(anna, '10.0.0.1'), { code: 'OVERLOADED', hint: /^try again in 500 ms/ });
  t.end();
});

test('calls under way are counted over all connections, and sessions by the minute', (t) => {
  const clock = new ManualClock();
  const throttle = testThrottle({ maxOpenCalls: 8, maxSessionStarts: 5 }, clock);
  const anna = identityOf('operator', 'anna');
  const ends = Array.from({ length: 8 }, () => throttle.call(anna));
  t.throws(() => throttle.call(anna), {
    code: 'OVERLOADED',
    message: /has 8 calls under way/,
    hint: /--max-open-calls/,
  });
  throttle.call(identityOf('operator', 'bob'))();
  ends[0]?.();
  throttle.call(anna)();
  for (const end of ends.slice(1)) end();
  const box = identityOf('agent', 'box');
  for (let i = 0; i < 5; i++) throttle.session(box);
  t.throws(() => throttle.session(box), { message: 'agent/box begins sessions more often than 5/min' });
  clock.advance(12_000);
  throttle.session(box);
  t.end();
});

test('the files of a job are counted once each, in number and in bytes', (t) => {
  const staged = new StagedFiles(testLimits({ maxJobFiles: 3, maxJobBytes: 1000 }));
  const file = (digest: string, sizeBytes: number) => ({ path: digest, digest, sizeBytes, executable: false });
  for (let index = 0; index < 100; index++) staged.add(index, [file('a', 400), file('b', 400)]);
  t.throws(() => staged.add(100, [file('c', 300)]), {
    code: 'BAD_SPEC',
    message: 'at task 100 1,100 bytes are staged for the job, more than 1000 B',
    hint: /--max-job-bytes/,
  });
  t.throws(() => staged.add(101, [file('d', 0)]), {
    message: /at task 101 4 different files/,
    hint: /--max-job-files/,
  });
  t.end();
});

test('uploads of one identity are counted while they are under way, and stop when the disk is short', async (t) => {
  let roomy = true;
  const uploads = new Uploads(testLimits({ maxUploadBytes: 100 }), async () => roomy);
  const [first, second] = [uploads.begin('operator/anna'), uploads.begin('operator/anna')];
  await first.add(60);
  await t.rejects(second.add(60), { code: 'OVERLOADED', message: /120 B on the way, more than 100 B/ });
  await uploads.begin('operator/bob').add(100);
  first.done();
  await second.add(60);
  second.done();
  roomy = false;
  await t.rejects(uploads.begin('operator/anna').add(1), { code: 'DISK_FULL', hint: /--min-free-bytes/ });
});
