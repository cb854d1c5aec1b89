import { type Selectable, sql } from 'kysely';
import { Capabilities } from '../../proto/gen/mesh/v1/common.js';
import type { NodeRow, NodeStore } from '../ports.js';
import { Batcher } from '../../common/batcher.js';
import type { Clock } from '../../common/clock.js';
import { toMeshError } from '../../common/errors.js';
import { bigints, doubles, ints, texts } from './arrays.js';
import type { Database } from './database.js';
import type { NodeTable } from './schema.js';

const toNodeRow = (row: Selectable<NodeTable>): NodeRow => ({
  seq: row.seq,
  id: row.id,
  name: row.name,
  capabilities: Capabilities.fromPartial(row.capabilities as Capabilities),
  version: row.version,
  bootId: row.boot_id,
  reliability: row.reliability,
  finished: row.finished,
  draining: row.draining,
  revoked: row.revoked,
  removed: row.removed,
  certificateSerial: row.certificate_serial,
  certificateFingerprint: row.certificate_fingerprint,
  certificateExpiresAtMs: row.certificate_expires_at,
  lastHeartbeatAtMs: row.last_heartbeat_at ?? undefined,
});

type NewNode = Parameters<NodeStore['upsert']>[0];

/** Of nodes with different names; in any order. */
async function upsertAll(database: Database, nodes: readonly NewNode[]): Promise<NodeRow[]> {
  const { rows } = await database.run((db) =>
    sql<Selectable<NodeTable>>`
      insert into node (
        id, name, capabilities, version, boot_id, certificate_serial, certificate_fingerprint, certificate_expires_at
      )
      select u.id, u.name, u.capabilities::jsonb, u.version, u.boot_id, u.serial, u.fingerprint,
        to_timestamp(u.expires_ms / 1000)
      from unnest(
        ${texts(nodes, ({ id }) => id)}, ${texts(nodes, ({ name }) => name)},
        ${texts(nodes, ({ capabilities }) => JSON.stringify(capabilities))}, ${texts(nodes, ({ version }) => version)},
        ${texts(nodes, ({ bootId }) => bootId)}, ${texts(nodes, ({ certificateSerial }) => certificateSerial)},
        ${texts(nodes, ({ certificateFingerprint }) => certificateFingerprint)},
        ${doubles(nodes, ({ certificateExpiresAtMs }) => certificateExpiresAtMs)}
      ) as u(id, name, capabilities, version, boot_id, serial, fingerprint, expires_ms)
      on conflict (name) do update set
        capabilities = excluded.capabilities, version = excluded.version, boot_id = excluded.boot_id,
        certificate_serial = excluded.certificate_serial, certificate_fingerprint = excluded.certificate_fingerprint,
        certificate_expires_at = excluded.certificate_expires_at, removed = false
      returning *`.execute(db),
  );
  return rows.map(toNodeRow);
}

interface Arrival {
  node: NewNode;
  resolve: (row: NodeRow) => void;
  reject: (error: unknown) => void;
}

/** Rows of one statement. */
const ARRIVALS_MAX = 500;

/**
 * Nodes that come while others are being written are written together: after a power cut a whole mesh returns within
 * seconds. When the database refuses what is in one of them, each is asked for by itself, so that it spoils no other.
 */
function gathered(write: (nodes: readonly NewNode[]) => Promise<NodeRow[]>): NodeStore['upsert'] {
  const settle = async (arrivals: readonly Arrival[]): Promise<void> => {
    const rows = new Map((await write(arrivals.map(({ node }) => node))).map((row) => [row.name, row]));
    for (const { node, resolve } of arrivals) resolve(rows.get(node.name) as NodeRow);
  };
  const batcher = new Batcher<Arrival>({
    itemsMax: ARRIVALS_MAX,
    flush: async (arrivals) => {
      // No statement may change a row twice: the earlier of one name are written first.
      const latest = new Map(arrivals.map((arrival) => [arrival.node.name, arrival]));
      for (const earlier of arrivals) if (latest.get(earlier.node.name) !== earlier) await settle([earlier]);
      await settle([...latest.values()]);
    },
    onError: (error, arrivals) => {
      if (arrivals.length === 1 || toMeshError(error).code === 'DATABASE_DOWN')
        return arrivals.forEach(({ reject }) => reject(error));
      void (async () => {
        // In their order: of two of one name the later one counts.
        for (const arrival of arrivals) await settle([arrival]).catch(arrival.reject);
      })();
    },
  });
  return (node) => new Promise((resolve, reject) => batcher.add({ node, resolve, reject }));
}

export const nodeStore = (database: Database, clock: Clock): NodeStore => ({
  all: async () => {
    const rows = await database.run((db) => db.selectFrom('node').selectAll().orderBy('seq').execute());
    return rows.map(toNodeRow);
  },
  revokedNames: async () => {
    const rows = await database.run((db) => db.selectFrom('node').select('name').where('revoked', '=', true).execute());
    return rows.map(({ name }) => name);
  },
  upsert: gathered((nodes) => upsertAll(database, nodes)),
  setDraining: async (name, draining) => {
    const row = await database.run((db) =>
      db
        .updateTable('node')
        .set({ draining })
        .where('name', '=', name)
        .where('removed', '=', false)
        .returningAll()
        .executeTakeFirst(),
    );
    return row && toNodeRow(row);
  },
  setRevoked: async (name, revoked) => {
    await database.run((db) => db.updateTable('node').set({ revoked }).where('name', '=', name).execute());
  },
  remove: async (name) => {
    const forgotten = { removed: true, draining: false, revoked: false };
    const row = await database.run((db) =>
      db.updateTable('node').set(forgotten).where('name', '=', name).returningAll().executeTakeFirst(),
    );
    return row && toNodeRow(row);
  },
  revokeUncertified: async (names) => {
    const { rows } = await database.run((db) =>
      sql<{ name: string }>`
        update node n set revoked = true
        where n.name = any (${[...names]}::text[]) and not n.removed and not exists (
          select from certificate c
          where c.role = 'agent' and c.name = n.name and c.revoked_at is null
            and c.not_after > ${clock.wallMs()}::timestamptz
        )
        returning n.name`.execute(db),
    );
    return rows.map(({ name }) => name);
  },
  saveVitals: async (rows) => {
    if (rows.length === 0) return;
    const sorted = [...rows].sort((a, b) => a.seq - b.seq);
    await database.run((db) =>
      sql`
        update node n set
          reliability = v.reliability, finished = v.finished, last_heartbeat_at = to_timestamp(v.heartbeat_ms / 1000)
        from unnest(
          ${ints(sorted, (v) => v.seq)}, ${doubles(sorted, (v) => v.reliability)},
          ${bigints(sorted, (v) => v.finished)}, ${doubles(sorted, (v) => v.lastHeartbeatAtMs)}
        ) as v(seq, reliability, finished, heartbeat_ms)
        where n.seq = v.seq`.execute(db),
    );
  },
});
