import { test } from 'tap';
import { sql } from 'kysely';
import { ManualClock } from '../../test/support/manual-clock.js';
import { withStore } from '../../test/support/postgres.js';
import { digestOf, newNode, unique } from '../../test/support/store-fixtures.js';
import type { CertificateRow, TokenRow } from '../ports.js';

const NOW_MS = 1_800_000_000_000;
const DAY_MS = 86_400_000;

const certificate = (name: string, key: string, over: Partial<CertificateRow> = {}): CertificateRow => ({
  serial: unique('5e'),
  role: 'agent',
  name,
  fingerprint: digestOf(name + key),
  publicKeyDigest: digestOf(key),
  notBeforeMs: NOW_MS - 300_000,
  notAfterMs: NOW_MS + DAY_MS,
  revokedAtMs: undefined,
  tokenId: undefined,
  pem: 'PEM',
  ...over,
});

const token = (over: Partial<TokenRow> = {}): TokenRow => ({
  id: unique('token'),
  secretDigest: digestOf('secret'),
  role: 'agent',
  name: undefined,
  replace: false,
  usesLeft: 1,
  expiresAtMs: NOW_MS + 900_000,
  createdBy: 'anna',
  ...over,
});

test('of fifty callers that spend one token at once, one succeeds', async (t) => {
  const store = await withStore(t, { poolMax: 20 });
  const single = token();
  const triple = token({ usesLeft: 3, name: 'attic', replace: true });
  await store.tokens.create(single);
  await store.tokens.create(triple);
  t.match(await store.tokens.list(), [single, triple]);
  const spent = async (id: string): Promise<number> => {
    const tries = await Promise.all(
      Array.from({ length: 50 }, (_, key) => store.tokens.spend(id, digestOf(`key ${key}`), NOW_MS)),
    );
    return tries.filter(Boolean).length;
  };
  t.equal(await spent(single.id), 1);
  t.equal(await spent(triple.id), 3);
  t.match(await store.tokens.get(single.id), { usesLeft: 0 });
  t.equal(await store.tokens.spend('unknown', digestOf('key'), NOW_MS), false);
  const shared = token({ usesLeft: 2 });
  await store.tokens.create(shared);
  const key = digestOf('one key');
  t.same(await Promise.all([1, 2, 3].map(() => store.tokens.spend(shared.id, key, NOW_MS))), [true, true, true]);
  t.match(await store.tokens.get(shared.id), { usesLeft: 1, spentBy: [key] }, 'the same key spends it once');
  const fresh = token();
  await store.tokens.create(fresh);
  t.equal(await store.tokens.spend(fresh.id, digestOf('key'), fresh.expiresAtMs), false, 'expired');
  t.match(await store.tokens.get(fresh.id), { usesLeft: 1 });
  t.equal(await store.tokens.revoke(fresh.id), true);
  t.equal(await store.tokens.revoke(fresh.id), false);
  t.equal(await store.tokens.get(fresh.id), undefined);
});

test('a name belongs to one key at a time, per role', async (t) => {
  const clock = new ManualClock(NOW_MS);
  const store = await withStore(t, { clock });
  const { certificates } = store;
  const first = certificate('attic', 'key-1', { tokenId: 'tok' });
  await certificates.record(first, { sameHolder: false });
  await certificates.record(first, { sameHolder: false });
  t.same(await certificates.list(), [first], 'recording it twice is recording it once');
  await t.rejects(certificates.record(certificate('attic', 'key-2'), { sameHolder: false }), { code: 'CONFLICT' });
  await certificates.record(certificate('attic', 'key-1'), { sameHolder: false });
  await certificates.record(certificate('attic', 'key-3'), { sameHolder: true });
  await certificates.record(certificate('attic', 'key-4', { role: 'viewer' }), { sameHolder: false });
  t.equal((await certificates.holders('agent', 'attic')).length, 3);
  t.same(await store.tokens.boughtWith('tok', digestOf('key-1')), first);
  t.equal(await store.tokens.boughtWith('tok', digestOf('key-2')), undefined);

  clock.advance(DAY_MS + 1);
  t.same(await certificates.holders('agent', 'attic'), [], 'they expired');
  const later = { notBeforeMs: clock.wallMs(), notAfterMs: clock.wallMs() + DAY_MS };
  await certificates.record(certificate('attic', 'key-5', later), { sameHolder: false });
  const revoked = await certificates.revoke('attic');
  t.equal(revoked.length, 5, 'revoking a name covers every certificate of it, renewals and roles');
  t.same(await certificates.revoke('attic'), []);
  t.same(
    (await certificates.revoked()).map(({ serial }) => serial).sort(),
    revoked
      .filter((row) => row.notAfterMs > clock.wallMs())
      .map((row) => row.serial)
      .sort(),
    'expired ones need no denying',
  );
  t.same(
    (await certificates.revokedRows(0)).map(({ serial }) => serial).sort(),
    revoked.map(({ serial }) => serial).sort(),
    'a revocation list may name them a little longer',
  );
  await certificates.record(certificate('attic', 'key-6', later), { sameHolder: false });
  const [holder] = await certificates.holders('agent', 'attic');
  t.match(await certificates.revoke(holder?.serial ?? ''), [{ publicKeyDigest: digestOf('key-6') }], 'by serial');
});

test('of twenty keys that claim one name at once, one gets it', async (t) => {
  const store = await withStore(t, { poolMax: 20, clock: new ManualClock(NOW_MS) });
  const claims = await Promise.allSettled(
    Array.from({ length: 20 }, (_, i) =>
      store.certificates.record(certificate('attic', `key-${i}`), { sameHolder: false }),
    ),
  );
  t.equal(claims.filter(({ status }) => status === 'fulfilled').length, 1);
  t.equal((await store.certificates.holders('agent', 'attic')).length, 1);
});

test('a node that returns keeps its id, number and flags', async (t) => {
  const store = await withStore(t);
  const attic = await store.nodes.upsert(newNode('attic'));
  const cellar = await store.nodes.upsert(newNode('cellar'));
  t.match(attic, { name: 'attic', reliability: 1, finished: 0, draining: false, revoked: false });
  t.match(attic.capabilities, { cpus: 4, labels: { zone: 'attic' }, executors: [] });
  t.match(await store.nodes.setDraining('attic', true), { draining: true });
  await store.nodes.setRevoked('attic', true);
  t.equal(await store.nodes.setDraining('nobody', true), undefined);
  await store.nodes.saveVitals([
    { seq: cellar.seq, reliability: 0.5, finished: 7, lastHeartbeatAtMs: 1_800_000_000_123 },
    { seq: attic.seq, reliability: 0.25, finished: 3, lastHeartbeatAtMs: 1_800_000_000_456 },
  ]);
  await store.nodes.saveVitals([]);
  const again = await store.nodes.upsert({ ...newNode('attic'), version: '0.2.0' });
  t.match(again, { id: attic.id, seq: attic.seq, version: '0.2.0', draining: true, revoked: true, reliability: 0.25 });
  t.match(again, { finished: 3, lastHeartbeatAtMs: 1_800_000_000_456 });
  t.not(again.bootId, attic.bootId);
  t.same(
    (await store.nodes.all()).map(({ name }) => name),
    ['attic', 'cellar'],
  );
});

test('nodes that come at once are written together, each with its own answer', async (t) => {
  const store = await withStore(t);
  const names = Array.from({ length: 50 }, (_, index) => `node-${index}`);
  const rows = await Promise.all([
    ...names.map((name) => store.nodes.upsert(newNode(name))),
    store.nodes.upsert({ ...newNode('node-7'), version: 'later' }),
  ]);
  t.same(
    rows.slice(0, 50).map(({ name }) => name),
    names,
  );
  t.match(rows[50], { name: 'node-7', seq: rows[7]?.seq, id: rows[7]?.id, version: 'later' });
  t.equal((await store.nodes.all()).length, 50);
  t.match(
    (await store.nodes.all()).find(({ name }) => name === 'node-7'),
    { version: 'later' },
  );
});

test('a node that the database refuses spoils none of those that came with it', async (t) => {
  const store = await withStore(t);
  // jsonb has no NUL; the rules of a session refuse it before it gets here.
  const spoiled = newNode('spoiled');
  const wrong = { ...spoiled, capabilities: { ...spoiled.capabilities, os: 'a\0b' } };
  const answers = await Promise.allSettled(
    [newNode('first'), newNode('attic'), wrong, newNode('cellar')].map((node) => store.nodes.upsert(node)),
  );
  t.same(
    answers.map(({ status }) => status),
    ['fulfilled', 'fulfilled', 'rejected', 'fulfilled'],
  );
  t.equal((await store.nodes.all()).length, 3);
});

test('the names of revoked nodes', async (t) => {
  const store = await withStore(t);
  for (const name of ['attic', 'cellar']) await store.nodes.upsert(newNode(name));
  t.same(await store.nodes.revokedNames(), []);
  await store.nodes.setRevoked('cellar', true);
  t.same(await store.nodes.revokedNames(), ['cellar']);
});

test('blobs and settings', async (t) => {
  const store = await withStore(t);
  const [a, b, c] = ['a', 'b', 'c'].map(digestOf) as [string, string, string];
  t.same(await store.blobs.sizes([]), new Map());
  await store.blobs.record([{ digest: a, sizeBytes: 10 }]);
  await store.blobs.record([{ digest: a, sizeBytes: 10 }]);
  await store.blobs.record([{ digest: b, sizeBytes: 0 }]);
  t.same(
    await store.blobs.sizes([a, c, b]),
    new Map([
      [a, 10],
      [b, 0],
    ]),
  );
  const soon = Date.now() + 3_600_000;
  t.same(await store.blobs.unusedSince(soon, 1), [a], 'least recently used first');
  const used = async () =>
    await store.database.kysely.selectFrom('blob').select('last_used_at').orderBy('digest').execute();
  const before = await used();
  t.same(await store.blobs.use([b, c, a]), new Map([...(await store.blobs.sizes([a, b]))]));
  t.same(await used(), before, 'what was used within the hour is not written again');
  await sql`update blob set last_used_at = now() - interval '2 hours'`.execute(store.database.kysely);
  t.same(await store.blobs.unusedSince(Date.now() - 3_600_000, 10).then((list) => list.sort()), [a, b].sort());
  await store.blobs.use([b, a]);
  t.same(await store.blobs.unusedSince(Date.now() - 3_600_000, 10), []);
  t.same(await store.blobs.use([]), new Map());
  await store.blobs.forget([b]);
  t.same(await store.blobs.unusedSince(soon, 10), [a]);
  t.same(await store.blobs.unusedSince(0, 10), []);
  t.equal(await store.settings.get('mesh-id'), undefined);
  const claims = await Promise.all(['x', 'y', 'z'].map((value) => store.settings.claim('mesh-id', value)));
  t.equal(new Set(claims).size, 1);
  t.equal(await store.settings.get('mesh-id'), claims[0]);
});

test('a serial means one certificate, whoever is called like it', async (t) => {
  const { certificates } = await withStore(t);
  const meant = certificate('admin', 'key-1', { role: 'operator' });
  await certificates.record(meant, { sameHolder: false });
  await certificates.record(certificate(meant.serial, 'key-2'), { sameHolder: false });
  t.same(
    (await certificates.revoke(meant.serial)).map(({ name }) => name),
    ['admin'],
  );
});
