import { sql } from 'kysely';
import { DEFAULT_NAMESPACE, type NamespaceRow, type NamespaceStore } from '../ports.js';
import type { Database } from './database.js';

export const storedBytesStatement = (name: string) => sql<{ bytes: number }>`
  select coalesce(sum(staged_bytes), 0) as bytes from job where namespace = ${name} and staged_bytes > 0`;

export const namespaceStore = (database: Database): NamespaceStore => ({
  list: async () => {
    const { rows } = await database.run((db) =>
      sql<Listed>`
        select n.name, n.running_max, n.queued_max, n.cpu_millis_max, n.bytes_max,
          coalesce(array_agg(m.submitter order by m.submitter) filter (where m.submitter is not null), '{}') as members
        from namespace n left join namespace_member m on m.namespace = n.name
        group by n.name
        order by n.name`.execute(db),
    );
    return rows.map(toNamespaceRow);
  },
  set: async ({ name, quotas, members, without }) => {
    // To be a member of `default` is to be a member of nothing.
    const [joining, leaving] = name === DEFAULT_NAMESPACE ? [[], [...members]] : [[...members], [...without]];
    await database.run((db) =>
      sql`
        with
        made as (
          insert into namespace (name, running_max, queued_max, cpu_millis_max, bytes_max)
          values (${name}, ${quotas.running ?? null}, ${quotas.queued ?? null}, ${quotas.cpuMillis ?? null},
            ${quotas.bytes ?? null})
          on conflict (name) do update
          set running_max = excluded.running_max, queued_max = excluded.queued_max,
            cpu_millis_max = excluded.cpu_millis_max, bytes_max = excluded.bytes_max
          returning name
        ),
        gone as (
          delete from namespace_member
          where submitter = any(${leaving}::text[]) and (namespace = ${name} or ${name === DEFAULT_NAMESPACE})
        )
        insert into namespace_member (submitter, namespace)
        select submitter, made.name from made, unnest(${joining}::text[]) as u(submitter)
        on conflict (submitter) do update set namespace = excluded.namespace`.execute(db),
    );
  },
  remove: async (name) => {
    const row = await database.run((db) =>
      db.deleteFrom('namespace').where('name', '=', name).returning('name').executeTakeFirst(),
    );
    return row !== undefined;
  },
  storedBytes: async (name) => {
    const { rows } = await database.run((db) => storedBytesStatement(name).execute(db));
    return Number(rows[0]?.bytes);
  },
});

interface Listed {
  name: string;
  running_max: number | null;
  queued_max: number | null;
  cpu_millis_max: number | null;
  bytes_max: number | null;
  members: string[];
}

const toNamespaceRow = (row: Listed): NamespaceRow => ({
  name: row.name,
  quotas: {
    running: row.running_max ?? undefined,
    queued: row.queued_max ?? undefined,
    cpuMillis: row.cpu_millis_max ?? undefined,
    bytes: row.bytes_max ?? undefined,
  },
  members: row.members,
});
