import type { AuditStore } from '../ports.js';
import type { Database } from './database.js';

/** Append-only: who did what to what. */
export const auditStore = (database: Database): AuditStore => ({
  append: async (entry) => {
    await database.run((db) => db.insertInto('audit').values(entry).execute());
  },
});
