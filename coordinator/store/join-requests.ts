import type { Selectable } from 'kysely';
import type { Clock } from '../../common/clock.js';
import type { JoinRequestRow, JoinRequestStore } from '../ports.js';
import type { Database } from './database.js';
import type { JoinRequestTable } from './schema.js';

const toRow = (row: Selectable<JoinRequestTable>): JoinRequestRow => ({
  publicKeyDigest: row.public_key_digest,
  tokenId: row.token_id,
  name: row.name,
  csr: row.csr,
  address: row.address,
  requestedAtMs: row.requested_at,
  expiresAtMs: row.expires_at,
  refusedBy: row.refused_by ?? undefined,
});

/** Times are the coordinator's wall clock, which also stamped them. */
export const joinRequestStore = (database: Database, clock: Clock): JoinRequestStore => ({
  waiting: async () => {
    const rows = await database.run((db) =>
      db
        .selectFrom('join_request')
        .selectAll()
        .where('refused_by', 'is', null)
        .where('expires_at', '>', clock.wallMs())
        .orderBy('requested_at')
        .orderBy('public_key_digest')
        .execute(),
    );
    return rows.map(toRow);
  },
  get: async (tokenId, publicKeyDigest) => {
    const row = await database.run((db) =>
      db
        .selectFrom('join_request')
        .selectAll()
        .where('public_key_digest', '=', publicKeyDigest)
        .where('token_id', '=', tokenId)
        .where('expires_at', '>', clock.wallMs())
        .executeTakeFirst(),
    );
    return row && toRow(row);
  },
  record: async (row) => {
    await database.run((db) =>
      db
        .deleteFrom('join_request')
        .where((e) =>
          e.or([
            e('expires_at', '<=', clock.wallMs()),
            e.and([e('public_key_digest', '=', row.publicKeyDigest), e('token_id', '!=', row.tokenId)]),
          ]),
        )
        .execute(),
    );
    const inserted = await database.run((db) =>
      db
        .insertInto('join_request')
        .values({
          public_key_digest: row.publicKeyDigest,
          token_id: row.tokenId,
          name: row.name,
          csr: row.csr,
          address: row.address,
          requested_at: row.requestedAtMs,
          expires_at: row.expiresAtMs,
        })
        .onConflict((conflict) => conflict.doNothing())
        .returning('name')
        .executeTakeFirst(),
    );
    if (inserted) return true;
    // The same machine asked twice at a moment, or another one was here first under the name.
    const own = await database.run((db) =>
      db
        .selectFrom('join_request')
        .select('name')
        .where('public_key_digest', '=', row.publicKeyDigest)
        .executeTakeFirst(),
    );
    return own !== undefined;
  },
  refuse: async (publicKeyDigest, actor, expiresAtMs) => {
    const row = await database.run((db) =>
      db
        .updateTable('join_request')
        .set({ refused_by: actor, expires_at: expiresAtMs })
        .where('public_key_digest', '=', publicKeyDigest)
        .where('refused_by', 'is', null)
        .where('expires_at', '>', clock.wallMs())
        .returning('name')
        .executeTakeFirst(),
    );
    return row !== undefined;
  },
  forget: async (publicKeyDigest) => {
    await database.run((db) =>
      db.deleteFrom('join_request').where('public_key_digest', '=', publicKeyDigest).execute(),
    );
  },
});
