/**
 * The audit against somebody who holds the database: a superuser who switches the trigger off and changes what was
 * written. Whatever they do to what is there, `mesh audit --verify` ends with 1 and names the first entry that is not
 * what it was.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type postgres from 'postgres';
import t, { before, type Test, test } from 'tap';
import { type AuditEntry, type AuditHead, type ChainBreak, ChainReader } from '../../common/audit-chain.js';
import type { AuditShape } from '../../sdk/audit.js';
import { openDatabase } from '../support/database.js';
import { eventually } from '../support/eventually.js';
import { type Mesh, type Page, startMesh } from '../support/mesh.js';

const ENTRIES = 10;

let mesh: Mesh;
let sql: postgres.Sql;
/** Where the chain ends, as the coordinator holds it too, before anybody attacks. */
let head: AuditHead;

interface Verdict {
  verified: boolean;
  entries: number;
  head: AuditHead;
  broken: ChainBreak | null;
  kept: AuditHead & { coordinator: string };
}

before(async () => {
  mesh = await startMesh(t);
  for (let i = 0; i < ENTRIES; i++) await mesh.token('--name', `node-${i}`);
  sql = openDatabase(mesh);
  t.teardown(() => sql.end({ timeout: 5 }));
  head = (await verify()).verdict.head;
  await eventually('the coordinator to hold the end of the chain', () => keptInFile().seq === head.seq);
  await sql`create table untouched as select * from audit`;
});

const keptInFile = (): AuditHead =>
  JSON.parse(readFileSync(join(mesh.coordinator.dataDir, 'audit.head'), 'utf8')) as AuditHead;

async function verify(...args: string[]): Promise<{ code: number | null; verdict: Verdict }> {
  const result = await mesh.cli('audit', '--verify', '--json', ...args);
  return { code: result.code, verdict: result.json<Verdict>() };
}

/** Everything past the coordinator and its trigger, as a superuser would; undone when the test ends. */
async function tamper(t: Test, attack: (db: postgres.TransactionSql) => Promise<unknown>): Promise<void> {
  const unguarded = (work: (db: postgres.TransactionSql) => Promise<unknown>) =>
    sql.begin(async (db) => {
      await db`alter table audit disable trigger audit_append_only`;
      await work(db);
      await db`alter table audit enable trigger audit_append_only`;
    });
  t.teardown(() =>
    unguarded(async (db) => {
      await db`delete from audit`;
      await db`insert into audit select * from untouched`;
    }),
  );
  await unguarded(attack);
}

/** The chain by itself, as somebody would check it who keeps no head. */
async function readsWell(): Promise<boolean> {
  const rows = await sql<AuditEntry[]>`
    select seq::int, (extract(epoch from at) * 1000000)::bigint::text as "atUs", actor, address, certificate, action,
      target, detail, encode(previous, 'hex') as previous, encode(hash, 'hex') as hash
    from audit order by seq`;
  const chain = new ChainReader();
  return rows.every((row) => chain.take({ ...row, atUs: Number(row.atUs) }));
}

/** Hashes everything from `from` on anew, as who knows the code would. */
const rehash = (db: postgres.TransactionSql, from: number) =>
  db.unsafe(`do $$
    declare entry audit; last bytea;
    begin
      select hash into last from audit where seq = ${from - 1};
      for entry in select * from audit where seq >= ${from} order by seq loop
        entry.hash := audit_link(last, last, audit_body(entry.seq, entry.at, entry.actor, entry.address,
          entry.certificate, entry.action, entry.target, entry.detail));
        update audit set previous = last, hash = entry.hash where seq = entry.seq;
        last := entry.hash;
      end loop;
    end $$`);

async function brokenAt(t: Test, seq: number, why: RegExp, ...args: string[]): Promise<void> {
  const { code, verdict } = await verify(...args);
  t.equal(code, 1);
  t.match(verdict, { verified: false, broken: { seq, why }, entries: seq - 1 });
}

test('audit: who, from where, with which certificate; and in order before anybody attacks', async (t) => {
  const { items } = (await mesh.cli('audit', '--json', '--action', 'token.created')).json<Page<AuditShape>>();
  t.equal(items.length, ENTRIES);
  const certificate = /^[0-9a-f]+$/;
  t.match(items[0], { actor: 'operator/admin', address: '127.0.0.1', certificate, detail: { name: 'node-9' } });
  t.match(await verify('--expect', `${head.seq}:${head.hash}`), { code: 0, verdict: { verified: true, kept: head } });
});

test('audit: the coordinator and its database user change nothing by mistake', async (t) => {
  await t.rejects(sql`update audit set actor = 'operator/mallory'`, /append-only/);
  await t.rejects(sql`delete from audit where seq = 3`, /append-only/);
  await t.rejects(sql`truncate audit`, /append-only/);
});

test('audit: an entry is changed', async (t) => {
  await tamper(t, (db) => db`update audit set actor = 'operator/bert' where seq = 4`);
  await brokenAt(t, 4, /changed/);
});

test('audit: an entry is changed, and its hash with it', async (t) => {
  await tamper(t, async (db) => {
    await db`update audit set address = '10.9.9.9' where seq = 4`;
    await db`update audit set
      hash = audit_link(previous, previous, audit_body(seq, at, actor, address, certificate, action, target, detail))
      where seq = 4`;
  });
  await brokenAt(t, 5, /does not follow the entry before it/);
});

test('audit: an entry in the middle is dropped', async (t) => {
  await tamper(t, (db) => db`delete from audit where seq = 6`);
  await brokenAt(t, 6, /missing/);
});

test('audit: an entry is dropped and the rest moved up', async (t) => {
  await tamper(t, async (db) => {
    await db`delete from audit where seq = 6`;
    for (let seq = 7; seq <= head.seq; seq++) await db`update audit set seq = ${seq - 1} where seq = ${seq}`;
  });
  await brokenAt(t, 6, /changed/);
});

test('audit: a forged entry is put in between', async (t) => {
  await tamper(t, async (db) => {
    for (let seq = head.seq; seq >= 6; seq--) await db`update audit set seq = ${seq + 1} where seq = ${seq}`;
    await db`insert into audit
      select 6, at, 'operator/bert', action, 'forged', detail, address, certificate, hash, sha256('forged')
      from audit where seq = 5`;
  });
  await brokenAt(t, 6, /changed/);
});

test('audit: the tail is dropped', async (t) => {
  await tamper(t, (db) => db`delete from audit where seq > ${head.seq - 2}`);
  t.ok(await readsWell(), 'what is left is a chain in order');
  await brokenAt(t, head.seq - 1, /missing: coordinator \S+ holds entry/);
});

test('audit: the tail is dropped and others come after it', async (t) => {
  await tamper(t, (db) => db`delete from audit where seq > ${head.seq - 2}`);
  for (let i = 0; i < 4; i++) await mesh.token();
  t.ok(await readsWell(), 'it is a chain in order, and longer than before');
  const { code, verdict } = await verify();
  t.equal(code, 1);
  t.match(verdict.broken, { seq: head.seq, why: /not the entry that coordinator \S+ holds/ });
  t.same(keptInFile(), head, 'the coordinator keeps what it held');
});

test('audit: the whole chain is rewritten from the middle on', async (t) => {
  await tamper(t, async (db) => {
    await db`update audit set actor = 'operator/bert' where seq = 5`;
    await rehash(db, 5);
  });
  t.ok(await readsWell(), 'by itself it is a chain in order');
  const { code, verdict } = await verify();
  t.equal(code, 1);
  t.match(verdict.broken, { seq: head.seq, why: /not the entry that coordinator \S+ holds/ });
});

test('audit: the chain is rewritten, and a head that an operator kept names an earlier entry', async (t) => {
  const { items } = (await mesh.cli('audit', '--json')).json<Page<AuditShape>>();
  const kept = `7:${items.find(({ seq }) => seq === 7)?.hash}`;
  t.match(await verify('--expect', kept), { code: 0 });
  await tamper(t, async (db) => {
    await db`update audit set actor = 'operator/bert' where seq = 5`;
    await rehash(db, 5);
  });
  const { code, verdict } = await verify('--expect', kept);
  t.equal(code, 1);
  t.match(verdict.broken, { seq: 7, why: /not the entry that whoever asks holds/ });
});

test('audit: undone, it is in order again, and the coordinator has said in its log what it saw', async (t) => {
  t.match(await verify(), { code: 0, verdict: { verified: true, head } });
  t.match(mesh.coordinator.program.tail, /"event":"audit\.broken"/);
});
