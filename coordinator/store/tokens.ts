import { type Selectable, sql } from 'kysely';
import type { TokenRow, TokenStore } from '../ports.js';
import { toCertificateRow } from './certificates.js';
import type { Database } from './database.js';
import type { JoinTokenTable } from './schema.js';

const toTokenRow = (row: Selectable<JoinTokenTable>): TokenRow => ({
  id: row.id,
  secretDigest: row.secret_digest,
  role: row.role,
  name: row.name ?? undefined,
  replace: row.replace,
  usesLeft: row.uses_left,
  spentBy: row.spent_by,
  expiresAtMs: row.expires_at,
  createdBy: row.created_by,
});

export const tokenStore = (database: Database): TokenStore => ({
  create: async (row) => {
    await database.run((db) =>
      db
        .insertInto('join_token')
        .values({
          id: row.id,
          secret_digest: row.secretDigest,
          role: row.role,
          name: row.name ?? null,
          replace: row.replace,
          uses_left: row.usesLeft,
          expires_at: row.expiresAtMs,
          created_by: row.createdBy,
        })
        .execute(),
    );
  },
  list: async () => {
    const rows = await database.run((db) => db.selectFrom('join_token').selectAll().orderBy('created_at').execute());
    return rows.map(toTokenRow);
  },
  revoke: async (id) => {
    const row = await database.run((db) =>
      db.deleteFrom('join_token').where('id', '=', id).returning('id').executeTakeFirst(),
    );
    return row !== undefined;
  },
  get: async (id) => {
    const row = await database.run((db) =>
      db.selectFrom('join_token').selectAll().where('id', '=', id).executeTakeFirst(),
    );
    return row && toTokenRow(row);
  },
  // The guard is checked again on the newest version of the row after waiting for a rival, so uses are never overdrawn.
  spend: async (id, purchase, nowMs) => {
    const isRepeat = sql<boolean>`${purchase}::text = any(spent_by)`;
    const row = await database.run((db) =>
      db
        .updateTable('join_token')
        .set({
          uses_left: sql`case when ${isRepeat} then uses_left else uses_left - 1 end`,
          spent_by: sql`case when ${isRepeat} then spent_by else array_append(spent_by, ${purchase}::text) end`,
        })
        .where('id', '=', id)
        .where('expires_at', '>', nowMs)
        .where((e) => e.or([e('uses_left', '>', 0), isRepeat]))
        .returning('id')
        .executeTakeFirst(),
    );
    return row !== undefined;
  },
  boughtWith: async (id, publicKeyDigest) => {
    const row = await database.run((db) =>
      db
        .selectFrom('certificate')
        .selectAll()
        .where('token_id', '=', id)
        .where('public_key_digest', '=', publicKeyDigest)
        .orderBy('not_before', 'desc')
        .limit(1)
        .executeTakeFirst(),
    );
    return row && toCertificateRow(row);
  },
});
