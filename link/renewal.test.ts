import { X509Certificate } from 'node:crypto';
import { test } from 'tap';
import { fieldsOf, fingerprintOf } from '../common/identity/check.js';
import { renewalAtMs } from '../common/identity/profile.js';
import { silentLogger } from '../common/log.js';
import { ManualClock } from '../test/support/manual-clock.js';
import { makeTestMesh } from '../test/support/test-mesh.js';
import type { Credential } from './credentials.js';
import { Renewal } from './renewal.js';

const HOUR_MS = 3_600_000;
const startMs = Date.parse('2027-01-01T00:00:00Z');

/** An agent's certificate of 24 h under a clock that we move, renewed at an authority that answers as `mood` says. */
function setUp(mood: { failing?: boolean } = {}, spreadMs?: number) {
  const clock = new ManualClock(startMs);
  const mesh = makeTestMesh('test-mesh', startMs);
  const credential = mesh.credential('agent', 'box');
  const renewed: Credential[] = [];
  let asked = 0;
  const renewal = new Renewal({
    clock,
    log: silentLogger,
    credential,
    random: () => 0.5,
    ...(spreadMs === undefined ? {} : { spreadMs }),
    issue: async (csrDer) => {
      asked++;
      if (mood.failing) throw new Error('nobody there');
      const { pem } = mesh.authority.issue({
        csrDer,
        role: 'agent',
        name: 'box',
        nowMs: startMs + clock.monotonicMs(),
      });
      return { certificateChain: pem, root: mesh.authority.rootPem };
    },
    onRenewed: (next) => void renewed.push(next),
  });
  return { clock, credential, renewed, renewal, mood, asked: () => asked };
}

const settled = async () => {
  for (let i = 0; i < 20; i++) await Promise.resolve();
};

const dueMs = (credential: Credential): number => {
  const leaf = new X509Certificate(credential.certificateChain);
  return renewalAtMs({ ...fieldsOf(leaf), fingerprint: fingerprintOf(leaf) });
};

/** Moves in small steps, as time does. */
async function pass(clock: ManualClock, ms: number) {
  for (let done = 0; done < ms; done += 30_000) {
    clock.advance(Math.min(30_000, ms - done));
    await settled();
  }
}

test('it renews between 50 and 80 % of life, each time with a new key, and goes on', async (t) => {
  const { clock, credential, renewed, renewal } = setUp();
  await renewal.start();
  const leftMs = dueMs(credential) - clock.wallMs();
  t.ok(leftMs > 11 * HOUR_MS && leftMs < 20 * HOUR_MS);
  await pass(clock, leftMs - 60_000);
  t.equal(renewed.length, 0, 'not before its time');
  await pass(clock, 120_000);
  t.equal(renewed.length, 1);
  t.not(renewed[0]?.privateKey, credential.privateKey);
  await pass(clock, 20 * HOUR_MS);
  t.equal(renewed.length, 2, 'the new one is renewed in its turn');
  await renewal.stop();
  await pass(clock, HOUR_MS);
  t.equal(renewed.length, 2, 'not after it was stopped');
  t.same(clock.waiting, []);
});

test('it reads the clock at least once a minute, so a jump is noticed', async (t) => {
  const { clock, renewed, renewal } = setUp();
  await renewal.start();
  clock.advance(0);
  t.ok((clock.waiting[0] ?? Number.POSITIVE_INFINITY) <= 60_000);
  clock.jumpWall(-72 * HOUR_MS);
  await pass(clock, HOUR_MS);
  t.equal(renewed.length, 0, 'a jump back makes it wait');
  clock.jumpWall(72 * HOUR_MS + 21 * HOUR_MS);
  await pass(clock, 60_000);
  t.equal(renewed.length, 1, 'a jump forward makes it hurry');
  await renewal.stop();
});

test('with a clock far ahead of the authority it does not ask without end', async (t) => {
  const { clock, renewal, asked, renewed } = setUp();
  await renewal.start();
  clock.jumpWall(90 * 24 * HOUR_MS);
  await pass(clock, 10 * 60_000);
  t.ok(asked() >= 2 && asked() <= 11, `${asked()} in ten minutes`);
  t.equal(renewed.length, asked(), 'each was due at once by this clock');
  await renewal.stop();
});

test('a renewal that fails is tried again, with backoff, until it works', async (t) => {
  const { clock, credential, renewed, renewal, asked, mood } = setUp({ failing: true });
  await renewal.start();
  await pass(clock, dueMs(credential) - clock.wallMs() + 60_000);
  t.ok(asked() > 1);
  t.equal(renewed.length, 0);
  const before = asked();
  await pass(clock, 6 * HOUR_MS);
  const tries = asked() - before;
  t.ok(tries > 72 && tries < 200, `${tries} tries in six hours`);
  mood.failing = false;
  await pass(clock, 6 * 60_000);
  t.equal(renewed.length, 1);
  await renewal.stop();
});

test('an answer for another key is refused', async (t) => {
  const mesh = makeTestMesh('test-mesh', startMs);
  const clock = new ManualClock(startMs);
  const stranger = mesh.credential('agent', 'box');
  const renewed: Credential[] = [];
  const renewal = new Renewal({
    clock,
    log: silentLogger,
    credential: mesh.credential('agent', 'box'),
    issue: async () => stranger,
    onRenewed: (next) => void renewed.push(next),
  });
  await renewal.start();
  renewal.renewNow();
  await settled();
  t.equal(renewed.length, 0);
  t.equal(clock.waiting.length, 1, 'and it will try again');
  await renewal.stop();
});

test('what is due at the start waits its share of the spread, or of a tenth of what is left', async (t) => {
  const early = setUp({}, 60_000);
  early.clock.advance(dueMs(early.credential) - startMs + 1);
  await early.renewal.start();
  await pass(early.clock, 29_000);
  t.equal(early.asked(), 0, 'others ask now');
  await pass(early.clock, 2000);
  t.equal(early.asked(), 1);
  await early.renewal.stop();

  const late = setUp({}, 60_000);
  const { notAfterMs } = fieldsOf(new X509Certificate(late.credential.certificateChain));
  late.clock.advance(notAfterMs - startMs - 10_000);
  await late.renewal.start();
  late.clock.advance(400);
  await settled();
  t.equal(late.asked(), 0);
  late.clock.advance(200);
  await settled();
  t.equal(late.asked(), 1, 'ten seconds are left: half of one is waited');
  await late.renewal.stop();
});
