import { type Test, test } from 'tap';
import { makeCsr, readCsr } from '../../common/identity/csr.js';
import { makeKeyPair, publicKeyDigest } from '../../common/identity/keys.js';
import { approvalPhrase } from '../../common/identity/phrase.js';
import { ManualClock } from '../../test/support/manual-clock.js';
import { OPERATOR, PlayedAgent, startPlane } from '../../test/support/plane.js';
import { withStore } from '../../test/support/postgres.js';

/** A machine with a key of its own that knocks. */
async function startDesk(t: Test, approveNodes = true) {
  const clock = new ManualClock();
  const parts = await startPlane(t, { config: { approveNodes }, clock, store: await withStore(t, { clock }) });
  const { plane } = parts;
  const token = async (over: { role?: string; name?: string; uses?: number; replace?: boolean; ttlMs?: number } = {}) =>
    (
      await plane.enrollment.createToken(OPERATOR, {
        ...{ role: 'agent', name: '', uses: 1, ttlMs: 900_000, replace: false },
        ...over,
      })
    ).token;
  const machine = (text: string, name = 'attic') => {
    const { privateKey, publicKeyDer } = makeKeyPair();
    const csr = makeCsr(privateKey, name);
    const join = (other = text) => plane.enrollment.join({ token: other, csr, name, address: '10.0.0.1' });
    return { join, digest: publicKeyDigest(publicKeyDer), publicKeyDer };
  };
  const waiting = async () => (await plane.approvals.waiting()).map(({ name }) => name);
  return { ...parts, token, machine, waiting };
}

const holders = ({ store }: Awaited<ReturnType<typeof startDesk>>, name: string) =>
  store.certificates.holders('agent', name);

test('a good token buys a place in the queue; the approval buys the certificate', async (t) => {
  const desk = await startDesk(t);
  const { plane, token, machine, waiting, mesh } = desk;
  const attic = machine(await token());
  const waits = { code: 'NOT_APPROVED', message: 'attic waits for approval', hint: /mesh nodes approve attic$/ };
  await t.rejects(attic.join(), waits);
  await t.rejects(attic.join(), waits, 'asking again is the same request');
  t.same(await waiting(), ['attic']);
  t.equal((await holders(desk, 'attic')).length, 0);
  const [row] = await plane.approvals.waiting();
  const shown = approvalPhrase(mesh.rootDigest, readCsr(row?.csr ?? Buffer.alloc(0)).publicKeyDer);
  t.equal(shown, approvalPhrase(mesh.rootDigest, attic.publicKeyDer), 'both sides come to the same words');
  const approved = await plane.enrollment.approve(OPERATOR, 'attic', attic.digest);
  t.same(await waiting(), []);
  t.equal((await attic.join()).serial, approved.serial);
  await t.rejects(plane.enrollment.approve(OPERATOR, 'attic', attic.digest), { code: 'NOT_FOUND' }, 'not twice');
});

test('of two operators who approve at once, one does; there is one certificate', async (t) => {
  const desk = await startDesk(t);
  const attic = desk.machine(await desk.token());
  await t.rejects(attic.join(), { code: 'NOT_APPROVED' });
  const both = await Promise.allSettled(
    [1, 2].map(() => desk.plane.enrollment.approve(OPERATOR, 'attic', attic.digest)),
  );
  t.equal(both.filter(({ status }) => status === 'fulfilled').length, 1);
  t.equal((await holders(desk, 'attic')).length, 1);
});

test('an approval is of a key: who took the name meanwhile is not meant', async (t) => {
  const desk = await startDesk(t);
  const { plane, token, machine, clock, waiting } = desk;
  const own = machine(await token({ ttlMs: 30 * 86_400_000 }));
  await t.rejects(own.join(), { code: 'NOT_APPROVED' });
  clock.jumpWall(86_400_001);
  const thief = machine(await token());
  await t.rejects(thief.join(), { code: 'NOT_APPROVED', message: 'attic waits for approval' });
  await t.rejects(plane.enrollment.approve(OPERATOR, 'attic', own.digest), {
    code: 'CONFLICT',
    message: /another key/,
  });
  t.equal((await holders(desk, 'attic')).length, 0);
  await t.rejects(own.join(), { code: 'NOT_APPROVED', message: 'attic-2 waits for approval' }, 'it queues anew');
  t.same((await waiting()).sort(), ['attic', 'attic-2']);
});

test('of those that wait no two have one name, however many wish for it at once', async (t) => {
  const { token, machine, waiting } = await startDesk(t);
  const shared = await token({ uses: 6 });
  const asked = await Promise.allSettled(Array.from({ length: 6 }, () => machine(shared).join()));
  t.ok(asked.every((outcome) => outcome.status === 'rejected' && outcome.reason.code === 'NOT_APPROVED'));
  t.same((await waiting()).sort(), ['attic', 'attic-2', 'attic-3', 'attic-4', 'attic-5', 'attic-6']);
});

test('a token that binds a name is not spent while another machine waits under it', async (t) => {
  const { plane, token, machine } = await startDesk(t);
  const first = machine(await token({ name: 'attic' }));
  await t.rejects(first.join(), { code: 'NOT_APPROVED' });
  const second = machine(await token({ name: 'attic' }));
  await t.rejects(second.join(), { code: 'CONFLICT', message: 'another machine waits for approval as attic' });
  await plane.approvals.refuse(OPERATOR, 'attic', first.digest);
  await t.rejects(second.join(), { code: 'NOT_APPROVED' });
});

test('--replace turns nobody out before the approval', async (t) => {
  const desk = await startDesk(t);
  const { plane, token, machine } = desk;
  const old = machine(await token());
  await t.rejects(old.join(), { code: 'NOT_APPROVED' });
  const { serial } = await plane.enrollment.approve(OPERATOR, 'attic', old.digest);
  const heir = machine(await token({ name: 'attic', replace: true }));
  await t.rejects(heir.join(), { code: 'NOT_APPROVED' });
  t.match(await holders(desk, 'attic'), [{ serial }], 'the old one is in');
  const approved = await plane.enrollment.approve(OPERATOR, 'attic', heir.digest);
  t.match(await holders(desk, 'attic'), [{ serial: approved.serial }]);
});

test('a refusal is final for this key and token', async (t) => {
  const { plane, token, machine, clock, waiting } = await startDesk(t);
  const shared = await token({ uses: 2, ttlMs: 30 * 86_400_000 });
  const attic = machine(shared);
  await t.rejects(attic.join(), { code: 'NOT_APPROVED' });
  await plane.approvals.refuse(OPERATOR, 'attic', attic.digest);
  await t.rejects(attic.join(), { code: 'DENIED', message: /has refused this machine/ });
  clock.jumpWall(29 * 86_400_000);
  await t.rejects(attic.join(), { code: 'DENIED' }, 'for as long as the token lives');
  t.same(await waiting(), []);
  await t.rejects(plane.enrollment.approve(OPERATOR, 'attic', attic.digest), { code: 'NOT_FOUND' });
  await t.rejects(attic.join(await token()), { code: 'NOT_APPROVED' }, 'another token is another try');
});

test('the queue is bounded in number and time, and a token that finds it full is not spent', async (t) => {
  const { plane, store, clock, token, machine, waiting } = await startDesk(t);
  const flood = machine(await token({ uses: 256 }), 'flood');
  await t.rejects(flood.join(), { code: 'NOT_APPROVED' });
  const [row] = await plane.approvals.waiting();
  if (!row) throw new Error('one waits');
  for (let i = 1; i < 256; i++) {
    const publicKeyDigest = i.toString(16).padStart(64, '0');
    await store.joinRequests.record({ ...row, publicKeyDigest, name: `flood-${i}` });
  }
  t.equal((await waiting()).length, 256);
  const late = await token();
  const honest = machine(late);
  await t.rejects(honest.join(), { code: 'OVERLOADED', message: /256 machines wait/ });
  t.match((await store.tokens.list()).at(-1), { usesLeft: 1 });
  await plane.enrollment.revokeToken(OPERATOR, row.tokenId);
  t.same(await waiting(), [], 'revoking the token ends what came with it');
  await t.rejects(honest.join(), { code: 'NOT_APPROVED' });
  clock.jumpWall(86_400_001);
  t.same(await waiting(), [], 'nobody waits longer than a day');
  await t.rejects(honest.join(), { code: 'TOKEN_REFUSED', message: /expired/ });
});

test('only agents wait, and only where it is wanted', async (t) => {
  const { token, machine } = await startDesk(t);
  t.match(await machine(await token({ role: 'viewer' }), 'vera').join(), { name: 'vera', role: 'viewer' });
  const open = await startDesk(t, false);
  t.match(await open.machine(await open.token()).join(), { name: 'attic' });
});

test('waiting for approval does not count as a failed join', async (t) => {
  const { token, machine } = await startDesk(t);
  const attic = machine(await token());
  for (let times = 0; times < 30; times++) await t.rejects(attic.join(), { code: 'NOT_APPROVED' });
});

test('an approved machine whose name was revoked before works again', async (t) => {
  const { plane, token, machine } = await startDesk(t);
  const first = machine(await token());
  await t.rejects(first.join(), { code: 'NOT_APPROVED' });
  await plane.enrollment.approve(OPERATOR, 'attic', first.digest);
  const agent = new PlayedAgent(plane, 'attic');
  await agent.connect();
  await plane.issuance.revokeHolder(OPERATOR, 'agent', 'attic');
  await t.rejects(agent.connect(), { code: 'REVOKED' });
  const again = machine(await token({ name: 'attic' }));
  await t.rejects(again.join(), { code: 'NOT_APPROVED' });
  await t.rejects(agent.connect(), { code: 'REVOKED' }, 'a request changes nothing');
  await plane.enrollment.approve(OPERATOR, 'attic', again.digest);
  await agent.connect();
});
