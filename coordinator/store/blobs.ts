import { sql } from 'kysely';
import { Batcher } from '../../common/batcher.js';
import type { BlobStore } from '../ports.js';
import { bigints, texts } from './arrays.js';
import type { Database } from './database.js';

/** Submissions that come together ask together. */
const TOGETHER_MAX = 100;

interface Use {
  digests: readonly string[];
  resolve: (sizes: Map<string, number>) => void;
  reject: (error: unknown) => void;
}

/** What the database knows about stored files; their bytes are on disk, or in `blob_content`. */
export function blobStore(database: Database): BlobStore {
  const uses = new Batcher<Use>({
    itemsMax: TOGETHER_MAX,
    flush: async (asked) => {
      const sizes = await use(database, [...new Set(asked.flatMap(({ digests }) => digests))]);
      for (const { digests, resolve } of asked)
        resolve(
          new Map(digests.flatMap((digest) => (sizes.has(digest) ? [[digest, sizes.get(digest) as number]] : []))),
        );
    },
    onError: (error, asked) => asked.forEach(({ reject }) => reject(error)),
  });
  return {
    ...others(database),
    use: (digests) => {
      if (digests.length === 0) return Promise.resolve(new Map());
      return new Promise((resolve, reject) => uses.add({ digests, resolve, reject }));
    },
  };
}

const others = (database: Database): Omit<BlobStore, 'use'> => ({
  sizes: async (digests) => {
    if (digests.length === 0) return new Map();
    const { rows } = await database.run((db) =>
      sql<Sized>`
        select digest, size_bytes as "sizeBytes" from blob
        where digest = any(${texts(digests, (digest) => digest)})`.execute(db),
    );
    return sizesOf(rows);
  },
  record: async (blobs) => {
    if (blobs.length === 0) return;
    const distinct = [...new Map(blobs.map((blob) => [blob.digest, blob])).values()];
    await database.run((db) =>
      sql`
        insert into blob (digest, size_bytes)
        select * from unnest(${texts(distinct, (blob) => blob.digest)}, ${bigints(distinct, (blob) => blob.sizeBytes)})
          as u(digest, size_bytes) order by digest
        on conflict (digest) do update set last_used_at = now()`.execute(db),
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
  forget: async (digests) => {
    if (digests.length === 0) return;
    await database.run((db) =>
      sql`
        with content as (delete from blob_content where digest = any(${texts(digests, (digest) => digest)}))
        delete from blob where digest = any(${texts(digests, (digest) => digest)})`.execute(db),
    );
  },
});

/**
 * Locked in order, so that two callers that use the same files do not deadlock. Many jobs use the same file at the same
 * time; if each wrote that, each would wait for the one before it.
 */
async function use(database: Database, digests: readonly string[]): Promise<Map<string, number>> {
  const given = texts(digests, (digest) => digest);
  const { rows } = await database.run((db) =>
    sql<Sized>`
      with locked as materialized (
        select digest from blob
        where digest = any(${given}) and last_used_at < now() - interval '1 hour'
        order by digest for no key update
      ),
      used as (update blob b set last_used_at = now() from locked l where b.digest = l.digest)
      select digest, size_bytes as "sizeBytes" from blob where digest = any(${given})`.execute(db),
  );
  return sizesOf(rows);
}

interface Sized {
  digest: string;
  sizeBytes: number;
}

const sizesOf = (rows: readonly Sized[]): Map<string, number> =>
  new Map(rows.map(({ digest, sizeBytes }) => [digest, Number(sizeBytes)]));
