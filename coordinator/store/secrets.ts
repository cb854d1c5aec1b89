import { type Selectable, sql } from 'kysely';
import type { SealedSecret, SecretRef, SecretRow, SecretStore } from '../ports.js';
import { texts } from './arrays.js';
import type { Database } from './database.js';
import type { SecretTable } from './schema.js';

const SHOWN = ['owner', 'name', 'size_bytes', 'is_text', 'set_by', 'set_at'] as const;

const toRow = (row: Pick<Selectable<SecretTable>, (typeof SHOWN)[number]>): SecretRow => ({
  owner: row.owner,
  name: row.name,
  sizeBytes: row.size_bytes,
  isText: row.is_text,
  setBy: row.set_by,
  setAtMs: row.set_at,
});

export const readStatement = (keys: readonly SecretRef[]) => sql<Selectable<SecretTable>>`
  select s.* from secret s
  where (s.owner, s.name) in (
    select * from unnest(${texts(keys, ({ owner }) => owner)}, ${texts(keys, ({ name }) => name)})
  )`;

export const secretStore = (database: Database): SecretStore => ({
  put: async ({ owner, name, revision, keyId, sealed, sizeBytes, isText }, setBy, countMax) => {
    const { rows } = await database.run((db) =>
      sql<Selectable<SecretTable>>`
        insert into secret (owner, name, revision, key_id, sealed, size_bytes, is_text, set_by)
        select ${owner}, ${name}, ${revision}, ${keyId}, ${sealed}::bytea, ${sizeBytes}::integer, ${isText}::boolean,
          ${setBy}
        where (select count(*) from secret s where s.owner = ${owner} and s.name <> ${name}) < ${countMax}::integer
        on conflict (owner, name) do update set
          revision = excluded.revision, key_id = excluded.key_id, sealed = excluded.sealed,
          size_bytes = excluded.size_bytes, is_text = excluded.is_text, set_by = excluded.set_by, set_at = now()
        returning *`.execute(db),
    );
    return rows[0] && toRow(rows[0]);
  },
  list: async (owners) => {
    const rows = await database.run((db) => {
      const select = db.selectFrom('secret').select(SHOWN).orderBy('name').orderBy('owner');
      return (owners ? select.where('owner', 'in', owners) : select).execute();
    });
    return rows.map(toRow);
  },
  remove: async ({ owner, name }) => {
    const row = await database.run((db) =>
      db.deleteFrom('secret').where('owner', '=', owner).where('name', '=', name).returning('name').executeTakeFirst(),
    );
    return row !== undefined;
  },
  read: async (keys) => {
    if (keys.length === 0) return [];
    const { rows } = await database.run((db) => readStatement(keys).execute(db));
    return rows.map(
      (row): SealedSecret => ({
        owner: row.owner,
        name: row.name,
        revision: row.revision,
        keyId: row.key_id,
        sealed: row.sealed,
        sizeBytes: row.size_bytes,
        isText: row.is_text,
      }),
    );
  },
});
