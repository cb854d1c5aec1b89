import { sql } from 'kysely';
import type { AuditEntry } from '../../common/audit-chain.js';
import type { AuditQuery, AuditStore } from '../ports.js';
import type { Database } from './database.js';

/** Times to the microsecond, as the chain has them; a `Date` would lose three digits. */
const COLUMNS = sql<AuditEntry>`
  seq, (extract(epoch from at) * 1000000)::bigint as "atUs", actor, address, certificate, action, target, detail,
  encode(previous, 'hex') as previous, encode(hash, 'hex') as hash`;

/** A prefix when it ends with the separator, otherwise the whole. */
const matches = (column: 'actor' | 'action', wanted: string) =>
  wanted.endsWith('/') || wanted.endsWith('.')
    ? sql`starts_with(${sql.ref(column)}, ${wanted})`
    : sql`${sql.ref(column)} = ${wanted}`;

export const fromStatement = (seq: number, limit: number) =>
  sql<AuditEntry>`select ${COLUMNS} from audit where seq >= ${seq} order by seq limit ${limit}`;

export function findStatement({ actor, action, target, sinceMs, untilMs, before, limit }: AuditQuery) {
  const conditions = [
    ...(actor === undefined ? [] : [matches('actor', actor)]),
    ...(action === undefined ? [] : [matches('action', action)]),
    ...(target === undefined ? [] : [sql`target = ${target}`]),
    ...(sinceMs === undefined ? [] : [sql`at >= ${sinceMs}::timestamptz`]),
    ...(untilMs === undefined ? [] : [sql`at < ${untilMs}::timestamptz`]),
    ...(before === undefined ? [] : [sql`seq < ${before}`]),
  ];
  const where = conditions.length === 0 ? sql`` : sql`where ${sql.join(conditions, sql` and `)}`;
  return sql<AuditEntry>`select ${COLUMNS} from audit ${where} order by seq desc limit ${limit}`;
}

/** Who did what to what: a chain that only grows (migrations/0007_audit_chain.sql). */
export const auditStore = (database: Database): AuditStore => ({
  append: async (entries, again) => {
    const given = entries.map(({ atUs, ...rest }) => ({ at_us: atUs, ...rest }));
    const { rows } = await database.run((db) =>
      sql<{ seq: number; hash: string }>`
        select head_seq as seq, encode(head_hash, 'hex') as hash
        from append_audit(${JSON.stringify(given)}::text::jsonb, ${again}::boolean)`.execute(db),
    );
    return rows[0] as { seq: number; hash: string };
  },
  from: async (seq, limit) => (await database.run((db) => fromStatement(seq, limit).execute(db))).rows,
  find: async (query) => (await database.run((db) => findStatement(query).execute(db))).rows,
});
