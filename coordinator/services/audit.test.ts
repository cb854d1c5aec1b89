import { test } from 'tap';
import { MeshError } from '../../common/errors.js';
import { silentLogger } from '../../common/log.js';
import { ManualClock } from '../../test/support/manual-clock.js';
import { withStore } from '../../test/support/postgres.js';
import type { AuditStore } from '../ports.js';
import { type Actor, Audit } from './audit.js';

const anna: Actor = { name: 'operator/anna', address: '10.0.0.2', certificate: '4d' };

async function setUp(
  t: Parameters<typeof withStore>[0],
  over: (store: AuditStore) => Partial<AuditStore> = () => ({}),
) {
  const { audit: store } = await withStore(t);
  const clock = new ManualClock();
  const audit = new Audit({ store: { ...store, ...over(store) }, name: 'one', clock, log: silentLogger });
  t.teardown(() => audit.stop());
  const entries = async () => {
    await audit.idle();
    return (await store.from(1, 50_000)).map(({ actor, action, target, detail }) => ({
      ...{ actor, action, target, detail: JSON.parse(detail) as Record<string, unknown> },
    }));
  };
  return { store, clock, audit, entries };
}

const down = () => new MeshError('DATABASE_DOWN', 'it is away');

test('what was recorded is in the chain when the promise is kept', async (t) => {
  const { audit, store } = await setUp(t);
  await audit.record(anna, 'node.drained', 'attic', { why: 'noise', none: undefined });
  t.match(await store.from(1, 10), [
    {
      seq: 1,
      actor: 'operator/anna',
      address: '10.0.0.2',
      certificate: '4d',
      target: 'attic',
      detail: '{"why":"noise"}',
    },
  ]);
});

test('a burst goes in groups, in its order', async (t) => {
  const sizes: number[] = [];
  const { audit, entries } = await setUp(t, (store) => ({
    append: (group, again) => {
      sizes.push(group.length);
      return store.append(group, again);
    },
  }));
  for (let i = 0; i < 2000; i++) audit.note(anna, 'job.submitted', `job-${i}`);
  t.same(
    (await entries()).map(({ target }) => target),
    Array.from({ length: 2000 }, (_, i) => `job-${i}`),
  );
  t.ok(sizes.length <= 5, `${sizes.length} statements`);
});

test('noise makes an entry at once and one a minute, and is forgotten when it ceases', async (t) => {
  const { audit, clock, entries } = await setUp(t);
  const deny = (times: number) => {
    for (let i = 0; i < times; i++) audit.tally(anna, 'call.denied', '/x', { code: 'DENIED' });
  };
  const denied = (times: number) => ({
    ...{ actor: 'operator/anna', action: 'call.denied', target: '/x' },
    detail: { code: 'DENIED', times },
  });
  deny(1000);
  t.same(await entries(), [denied(1)]);
  clock.advance(60_000);
  deny(5);
  clock.advance(60_000);
  t.same(await entries(), [denied(1), denied(999), denied(5)]);
  clock.advance(120_000);
  t.same(clock.waiting, [], 'nothing waits any more');
  deny(1);
  t.equal((await entries()).length, 4, 'and the next is at once again');
});

test('however many strangers make noise, it is a bounded number of entries', async (t) => {
  const { audit, clock, entries } = await setUp(t);
  for (let i = 0; i < 5000; i++)
    audit.tally(
      { name: 'nobody', address: `10.0.${i >> 8}.${i & 255}`, certificate: '' },
      'enroll.refused',
      'BAD_TOKEN',
    );
  clock.advance(60_000);
  const all = await entries();
  t.ok(all.length <= 2 * 65, `${all.length} entries`);
  t.equal(
    all.reduce((sum, { detail }) => sum + Number(detail.times), 0),
    5000,
    'which tell of all of it',
  );
});

test('a database that is away is waited for, and an answer that was lost writes nothing twice', async (t) => {
  let failures = 3;
  const { audit, clock, entries } = await setUp(t, (store) => ({
    append: async (group, again) => {
      if (failures-- > 1) throw down();
      const head = await store.append(group, again);
      // The last failure is an answer that is lost after the commit.
      if (failures === 0) throw down();
      return head;
    },
  }));
  const recorded = audit.record(anna, 'token.created', 'a');
  audit.note(anna, 'job.submitted', 'b');
  while (failures > -1) {
    clock.advance(500);
    await new Promise((resolve) => setImmediate(resolve));
  }
  await recorded;
  t.same(
    (await entries()).map(({ target }) => target),
    ['a', 'b'],
  );
});

test('what has no room while the database is away is counted, and what must be recorded is refused', async (t) => {
  let away = true;
  const { audit, clock, entries } = await setUp(t, (store) => ({
    append: (group, again) => (away ? Promise.reject(down()) : store.append(group, again)),
  }));
  for (let i = 0; i < 25_000; i++) audit.note(anna, 'job.submitted', 'x');
  await t.rejects(audit.record(anna, 'token.created', 'y'), { code: 'OVERLOADED' });
  away = false;
  clock.advance(500);
  await new Promise((resolve) => setImmediate(resolve));
  clock.advance(500);
  const all = await entries();
  const dropped = all
    .filter(({ action }) => action === 'audit.dropped')
    .reduce((sum, { target }) => sum + Number(target), 0);
  t.equal(all.filter(({ action }) => action === 'job.submitted').length + dropped, 25_000);
  t.ok(dropped > 0);
});

test('words that strangers chose are short, whole, and without NUL', async (t) => {
  const { audit, entries } = await setUp(t);
  await audit.record({ ...anna, address: 'x\0y' }, 'token.created', `\ud800${'a'.repeat(5000)}`, { wish: 'b\0\udfff' });
  const [entry] = await entries();
  t.equal(entry?.target.length, 256);
  t.match(entry, { target: /^\ufffda+…$/, detail: { wish: 'b\ufffd\ufffd' } });
});

test('a stop does not wait for a database that is away', async (t) => {
  const { audit } = await setUp(t, () => ({ append: () => Promise.reject(down()) }));
  const recorded = audit.record(anna, 'token.created', 'a');
  recorded.catch(() => undefined);
  await audit.stop();
  await t.rejects(recorded, { code: 'DATABASE_DOWN' });
});
