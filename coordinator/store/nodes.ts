import { type Selectable, sql } from 'kysely';
import { Capabilities } from '../../proto/gen/mesh/v1/common.js';
import type { NodeRow, NodeStore } from '../ports.js';
import { bigints, doubles, ints } from './arrays.js';
import type { Clock } from '../../common/clock.js';
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

export const nodeStore = (database: Database, clock: Clock): NodeStore => ({
  all: async () => {
    const rows = await database.run((db) => db.selectFrom('node').selectAll().orderBy('seq').execute());
    return rows.map(toNodeRow);
  },
  upsert: async (node) => {
    const present = {
      capabilities: node.capabilities,
      version: node.version,
      boot_id: node.bootId,
      certificate_serial: node.certificateSerial,
      certificate_fingerprint: node.certificateFingerprint,
      certificate_expires_at: node.certificateExpiresAtMs,
    };
    const row = await database.run((db) =>
      db
        .insertInto('node')
        .values({ id: node.id, name: node.name, ...present })
        .onConflict((conflict) => conflict.column('name').doUpdateSet({ ...present, removed: false }))
        .returningAll()
        .executeTakeFirstOrThrow(),
    );
    return toNodeRow(row);
  },
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
