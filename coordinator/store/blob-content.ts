import { sql } from 'kysely';
import type { BlobContentStore } from '../ports.js';
import { texts } from './arrays.js';
import type { Database } from './database.js';

/** Content that belongs to no file and is older is of an upload that was broken off. */
const ORPHAN_AGE = '1 day';
const SWEEP_MAX = 100;

/** Bytes of stored files in parts. Part 0 is written last, so it says that the others are there. */
export const blobContentStore = (database: Database): BlobContentStore => ({
  absent: async (digests) => {
    if (digests.length === 0) return [];
    const { rows } = await database.run((db) =>
      sql<{ digest: string }>`
        select g.digest from unnest(${texts(digests, (digest) => digest)}) as g(digest)
        where not exists (select from blob_content c where c.digest = g.digest and c.part = 0)`.execute(db),
    );
    return rows.map((row) => row.digest);
  },
  // Another upload of the same file writes the same bytes; touched, so that a sweep does not take it for an orphan.
  put: async (digest, part, bytes) => {
    await database.run((db) =>
      sql`
        insert into blob_content (digest, part, bytes) values (${digest}, ${part}, ${bytes})
        on conflict (digest, part) do update set created_at = now()`.execute(db),
    );
  },
  get: async (digest, part) => {
    const row = await database.run((db) =>
      db
        .selectFrom('blob_content')
        .select('bytes')
        .where('digest', '=', digest)
        .where('part', '=', part)
        .executeTakeFirst(),
    );
    return row?.bytes;
  },
});

/** Removes what uploads left that a crash cut off, a bounded number of files each time. */
export async function sweepBlobContent(database: Database): Promise<void> {
  await database.run((db) =>
    sql`
      delete from blob_content c where c.created_at < now() - ${sql.lit(ORPHAN_AGE)}::interval and c.digest in (
        select distinct o.digest from blob_content o
        where o.created_at < now() - ${sql.lit(ORPHAN_AGE)}::interval
          and not exists (select from blob b where b.digest = o.digest)
        limit ${sql.lit(SWEEP_MAX)}
      )`.execute(db),
  );
}
