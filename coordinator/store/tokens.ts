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
  spend: async (id, nowMs) => {
    const row = await database.run((db) =>
      db
        .updateTable('join_token')
        .set({ uses_left: sql`uses_left - 1` })
        .where('id', '=', id)
        .where('uses_left', '>', 0)
        .where('expires_at', '>', nowMs)
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
