/** Tables that grow for as long as a mesh lives are read along an index, however large they have become. */
import { type RawBuilder, sql } from 'kysely';
import { test } from 'tap';
import { withStore } from '../../test/support/postgres.js';
import { newJob, pages } from '../../test/support/store-fixtures.js';
import { findStatement, fromStatement } from './audit.js';
import type { PostgresStore } from './index.js';
import { storedBytesStatement } from './namespaces.js';
import { readStatement } from './secrets.js';

interface PlanNode {
  'Node Type': string;
  'Index Name'?: string;
  Plans?: PlanNode[];
}

const ROWS = 20_000;

const namesIn = (node: PlanNode): string[] => [
  ...(node['Node Type'] === 'Seq Scan' ? ['Seq Scan'] : []),
  ...(node['Index Name'] === undefined ? [] : [node['Index Name']]),
  ...(node.Plans ?? []).flatMap(namesIn),
];

/** What a statement reads: indexes by name, and whole tables. */
async function readBy(store: PostgresStore, statement: RawBuilder<unknown>): Promise<string> {
  const explain = sql<{ 'QUERY PLAN': { Plan: PlanNode }[] }>`explain (format json) ${statement}`;
  const { rows } = await explain.execute(store.database.kysely);
  return namesIn(rows[0]?.['QUERY PLAN'][0]?.Plan as PlanNode).join();
}

async function fill(store: PostgresStore): Promise<void> {
  const db = store.database.kysely;
  await sql`
    insert into audit (seq, at, actor, action, target, detail, address, certificate, previous, hash)
    select n, timestamptz 'epoch' + n * interval '1 minute', 'operator/anna', 'job.submitted', n::text, '{}', '', '',
      sha256(''), sha256('')
    from generate_series(1, ${ROWS}::integer) n`.execute(db);
  await sql`
    insert into secret (owner, name, revision, key_id, sealed, size_bytes, is_text, set_by)
    select 'submitter/p' || n % 100, 'S' || n, 'r', 'k', decode(repeat('00', 32), 'hex'), 4, true, 'operator/anna'
    from generate_series(1, ${ROWS}::integer) n`.execute(db);
  const { job } = await store.jobs.create(newJob(1), pages());
  await sql`
    insert into job (id, submitter, idempotency_key, spec_digest, name, type, priority, on_failure, spec, has_inputs,
      total, namespace, staged_bytes)
    select id || n, submitter, idempotency_key || n, spec_digest, name, type, priority, on_failure, spec, has_inputs,
      total, 'team-' || n % 100, n % 2
    from job, generate_series(1, ${ROWS}::integer) n
    where seq = ${job.seq}`.execute(db);
  await sql`vacuum analyze audit, secret, job`.execute(db);
}

test('the audit, secrets and what namespaces have staged', async (t) => {
  const store = await withStore(t);
  await fill(store);
  const cases: [string, RawBuilder<unknown>, string][] = [
    ['the chain, a page', fromStatement(ROWS / 2, 500), 'audit_pkey'],
    ['the latest entries', findStatement({ limit: 50 }), 'audit_pkey'],
    ['the next page', findStatement({ before: ROWS / 2, limit: 50 }), 'audit_pkey'],
    ['of one person', findStatement({ actor: 'operator/anna', limit: 50 }), 'audit_pkey'],
    ['of a kind', findStatement({ action: 'job.', limit: 50 }), 'audit_pkey'],
    ['of an hour', findStatement({ sinceMs: 600_000_000, untilMs: 603_600_000, limit: 50 }), 'audit_at'],
    ['secrets of a job', readStatement([{ owner: 'submitter/p1', name: 'S1' }]), 'secret_pkey'],
    ['what a namespace has staged', storedBytesStatement('team-1'), 'job_staged'],
  ];
  for (const [what, statement, index] of cases) t.equal(await readBy(store, statement), index, what);
});
