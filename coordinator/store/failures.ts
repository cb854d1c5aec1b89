import { MeshError, systemCode } from '../../common/errors.js';
import { READ_ONLY_SERVER } from './socket.js';

/** What the driver and the operating system call a connection that is not there. */
const UNREACHABLE = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'ECONNABORTED',
  'ENOENT',
  'ENOTFOUND',
  'EACCES',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'EPIPE',
  'ETIMEDOUT',
  'CONNECT_TIMEOUT',
  'CONNECTION_CLOSED',
  'CONNECTION_DESTROYED',
  'CONNECTION_ENDED',
]);

/**
 * admin_shutdown, crash_shutdown, cannot_connect_now, database_dropped, idle_session_timeout, too_many_connections,
 * idle_in_transaction_session_timeout, statement_completion_unknown.
 */
const GONE_STATES = new Set(['57P01', '57P02', '57P03', '57P04', '57P05', '53300', '25P03', '40003']);
/** query_canceled, by a time limit or an administrator, and lock_not_available. */
const GAVE_UP_STATES = new Set(['57014', '55P03']);
/** character_not_in_repertoire and untranslatable_character: PostgreSQL has no text with NUL in it. */
const NO_TEXT_STATES = new Set(['22021', '22P05']);
/** read_only_sql_transaction: through a pooler, which does not tell at the start of a session. */
const READ_ONLY_STATE = '25006';

/** serialization_failure and deadlock_detected: the whole transaction was undone and may be repeated. */
export const isRepeatable = (error: unknown): boolean => {
  const state = systemCode(error);
  return state === '40001' || state === '40P01';
};

/** Nothing was done: the address answers and yet does not serve. Another of the same target may. */
export const belongsElsewhere = (error: unknown): boolean => {
  const code = systemCode(error) ?? '';
  return code === READ_ONLY_SERVER || code === READ_ONLY_STATE || code === '57P03' || code === 'CONNECT_TIMEOUT';
};

/**
 * @param place host, port and database; never the password
 * @returns a MeshError: DATABASE_DOWN, DISK_FULL, USAGE or INTERNAL with the cause kept
 */
export function asStoreError(error: unknown, place: string): MeshError {
  if (error instanceof MeshError) return error;
  const code = systemCode(error) ?? '';
  const down = (why: string, hint?: string) =>
    new MeshError('DATABASE_DOWN', `the database at ${place} ${why}`, { cause: error, ...(hint ? { hint } : {}) });
  if (UNREACHABLE.has(code) || GONE_STATES.has(code) || code.startsWith('08')) return down(`is not there (${code})`);
  if (code.startsWith('28') || code === 'SASL_SIGNATURE_MISMATCH')
    return down('refuses user or password', 'check user and password in --database-url');
  if (code === READ_ONLY_STATE || code === READ_ONLY_SERVER)
    return down('is a read-only standby', 'name the primary in --database-url, or all hosts separated by commas');
  if (GAVE_UP_STATES.has(code)) return down(`gave up a statement (${code})`, 'is it overloaded, or its disk slow?');
  if (code === '3D000') return down('does not exist', 'create the database, or correct --database-url');
  if (code === '42501')
    return down('does not allow this user to work in it', 'grant the user all rights on the database and its schema');
  if (isTlsFailure(code)) {
    const why = error instanceof Error ? error.message : code;
    return down(`did not pass the TLS check (${why})`, 'see sslmode and sslrootcert in --database-url');
  }
  if (NO_TEXT_STATES.has(code))
    return new MeshError('USAGE', 'a text holds a NUL character or half a character', {
      ...{ cause: error, hint: 'nothing can be called that; remove it' },
    });
  if (code === '53100')
    return new MeshError('DISK_FULL', `the disk of the database at ${place} is full`, { cause: error });
  return new MeshError('INTERNAL', `the database at ${place} refused a statement (${code || 'no code'})`, {
    cause: error,
  });
}

const isTlsFailure = (code: string): boolean =>
  code.startsWith('ERR_TLS') || code.startsWith('ERR_SSL') || code.includes('CERT') || code.includes('SELF_SIGNED');
