import { sql } from 'kysely';
import type { BlobStore } from '../ports.js';
import { texts } from './arrays.js';
import type { Database } from './database.js';

/** What the database knows about stored files; their bytes are on disk. */
export const blobStore = (database: Database): BlobStore => ({
  missing: async (digests) => {
    if (digests.length === 0) return [];
    const { rows } = await database.run((db) =>
      sql<{ digest: string }>`
        select g.digest from unnest(${texts(digests, (digest) => digest)}) as g(digest)
        where not exists (select from blob b where b.digest = g.digest)`.execute(db),
    );
    return rows.map((row) => row.digest);
  },
  record: async (digest, sizeBytes) => {
    await database.run((db) =>
      db
        .insertInto('blob')
        .values({ digest, size_bytes: sizeBytes })
        .onConflict((conflict) => conflict.column('digest').doUpdateSet({ last_used_at: sql<number>`now()` }))
        .execute(),
    );
  },
  unusedSince: async (ms, limit) => {
    const rows = await database.run((db) =>
      db
        .selectFrom('blob')
        .select('digest')
        .where('last_used_at', '<', ms)
        .orderBy('last_used_at')
        .limit(limit)
        .execute(),
    );
    return rows.map((row) => row.digest);
  },
  // Locked in order, so that two callers that touch the same files do not deadlock.
  touch: async (digests) => {
    if (digests.length === 0) return;
    await database.run((db) =>
      sql`
        with locked as materialized (
          select digest from blob where digest = any(${texts(digests, (digest) => digest)})
          order by digest for no key update
        )
        update blob b set last_used_at = now() from locked l where b.digest = l.digest`.execute(db),
    );
  },
  forget: async (digests) => {
    if (digests.length === 0) return;
    await database.run((db) =>
      sql`delete from blob where digest = any(${texts(digests, (digest) => digest)})`.execute(db),
    );
  },
});
