import { test, type Test } from 'tap';
import { silentLogger } from '../../common/log.js';
import { ManualClock } from '../../test/support/manual-clock.js';
import { OPERATOR } from '../../test/support/plane.js';
import { withStore } from '../../test/support/postgres.js';
import { digestOf, unique } from '../../test/support/store-fixtures.js';
import { makeTestMesh } from '../../test/support/test-mesh.js';
import { until } from '../../test/support/who-door.js';
import type { CertificateRow } from '../ports.js';
import type { LiveNode } from './fleet.js';
import { Rotation } from './rotation.js';
import { Trust } from './trust.js';

const HOUR_MS = 3_600_000;
const [present, next] = [makeTestMesh(), makeTestMesh()];
const [OLD, NEW] = [present.rootDigest, next.rootDigest];
const BOTH = [OLD, NEW];

/** A mesh whose nodes, coordinators and certificates are what the test says. */
async function rotating(t: Test, over: { hasRootKey?: boolean } = {}) {
  const store = await withStore(t);
  const clock = new ManualClock();
  const nodes = new Map<string, LiveNode>();
  const coordinators = [{ name: 'first', trustGeneration: 99 }];
  const audited: string[] = [];
  let leads = true;
  const trust = new Trust({
    ...{ store: store.trust, clock, log: silentLogger },
    state: await store.trust.claim(present.authority.rootPem),
    follow: () => Promise.resolve(),
    onStep: () => undefined,
  });
  const rotation = new Rotation({
    ...{ store, trust, clock, log: silentLogger },
    roster: { list: () => coordinators } as never,
    nodes: () => (leads ? nodes.values() : undefined),
    hasRootKey: () => over.hasRootKey ?? true,
    prepareNextRoot: () => Promise.resolve({ pem: next.authority.rootPem, endorsement: 'signed' }),
    audit: {
      self: { name: 'coordinator/first', address: '', certificate: '' },
      record: (_: unknown, action: string) => Promise.resolve(void audited.push(action)),
    } as never,
  });
  await trust.start();
  await rotation.start();
  t.teardown(async () => {
    await rotation.stop();
    await trust.stop();
  });
  const record = async (
    role: CertificateRow['role'],
    name: string,
    root: string,
    trusts: string[],
  ): Promise<string> => {
    const serial = unique('5e');
    const [notBeforeMs, notAfterMs] = [clock.wallMs() - HOUR_MS, clock.wallMs() + HOUR_MS];
    const row = { serial, role, name, notBeforeMs, notAfterMs, root, trusts, pem: '' };
    const rest = { fingerprint: digestOf(serial), publicKeyDigest: digestOf(serial), tokenId: undefined };
    await store.certificates.record({ ...row, ...rest, revokedAtMs: undefined }, { sameHolder: true });
    return serial;
  };
  /** An agent that renewed, and opened a session with what it got. */
  const agent = async (name: string, root: string, trusts: string[], state = 'HEALTHY'): Promise<string> => {
    const serial = await record('agent', name, root, trusts);
    const session = state === 'HEALTHY' ? { open: true } : undefined;
    nodes.set(name, { row: { name, certificateSerial: serial }, session, liveness: { state } } as never);
    return serial;
  };
  /** Time enough for a look, which changes nothing. */
  const looks = async (): Promise<void> => {
    clock.advance(2000);
    await rotation.status();
    clock.advance(2000);
    await rotation.status();
  };
  const reaches = async (phase: string): Promise<void> => {
    await until(() => {
      clock.advance(1000);
      return trust.state.phase === phase;
    });
  };
  const follow = (leading: boolean): void => void (leads = leading);
  return { store, clock, trust, rotation, coordinators, audited, record, agent, looks, reaches, follow };
}

const missing = async (rotation: Rotation) =>
  (await rotation.status()).laggards.map(({ role, name, live }) => `${role} ${name}${live ? ' live' : ''}`).sort();

test('it spreads until everybody who is here trusts both, moves until somebody ends it, and is steady again', async (t) => {
  const { rotation, agent, reaches, record, looks, trust, audited } = await rotating(t);
  await agent('attic', OLD, [OLD]);
  await record('operator', 'anna', OLD, [OLD]);
  t.match(await rotation.begin(OPERATOR), { phase: 'spreading', rootDigest: OLD, nextDigest: NEW });
  t.same(await missing(rotation), ['agent attic live', 'operator anna']);
  await looks();
  t.equal(trust.state.phase, 'spreading', 'attic is waited for');
  await agent('attic', OLD, BOTH);
  await reaches('moving');
  t.same(
    await missing(rotation),
    ['agent attic live', 'operator anna'],
    'people are not waited for, but needed at the end',
  );
  await t.rejects(rotation.finish(OPERATOR, false), {
    code: 'CONFLICT',
    message: /the old root is needed still: .*operator anna/,
  });
  await agent('attic', NEW, BOTH);
  await record('operator', 'anna', NEW, BOTH);
  t.match(await rotation.status(), { canFinish: true, done: 2, laggards: [] });
  t.match(await rotation.finish(OPERATOR, false), { phase: 'steady', rootDigest: NEW, nextDigest: undefined });
  t.same(await missing(rotation), ['agent attic live', 'operator anna'], 'they trust the old root still');
  await agent('attic', NEW, [NEW]);
  t.same(await missing(rotation), ['operator anna']);
  t.same(audited, ['rotation.started', 'rotation.moving', 'rotation.finished']);
});

test('begun twice it is one; without the key of the root it is none', async (t) => {
  const { rotation } = await rotating(t);
  const { generation } = await rotation.begin(OPERATOR);
  t.equal((await rotation.begin(OPERATOR)).generation, generation);
  const keyless = await rotating(t, { hasRootKey: false });
  await t.rejects(keyless.rotation.begin(OPERATOR), { code: 'CONFLICT', hint: /--coordinator HOST/ });
  await t.rejects(keyless.rotation.finish(OPERATOR, true), { code: 'CONFLICT', message: 'no rotation is under way' });
});

test('who is within its lease is waited for, also while it is not connected; who is gone is not', async (t) => {
  const { rotation, agent, looks, reaches, trust } = await rotating(t);
  await agent('attic', OLD, [OLD], 'SUSPECT');
  await rotation.begin(OPERATOR);
  await looks();
  t.equal(trust.state.phase, 'spreading');
  await agent('attic', OLD, [OLD], 'OFFLINE');
  await reaches('moving');
});

test('a coordinator that has not taken the step is waited for, and no force goes past it', async (t) => {
  const { rotation, coordinators, looks, reaches, trust } = await rotating(t);
  coordinators.push({ name: 'second', trustGeneration: 1 });
  await rotation.begin(OPERATOR);
  await looks();
  t.equal(trust.state.phase, 'spreading');
  coordinators[1] = { name: 'second', trustGeneration: trust.state.generation };
  await reaches('moving');
  await t.rejects(rotation.finish(OPERATOR, true), { code: 'CONFLICT', message: /needed still: coordinator second/ });
});

test('forced, it goes on without an agent that does not answer, and ends without who is missing', async (t) => {
  const { rotation, agent, trust, record } = await rotating(t);
  await agent('attic', OLD, [OLD]);
  await record('viewer', 'wall', OLD, [OLD]);
  await rotation.begin(OPERATOR);
  await t.rejects(rotation.finish(OPERATOR, false), { code: 'CONFLICT', message: /not everybody knows.*agent attic/ });
  t.equal((await rotation.finish(OPERATOR, true)).phase, 'moving');
  t.equal((await rotation.finish(OPERATOR, true)).phase, 'steady');
  t.equal(trust.state.root, next.authority.rootPem);
});

test('a token that can be used pins the old root, until it is used or revoked', async (t) => {
  const { store, clock, rotation, reaches } = await rotating(t);
  await rotation.begin(OPERATOR);
  await reaches('moving');
  const token = {
    id: 'ab'.repeat(6),
    secretDigest: digestOf('x'),
    role: 'agent',
    name: undefined,
    replace: false,
  } as const;
  await store.tokens.create({ ...token, usesLeft: 1, expiresAtMs: clock.wallMs() + HOUR_MS, createdBy: 'anna' });
  t.match(await rotation.status(), { canFinish: false, laggards: [{ role: 'token', missing: 'pins the old root' }] });
  await store.tokens.revoke(token.id);
  t.match(await rotation.status(), { canFinish: true });
});

test('who is behind is asked to renew, once in a while; who is not is left alone', async (t) => {
  const { rotation, agent, clock, looks } = await rotating(t);
  const late = await agent('attic', OLD, [OLD]);
  const done = await agent('cellar', OLD, BOTH);
  t.equal(rotation.wants(late), 0, 'there is no rotation');
  const { generation } = await rotation.begin(OPERATOR);
  await looks();
  t.equal(rotation.wants(late), generation);
  t.equal(rotation.wants(late), 0, 'it has been asked');
  t.equal(rotation.wants(done), 0);
  clock.advance(10_000);
  t.equal(rotation.wants(late), generation, 'its answer may have been lost');
});

test('a coordinator that does not lead takes no step', async (t) => {
  const { rotation, looks, reaches, trust, follow } = await rotating(t);
  follow(false);
  await rotation.begin(OPERATOR);
  await looks();
  t.equal(trust.state.phase, 'spreading');
  follow(true);
  await reaches('moving');
});
