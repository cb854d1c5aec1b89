import { test, type Test } from 'tap';
import type { SecretUse } from '../../proto/gen/mesh/v1/common.js';
import { elapse, identityOf, jobUntil, PlayedAgent, startPlane, submission } from '../../test/support/plane.js';
import { withStore } from '../../test/support/postgres.js';
import type { Role } from '../../common/identity/identity.js';
import type { JobSpec } from '../../proto/gen/mesh/v1/mesh.js';
import type { ControlPlane } from '../control-plane.js';
import { type Actor, actorOf } from './audit.js';
import { SecretKey } from './secret-key.js';
import type { KeyHolder } from './secrets.js';

const person = (role: Role, name: string) => actorOf({ identity: identityOf(role, name), address: '' });
const anna = person('submitter', 'anna');
const berta = person('submitter', 'berta');
const admin = person('operator', 'admin');

const use = (name: string, over: Partial<SecretUse> = {}): SecretUse => ({
  ...{ name, variable: name, file: false, owner: '' },
  ...over,
});

class Holder implements KeyHolder {
  key: SecretKey | undefined = SecretKey.make();
  abandoned = 0;

  async abandon(): Promise<void> {
    this.abandoned++;
  }
}

async function setup(t: Test) {
  const store = await withStore(t);
  const holder = new Holder();
  const { plane, clock } = await startPlane(t, { store, keyHolder: holder });
  const { secrets } = plane;
  const set = (who: Actor, name: string, value: string, owner = '') =>
    secrets.set(who, { name, value: Buffer.from(value), owner });
  return { store, holder, plane, clock, secrets, set };
}

const submit = (plane: ControlPlane, count: number, spec: Partial<JobSpec> = {}) =>
  plane.intake.submit({ ...submission(count, spec), actor: anna, submitter: 'anna' });

async function agent(t: Test, plane: ControlPlane) {
  const played = new PlayedAgent(plane, 'node-1');
  played.protocol = 3;
  played.secretFiles = true;
  await played.connect();
  t.teardown(() => played.cut());
  return played;
}

const valuesOf = (assign: { secrets: { values: Uint8Array[] }[] }) =>
  assign.secrets.map(({ values }) => values.map((value) => Buffer.from(value).toString()));

test('a value is sealed where it is stored, and opens nowhere else', async (t) => {
  const { store, holder, set } = await setup(t);
  await set(anna, 'TOKEN', 'open sesame');
  await set(berta, 'TOKEN', 'of berta');
  const [annas] = await store.secrets.read([{ owner: 'submitter/anna', name: 'TOKEN' }]);
  const [bertas] = await store.secrets.read([{ owner: 'submitter/berta', name: 'TOKEN' }]);
  if (!annas || !bertas || !holder.key) return t.fail('both are there');
  t.notOk(Buffer.from(annas.sealed).includes('open sesame'));
  t.equal(holder.key.open(annas).toString(), 'open sesame');
  t.throws(() => holder.key?.open({ ...bertas, sealed: annas.sealed }), { code: 'CONFLICT', message: /changed/ });
  t.throws(() => holder.key?.open({ ...annas, revision: 'another' }), { code: 'CONFLICT' });
  t.throws(() => SecretKey.make().open(annas), { code: 'CONFLICT', message: /another key/ });
});

test('names, values and owners are checked', async (t) => {
  const { set, secrets } = await setup(t);
  for (const name of ['', '1A', 'A-B', 'A'.repeat(64), 'A\n', '__proto__ ', 'Ä'])
    await t.rejects(set(anna, name, 'x'), { code: 'BAD_NAME' });
  await set(anna, '__proto__', 'x');
  await t.rejects(set(anna, 'A', ''), { code: 'USAGE', message: /empty/ });
  await t.rejects(set(anna, 'A', 'x'.repeat(65_537)), { code: 'USAGE', message: /65537 bytes/ });
  await set(anna, 'A', 'x'.repeat(65_536));
  await t.rejects(set(anna, 'A', 'x', 'submitter/berta'), { code: 'DENIED' });
  await t.rejects(set(anna, 'A', 'x', 'everyone'), { code: 'DENIED' });
  await t.rejects(set(admin, 'A', 'x', 'agent/node-1'), { code: 'USAGE' });
  await t.rejects(secrets.remove(berta, { name: 'A', owner: 'submitter/anna' }), { code: 'DENIED' });
  await t.rejects(secrets.remove(berta, { name: 'A', owner: '' }), { code: 'NOT_FOUND' });
});

test('everybody lists and uses what is theirs, and what is for everyone', async (t) => {
  const { set, secrets, plane } = await setup(t);
  await set(anna, 'OWN', 'x');
  await set(admin, 'COMMON', 'x', 'everyone');
  await set(admin, 'GIVEN', 'x', 'submitter/berta');
  const named = async (who: Actor) => (await secrets.list(who)).map(({ owner, name }) => `${owner}/${name}`);
  t.same(await named(anna), ['everyone/COMMON', 'submitter/anna/OWN']);
  t.same(await named(berta), ['everyone/COMMON', 'submitter/berta/GIVEN']);
  t.equal((await named(admin)).length, 3);
  const owners = async (who: Actor, ...uses: SecretUse[]) =>
    (await secrets.resolve(who, uses)).map(({ owner }) => owner);
  t.same(await owners(anna, use('OWN'), use('COMMON')), ['submitter/anna', 'everyone']);
  await set(anna, 'COMMON', 'mine');
  t.same(await owners(anna, use('COMMON')), ['submitter/anna'], 'what is one’s own comes first');
  for (const stolen of [use('OWN'), use('OWN', { owner: 'submitter/anna' }), use('OWN', { owner: 'operator/admin' })])
    await t.rejects(secrets.resolve(berta, [stolen]), { code: 'BAD_SPEC', message: /no secret OWN/ });
  // Another person of the same name.
  await t.rejects(secrets.resolve(person('submitter', 'admin'), [use('GIVEN')]), { code: 'BAD_SPEC' });
  t.same(await owners(admin, use('OWN', { owner: 'submitter/anna' })), ['submitter/anna']);
  await t.rejects(submit(plane, 1, { secrets: [use('NONE')] }), { code: 'BAD_SPEC', message: /no secret NONE/ });
  await t.rejects(submit(plane, 1, { secrets: [use('OWN', { variable: 'MESH_X' })] }), { message: /reserved/ });
  await t.rejects(submit(plane, 1, { secrets: [use('OWN'), use('COMMON', { variable: 'OWN' })] }), {
    message: /two values/,
  });
});

test('what is assigned carries the values of that moment, and nothing stored does', async (t) => {
  const { set, plane, store } = await setup(t);
  await set(anna, 'TOKEN', 'first');
  const node = await agent(t, plane);
  const job = await submit(plane, 1, { secrets: [use('TOKEN', { variable: 'T' })] });
  const assign = await node.mailbox.next('assign');
  t.match(assign.bodies, [{ secrets: [{ name: 'TOKEN', variable: 'T', owner: '' }] }]);
  t.same(valuesOf(assign), [['first']]);
  t.notMatch(JSON.stringify(await store.jobs.get(job.id)), /first/);
  await set(anna, 'TOKEN', 'second');
  await submit(plane, 1, { secrets: [use('TOKEN')] });
  t.same(valuesOf(await node.mailbox.next('assign')), [['second']]);
  await submit(plane, 1);
  t.same(valuesOf(await node.mailbox.next('assign')), [], 'a job that asks for none is given none');
});

test('agents that would not keep them are given none, and mesh why says so', async (t) => {
  const { set, plane } = await setup(t);
  await set(anna, 'TOKEN', 'value');
  const old = new PlayedAgent(plane, 'old');
  old.protocol = 2;
  const bare = new PlayedAgent(plane, 'bare');
  bare.protocol = 3;
  for (const node of [old, bare]) {
    await node.connect();
    t.teardown(() => node.cut());
  }
  const job = await submit(plane, 1, { secrets: [use('TOKEN', { file: true })] });
  const why = async () => {
    for (;;) {
      const { nodes } = plane.explain.answer(job, undefined);
      if (nodes.length === 2) return Object.fromEntries(nodes.map(({ name, reason }) => [name, reason]));
      await new Promise((resolve) => setImmediate(resolve));
    }
  };
  const reasons = await why();
  t.match(reasons.old, /too old to be given secrets/);
  t.match(reasons.bare, /no memory file system/);
  t.same([...old.mailbox.all('assign'), ...bare.mailbox.all('assign')], []);
  await submit(plane, 1, { secrets: [use('TOKEN')] });
  t.same(valuesOf(await bare.mailbox.next('assign')), [['value']]);
});

test('a task whose secret is gone fails with that reason, and no node is blamed', async (t) => {
  const { set, secrets, plane, clock, store } = await setup(t);
  await set(anna, 'TOKEN', 'value');
  const job = await submit(plane, 1, { retries: 1, secrets: [use('TOKEN')] });
  await secrets.remove(anna, { name: 'TOKEN', owner: '' });
  const node = await agent(t, plane);
  await jobUntil({ plane, store }, job.id, (row) => row.counts.retrying === 1);
  await elapse(clock, 5000);
  const ended = await jobUntil({ plane, store }, job.id, (row) => row.completedAtMs !== undefined);
  t.equal(ended.status, 'FAILED');
  const [task] = await store.tasks.list({ job: job.seq, fromIndex: 0, limit: 1 });
  t.match(task, { failures: 2, lastError: 'the secret TOKEN of submitter/anna was removed' });
  t.same(node.mailbox.all('assign'), [], 'the agent heard nothing of it');
  t.equal(plane.fleet.byName('node-1')?.reliability, 1);
});

test('without the key nothing is set and nothing is assigned; with the last secret the lost key is given up', async (t) => {
  const { set, secrets, plane, holder } = await setup(t);
  await set(anna, 'TOKEN', 'value');
  const { key } = holder;
  holder.key = undefined;
  await t.rejects(set(anna, 'OTHER', 'value'), { code: 'NOT_READY', message: /does not have the key for secrets/ });
  const node = await agent(t, plane);
  await submit(plane, 1, { secrets: [use('TOKEN')] });
  const plain = await submit(plane, 1);
  t.same(
    (await node.assigned()).map(({ job }) => job),
    [plain.seq],
  );
  holder.key = key;
  plane.dispatch.wake();
  t.same(valuesOf(await node.mailbox.next('assign')), [['value']]);
  holder.key = undefined;
  await secrets.remove(anna, { name: 'TOKEN', owner: '' });
  t.equal(holder.abandoned, 1);
});
