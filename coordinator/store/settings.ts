import { MeshError } from '../../common/errors.js';
import type { SettingStore } from '../ports.js';
import type { Database } from './database.js';

export const settingStore = (database: Database): SettingStore => {
  const get = async (key: string): Promise<string | undefined> => {
    const row = await database.run((db) =>
      db.selectFrom('setting').select('value').where('key', '=', key).executeTakeFirst(),
    );
    return row?.value;
  };
  return {
    get,
    claim: async (key, value) => {
      await database.run((db) =>
        db
          .insertInto('setting')
          .values({ key, value })
          .onConflict((conflict) => conflict.doNothing())
          .execute(),
      );
      const holds = await get(key);
      if (holds === undefined) throw new MeshError('INTERNAL', `the setting ${key} vanished while it was claimed`);
      return holds;
    },
    release: async (key) => {
      await database.run((db) => db.deleteFrom('setting').where('key', '=', key).execute());
    },
  };
};
