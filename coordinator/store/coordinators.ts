import { sql } from 'kysely';
import type { CoordinatorRow, CoordinatorStore } from '../ports.js';
import { texts } from './arrays.js';
import type { Database } from './database.js';

/** A coordinator that was not seen for this long is gone for good. */
const FORGET_AFTER = '1 day';

/** Rows that coordinators keep of themselves. Ages are by the database's clock, which they share. */
export const coordinatorStore = (database: Database): CoordinatorStore => ({
  announce: async ({ id, name, addresses, version, trustGeneration }) => {
    await database.run((db) =>
      sql`
        with forgotten as (
          delete from coordinator where id <> ${id} and seen_at < now() - ${sql.lit(FORGET_AFTER)}::interval
        )
        insert into coordinator (id, name, addresses, version, trust_generation)
        values (${id}, ${name}, ${texts(addresses, (address) => address)}, ${version}, ${trustGeneration})
        on conflict (id) do update set
          name = excluded.name, addresses = excluded.addresses, version = excluded.version, seen_at = now(),
          trust_generation = excluded.trust_generation`.execute(db),
    );
  },
  list: async (maxAgeMs) => {
    const { rows } = await database.run((db) =>
      sql<CoordinatorRow & { ageMs: number; leader: boolean }>`
        select c.id, c.name, c.addresses, c.version, c.trust_generation as "trustGeneration", exists (select from leader l where l.holder = c.id) as leader,
          greatest(0, extract(epoch from now() - c.seen_at) * 1000)::float8 as "ageMs"
        from coordinator c
        where c.seen_at > now() - ${maxAgeMs}::float8 * interval '1 millisecond'
        order by c.name, c.id`.execute(db),
    );
    return rows;
  },
  withdraw: async (id) => {
    await database.run((db) => db.deleteFrom('coordinator').where('id', '=', id).execute());
  },
});
