import type { Selectable } from 'kysely';
import { MeshError } from '../../common/errors.js';
import type { TrustRow, TrustStore } from '../ports.js';
import type { Database } from './database.js';
import type { TrustTable } from './schema.js';

const toTrustRow = (row: Selectable<TrustTable>): TrustRow => ({
  generation: row.generation,
  phase: row.phase,
  root: row.root,
  nextRoot: row.next_root ?? undefined,
  nextRootEndorsement: row.next_root_endorsement ?? undefined,
  startedAtMs: row.started_at ?? undefined,
});

export const trustStore = (database: Database): TrustStore => {
  const read = async (): Promise<TrustRow | undefined> => {
    const row = await database.run((db) => db.selectFrom('trust').selectAll().executeTakeFirst());
    return row && toTrustRow(row);
  };
  return {
    read,
    claim: async (root) => {
      await database.run((db) =>
        db
          .insertInto('trust')
          .values({ root, next_root: null, next_root_endorsement: null, started_at: null })
          .onConflict((conflict) => conflict.doNothing())
          .execute(),
      );
      const held = await read();
      if (!held) throw new MeshError('INTERNAL', 'the root of the mesh vanished while it was claimed');
      return held;
    },
    change: async (seen, { phase, root, nextRoot, nextRootEndorsement, startedAtMs }) => {
      const changed = await database.run((db) =>
        db
          .updateTable('trust')
          .set({
            ...{ generation: seen + 1, phase, root },
            next_root: nextRoot ?? null,
            next_root_endorsement: nextRootEndorsement ?? null,
            started_at: startedAtMs ?? null,
          })
          .where('generation', '=', seen)
          .returning('generation')
          .execute(),
      );
      return changed.length > 0;
    },
  };
};
