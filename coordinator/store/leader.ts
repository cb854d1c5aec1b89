import { sql } from 'kysely';
import type { LeaderStore } from '../ports.js';
import type { Database } from './database.js';

/** The leader's lease: one row, moved by compare-and-set. Time is the callers' business, on their monotonic clocks. */
export const leaderStore = (database: Database): LeaderStore => ({
  read: () => database.run((db) => db.selectFrom('leader').select(['epoch', 'holder', 'renewals']).executeTakeFirst()),
  take: async (seen, holder) => {
    const row = await database.run((db) =>
      seen === undefined
        ? db
            .insertInto('leader')
            .values({ epoch: 1, holder })
            .onConflict((conflict) => conflict.doNothing())
            .returning('epoch')
            .executeTakeFirst()
        : db
            .updateTable('leader')
            .set({ epoch: seen.epoch + 1, holder, renewals: 0 })
            .where('epoch', '=', seen.epoch)
            .where('renewals', '=', seen.renewals)
            .where('holder', '=', seen.holder)
            .returning('epoch')
            .executeTakeFirst(),
    );
    return row?.epoch;
  },
  renew: async (epoch) => {
    const row = await database.run((db) =>
      db
        .updateTable('leader')
        .set({ renewals: sql`renewals + 1` })
        .where('epoch', '=', epoch)
        .returning('epoch')
        .executeTakeFirst(),
    );
    return row !== undefined;
  },
  release: async (epoch) => {
    await database.run((db) => db.updateTable('leader').set({ holder: '' }).where('epoch', '=', epoch).execute());
  },
});
