import { test } from 'tap';
import { makeCsr } from '../../common/identity/csr.js';
import { makeKeyPair } from '../../common/identity/keys.js';
import { encodeToken } from '../../common/identity/token.js';
import { silentLogger } from '../../common/log.js';
import { identityOf, OPERATOR, PlayedAgent, startPlane, type TestPlane } from '../../test/support/plane.js';

import { Enrollment } from './enrollment.js';

const newCsr = () => makeCsr(makeKeyPair().privateKey, 'whatever');

function desk({ plane }: TestPlane) {
  return {
    token: async (over: { role?: string; name?: string; uses?: number; ttlMs?: number; replace?: boolean } = {}) =>
      (
        await plane.enrollment.createToken(OPERATOR, {
          ...{ role: 'agent', name: '', uses: 1, ttlMs: 900_000, replace: false },
          ...over,
        })
      ).token,
    join: (token: string, over: { csr?: Uint8Array; name?: string; address?: string; roles?: string[] } = {}) =>
      plane.enrollment.join({ token, csr: over.csr ?? newCsr(), name: 'attic', address: '10.0.0.1', ...over }),
  };
}

const outcome = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => 'joined',
    (error: { code: string }) => error.code,
  );

test('A15: one token, fifty machines at once: exactly one certificate', async (t) => {
  const parts = await startPlane(t);
  const { token, join } = desk(parts);
  const text = await token();
  const answers = await Promise.all(
    Array.from({ length: 50 }, (_, i) => outcome(join(text, { address: `10.0.1.${i}` }))),
  );
  t.equal(answers.filter((answer) => answer === 'joined').length, 1);
  t.equal(answers.filter((answer) => answer === 'TOKEN_REFUSED').length, 49);
  const certificates = (await parts.store.certificates.list()).filter(({ role }) => role === 'agent');
  t.equal(certificates.length, 1);
});

test('a replay with the same key gets the same certificate; with another key nothing', async (t) => {
  const parts = await startPlane(t);
  const { token, join } = desk(parts);
  const text = await token();
  const csr = newCsr();
  const first = await join(text, { csr });
  const [again, raced] = await Promise.all([join(text, { csr }), join(text, { csr })]);
  t.equal(again.serial, first.serial);
  t.equal(raced.serial, first.serial);
  await t.rejects(join(text), { code: 'TOKEN_REFUSED', message: 'the token is spent' });
  parts.clock.jumpWall(1_000_000);
  t.equal((await join(text, { csr })).serial, first.serial, 'after the token’s time too');
  await parts.plane.issuance.revoke(OPERATOR, first.serial);
  await t.rejects(join(text, { csr }), { code: 'TOKEN_REFUSED' }, 'a revoked certificate is not handed out again');
});

test('an expired, unknown, damaged or foreign token is refused and says why', async (t) => {
  const parts = await startPlane(t);
  const { token, join } = desk(parts);
  const expired = await token({ ttlMs: 1000 });
  parts.clock.jumpWall(1001);
  await t.rejects(join(expired), { code: 'TOKEN_REFUSED', message: /^the token expired at 20/ });
  const { rootDigest } = parts.mesh;
  const made = encodeToken({ id: 'ab'.repeat(6), secret: 'cd'.repeat(16), rootDigest });
  await t.rejects(join(made), { code: 'TOKEN_REFUSED', message: 'the token is not known here' });
  const foreign = encodeToken({ id: 'ab'.repeat(6), secret: 'cd'.repeat(16), rootDigest: 'ef'.repeat(32) });
  await t.rejects(join(foreign), { code: 'TOKEN_REFUSED', message: 'the token belongs to another mesh' });
  await t.rejects(join('mesh1_short'), { code: 'BAD_TOKEN' });
  const right = await token();
  await t.rejects(join(right, { csr: Buffer.from('junk') }), { code: 'BAD_CERTIFICATE' });
  for (const [role, hint] of [
    ['agent', /: mesh-agent --join$/],
    ['viewer', /: mesh login$/],
  ] as const) {
    const text = await token({ role });
    const others = { roles: ['operator', 'coordinator'] };
    await t.rejects(join(text, others), { code: 'TOKEN_REFUSED', message: `the token is for the role ${role}`, hint });
    t.equal(await outcome(join(text, { roles: ['agent', 'viewer'] })), 'joined', 'and is not spent by that');
  }
  t.equal(await outcome(join(right)), 'joined', 'a bad request spends nothing');
});

test('A11: of the request only the key is taken; role and name come from the token', async (t) => {
  const parts = await startPlane(t);
  const { token, join } = desk(parts);
  const row = await join(await token({ role: 'viewer', name: 'wall' }), { name: 'admin' });
  t.match(row, { role: 'viewer', name: 'wall' });
});

test('brute force from one address is throttled; others and the next minute are not', async (t) => {
  const parts = await startPlane(t);
  const { token, join } = desk(parts);
  const right = await token();
  for (let tries = 0; tries < 20; tries++) await t.rejects(join('nonsense'), { code: 'BAD_TOKEN' });
  await t.rejects(join(right), { code: 'OVERLOADED' }, 'even with the right token');
  t.equal(await outcome(join(right, { address: '10.0.0.2' })), 'joined');
  parts.clock.advance(60_001);
  await t.rejects(join('nonsense'), { code: 'BAD_TOKEN' });
});

test('a flood of addresses does not switch the throttle off', async (t) => {
  const parts = await startPlane(t);
  const { plane, store, clock, mesh } = parts;
  const enrollment = new Enrollment({
    ...{ tokens: store.tokens, nodes: store.nodes, audit: plane.audit, issuance: plane.issuance, clock },
    ...{ approvals: plane.approvals, approveNodes: false },
    ...{
      log: silentLogger,
      rootDigest: mesh.rootDigest,
      addressesMax: 10,
      failuresPerMinute: 20,
      sharedDatabase: true,
      onOutcome: () => undefined,
    },
  });
  const guess = (address: string) =>
    outcome(enrollment.join({ token: 'nonsense', csr: new Uint8Array(), name: 'attic', address }));
  for (let i = 0; i < 50; i++) await guess(`flood-${i}`);
  for (let tries = 0; tries < 20; tries++) t.equal(await guess('late'), 'BAD_TOKEN');
  t.equal(await guess('late'), 'OVERLOADED');
});

test('a taken name gets a number; many that wish for one name at a moment each get one', async (t) => {
  const parts = await startPlane(t);
  const { token, join } = desk(parts);
  t.equal((await join(await token())).name, 'attic');
  t.equal((await join(await token())).name, 'attic-2');
  const shared = await token({ uses: 8 });
  const rows = await Promise.all(
    Array.from({ length: 8 }, (_, i) => join(shared, { name: 'raspberrypi', address: `10.0.2.${i}` })),
  );
  t.same(rows.map(({ name }) => name).sort(), [
    'raspberrypi',
    ...[2, 3, 4, 5, 6, 7, 8].map((number) => `raspberrypi-${number}`),
  ]);
  await t.rejects(join(await token(), { name: 'Bad Name' }), { code: 'BAD_NAME' });
  t.equal((await join(await token(), { name: 'a'.repeat(63) })).name.length, 63);
  t.equal((await join(await token(), { name: 'a'.repeat(63) })).name, `${'a'.repeat(58)}-2`);
});

test('--name --replace moves a name to another machine; without --replace it is refused and nothing is spent', async (t) => {
  const parts = await startPlane(t);
  const { token, join } = desk(parts);
  const first = await join(await token());
  const named = await token({ name: 'attic' });
  await t.rejects(join(named), { code: 'CONFLICT', hint: /--name attic --replace/ });
  const second = await join(await token({ name: 'attic', replace: true }));
  t.equal(second.name, 'attic');
  const holders = await parts.store.certificates.holders('agent', 'attic');
  t.same(
    holders.map(({ serial }) => serial),
    [second.serial],
  );
  t.throws(() => parts.plane.denylist.check(identityOf('agent', 'attic', { serial: first.serial })), {
    code: 'REVOKED',
  });
});

test('a revoked name works again only through a token that names it', async (t) => {
  const parts = await startPlane(t);
  const { plane, store } = parts;
  const { token, join } = desk(parts);
  await join(await token());
  const agent = new PlayedAgent(plane, 'attic');
  await agent.connect();
  await plane.issuance.revoke(OPERATOR, 'attic');
  t.match(await store.nodes.all(), [{ name: 'attic', revoked: true }]);
  t.ok(plane.fleet.byName('attic')?.row.revoked, 'the planner knows');
  t.match(agent.mailbox.heard.at(-1), { $case: 'goodbye', value: { permanent: true } });
  await t.rejects(agent.connect(), { code: 'REVOKED' });
  t.equal((await join(await token())).name, 'attic-2', 'a wish is not enough');
  t.equal((await join(await token({ name: 'attic' }))).name, 'attic');
  await agent.connect();
  t.notOk(plane.fleet.byName('attic')?.row.revoked);
});

test('tokens: what cannot be made says so', async (t) => {
  const parts = await startPlane(t);
  const { token } = desk(parts);
  await t.rejects(token({ role: 'coordinator' }), { code: 'CONFLICT', message: /embedded PostgreSQL/ });
  await t.rejects(token({ role: 'king' }), { code: 'USAGE' });
  await t.rejects(token({ name: 'No' }), { code: 'BAD_NAME' });
  await t.rejects(token({ ttlMs: 10 }), { code: 'USAGE' });
  await t.rejects(token({ ttlMs: 31 * 86_400_000 }), { code: 'USAGE' });
  await t.rejects(token({ uses: 0 }), { code: 'USAGE' });
  await t.rejects(token({ name: 'attic', uses: 2 }), { code: 'USAGE' });
  await token();
  const [row] = await parts.plane.enrollment.listTokens();
  if (!row) throw new Error('a token was made');
  await parts.plane.enrollment.revokeToken(OPERATOR, row.id);
  await t.rejects(parts.plane.enrollment.revokeToken(OPERATOR, row.id), { code: 'NOT_FOUND' });
  t.notMatch(JSON.stringify(row), /secret"/, 'only the digest is stored');
});
