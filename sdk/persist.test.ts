import { test } from 'tap';
import { MeshError } from '../common/errors.js';
import { ManualClock } from '../test/support/manual-clock.js';
import { persist } from './persist.js';

const busy = () => new MeshError('OVERLOADED', 'too many jobs');

/** Fails as told, and counts. */
function attempts(...failures: (Error | undefined)[]) {
  let count = 0;
  const run = async (): Promise<number> => {
    const failure = failures[Math.min(count++, failures.length - 1)];
    if (failure) throw failure;
    return count;
  };
  return { run, count: () => count };
}

/** Lets the waits of a promise pass until it settles. */
async function passing<T>(clock: ManualClock, promise: Promise<T>): Promise<T> {
  let settled = false;
  const done = promise.finally(() => (settled = true));
  done.catch(() => undefined);
  while (!settled) {
    clock.advance(100);
    await new Promise<void>((resolve) => setImmediate(resolve));
  }
  return done;
}

test('what passes is waited out, what is final is not', async (t) => {
  const clock = new ManualClock();
  const options = { patienceMs: 60_000, clock, random: () => 0.999 };
  for (const code of ['OVERLOADED', 'DISK_FULL', 'DATABASE_DOWN', 'NOT_READY', 'UNREACHABLE', 'TIMED_OUT'] as const) {
    const { run, count } = attempts(new MeshError(code, 'not now'), new MeshError(code, 'not now'), undefined);
    t.equal(await passing(clock, persist(run, options)), 3, code);
    t.equal(count(), 3);
  }
  for (const code of ['BAD_SPEC', 'IDEMPOTENCY_CONFLICT', 'DENIED', 'REVOKED', 'INTERNAL', 'INTERRUPTED'] as const) {
    const { run, count } = attempts(new MeshError(code, 'no'), undefined);
    await t.rejects(persist(run, options), { code });
    t.equal(count(), 1, code);
  }
});

test('patience ends, with the last error, and pauses grow up to a bound', async (t) => {
  const clock = new ManualClock();
  const left: number[] = [];
  const { run, count } = attempts(busy());
  const onWait = (error: MeshError, leftMs: number) => {
    t.equal(error.code, 'OVERLOADED');
    left.push(Math.round(leftMs));
  };
  await t.rejects(passing(clock, persist(run, { patienceMs: 20_000, clock, random: () => 0.999, onWait })), {
    code: 'OVERLOADED',
  });
  t.equal(count(), left.length + 1);
  t.equal(left[0], 20_000);
  const pauses = left.slice(1).map((ms, i) => (left[i] as number) - ms);
  t.ok(
    pauses.every((ms) => ms <= 5100),
    'at most five seconds and a step of the clock',
  );
  t.ok(count() <= 12, 'not in a hurry');
  const impatient = attempts(busy());
  await t.rejects(persist(impatient.run, { patienceMs: 0, clock }), { code: 'OVERLOADED' });
  t.equal(impatient.count(), 1);
});

test('a pause can be broken off', async (t) => {
  const stop = new AbortController();
  const { run, count } = attempts(busy());
  const trying = persist(run, { patienceMs: 60_000, clock: new ManualClock(), signal: stop.signal });
  stop.abort();
  await t.rejects(trying, { code: /INTERRUPTED|OVERLOADED/ });
  t.equal(count(), 1);
});
