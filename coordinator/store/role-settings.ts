import { sql } from 'kysely';
import { systemCode } from '../../common/errors.js';
import type { Logger } from '../../common/log.js';
import { POOLED_PARAMETERS, SESSION_PARAMETERS } from './connection.js';
import type { Database } from './database.js';

/**
 * Behind a pooler in transaction mode no session is ours, so what every session of ours must begin with becomes a setting
 * of our role in this database. Ordinary roles may do that for themselves. Sessions that the pooler holds already go on
 * with what they have until it closes them (`server_lifetime`); nothing depends on that but the plans of hot statements.
 */
export async function settleRole(database: Database, log: Logger): Promise<void> {
  const wanted = Object.entries(SESSION_PARAMETERS).filter(([name]) => !(name in POOLED_PARAMETERS));
  const names = wanted.map(([name]) => sql.lit(name));
  const { rows } = await database.run((db) =>
    sql<{ name: string; value: string }>`
      select n.name, current_setting(n.name) as value from unnest(array[${sql.join(names)}]) as n(name)`.execute(db),
  );
  const present = new Map(rows.map(({ name, value }) => [name, value]));
  const missing = wanted.filter(([name, value]) => present.get(name) !== value);
  if (missing.length === 0) return;
  const set = missing.map(([name, value]) => `alter role %1$I in database %2$I set ${name} = ${quoted(value)}`);
  try {
    // One block is one transaction; of several coordinators that start together each has its turn.
    await database.run((db) =>
      sql
        .raw(`do $do$ begin
          perform pg_advisory_xact_lock(hashtextextended('role-settings', 0));
          ${set.map((text) => `execute format($f$${text}$f$, session_user, current_database());`).join('\n')}
        end $do$`)
        .execute(db),
    );
    log.info({ event: 'database.role-settled', settings: missing.map(([name]) => name) });
  } catch (error) {
    const cause = (error as Error).cause;
    if (systemCode(cause) !== '42501') throw error;
    log.warn(
      { event: 'database.role-unsettled', settings: Object.fromEntries(missing) },
      'the role may not change its own settings; somebody who may has to (see docs/operations.md)',
    );
  }
}

const quoted = (value: string): string => `'${value.replaceAll("'", "''")}'`;
