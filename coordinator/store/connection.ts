import { readFileSync } from 'node:fs';
import type { ConnectionOptions } from 'node:tls';
import { MeshError, systemCode } from '../../common/errors.js';

/** How to reach a PostgreSQL that needs no URL, such as the embedded one. */
export interface Connection {
  /** A host name, an address, or the directory of a Unix socket. */
  host: string;
  port: number;
  user: string;
  password: string;
  database: string;
}

export type Address = { path: string } | { host: string; port: number };

export interface TlsTerms {
  /** Whether to ask the server for TLS, and whether to go on when it declines. */
  mode: 'off' | 'prefer' | 'on';
  options: ConnectionOptions;
}

export interface Target {
  /** Tried in turn. */
  addresses: Address[];
  /** Undefined: as libpq, from the environment or the system. */
  user: string | undefined;
  password: string | undefined;
  database: string | undefined;
  tls: TlsTerms;
  /** The URL's remaining parameters, such as `options`; the server takes them. */
  parameters: Record<string, string>;
  /** Hosts, ports and database for messages. */
  place: string;
  /** Set when the connection leaves this machine without a verified certificate. */
  warning: string | undefined;
}

/**
 * Parameters every connection starts with. Those on plans keep the hot statements from flipping: they join `unnest(…)`
 * with `task`, and with stale statistics the planner has chosen hash joins or scans that were 70 times slower. Without
 * those, and with the conditions as leading.ts writes them, what is left is a nested loop with the primary key inside.
 * As there is only that plan, a prepared statement is planned once and not at each execution, which saves more than a
 * millisecond each time. Every other statement here is a lookup by index too, so all share one pool.
 * coordinator/store/plans.test.ts asserts it.
 */
export const SESSION_PARAMETERS: Readonly<Record<string, string>> = {
  enable_hashjoin: 'off',
  enable_mergejoin: 'off',
  enable_seqscan: 'off',
  plan_cache_mode: 'force_generic_plan',
  enable_bitmapscan: 'off',
  enable_material: 'off',
  jit: 'off',
  max_parallel_workers_per_gather: '0',
  default_transaction_isolation: 'read committed',
  // Shorter than the leader's lease: a paused coordinator must not hold locks that its successor needs.
  idle_in_transaction_session_timeout: '5s',
  application_name: 'planetary-mesh',
  TimeZone: 'UTC',
  DateStyle: 'ISO, YMD',
};

/** Those of them that every pooler keeps for its clients; the others it would refuse or forget. */
export const POOLED_PARAMETERS: Readonly<Record<string, string>> = {
  application_name: 'planetary-mesh',
  TimeZone: 'UTC',
  DateStyle: 'ISO, YMD',
};

/** Parameters of libpq that are translated here, or mean nothing to us. */
const CLIENT_PARAMETERS = [
  ...['sslmode', 'sslrootcert', 'sslcert', 'sslkey', 'sslsni', 'channel_binding', 'gssencmode'],
  ...['host', 'port', 'connect_timeout', 'target_session_attrs'],
];
/** Values of target_session_attrs that mean what is done anyway: only a server that takes writes serves. */
const WRITABLE = ['any', 'read-write', 'primary'];

const DEFAULT_PORT = 5432;
const SOCKET_NAME = '.s.PGSQL.';
const URL_HINT = 'write it like postgres://user:password@host:5432/database?sslmode=verify-full';

const addressOf = (host: string, port: number): Address =>
  host.startsWith('/') ? { path: `${host}/${SOCKET_NAME}${port}` } : { host, port };

export function fromConnection(connection: Connection): Target {
  const { host, port, user, password, database } = connection;
  return {
    ...{ user, password, database, warning: undefined, parameters: {} },
    addresses: [addressOf(host, port)],
    tls: { mode: 'off', options: {} },
    place: host.startsWith('/') ? `${host}/${database}` : `${host}:${port}/${database}`,
  };
}

/**
 * Translates a `postgres://` URL; several `host:port` separated by commas are tried in turn, and a standby among them is
 * passed by (socket.ts), so after a fail-over the new primary is found. TLS follows libpq:
 * `sslmode=disable`, `prefer` (default), `require` (encrypted, nobody verified; with `sslrootcert` as `verify-ca`),
 * `verify-ca`, `verify-full`. The driver's own `require` turns verification off and it knows no `verify-ca`, hence this.
 * `sslrootcert` names a PEM file; without one, the roots Node.js ships count.
 *
 * @throws MeshError BAD_CONFIG when the URL or a file it names is wrong; the password is never in the message
 */
export function fromUrl(text: string): Target {
  const urls = parseUrls(text);
  const url = urls[0] as URL;
  const value = (name: string) => url.searchParams.get(name) ?? undefined;
  const wanted = value('target_session_attrs');
  if (wanted !== undefined && !WRITABLE.includes(wanted))
    throw new MeshError('BAD_CONFIG', `--database-url: target_session_attrs=${wanted} cannot be used`, {
      hint: 'leave it out; of several hosts the one that takes writes is found',
    });
  const addresses = value('host')
    ? [addressOf(value('host') as string, Number(value('port') ?? DEFAULT_PORT))]
    : urls.map((one) => addressOf(hostOf(one), Number(one.port || DEFAULT_PORT)));
  const local = addresses.every(isLocal);
  const tls = addresses.every((address) => 'path' in address)
    ? { mode: 'off' as const, options: {} }
    : tlsTerms(value('sslmode') ?? 'prefer', value('sslrootcert'), value('sslcert'), value('sslkey'));
  const database = decodeURIComponent(url.pathname.slice(1)) || undefined;
  const place = addresses.map((address) => ('path' in address ? address.path : `${address.host}:${address.port}`));
  const verified = tls.mode === 'on' && tls.options.rejectUnauthorized !== false;
  return {
    addresses,
    user: decodeURIComponent(url.username) || undefined,
    password: decodeURIComponent(url.password) || undefined,
    database,
    tls,
    parameters: Object.fromEntries([...url.searchParams].filter(([name]) => !CLIENT_PARAMETERS.includes(name))),
    place: `${place.join(',')}/${database ?? ''}`,
    warning:
      local || verified ? undefined : `the database at ${place.join(',')} is not verified; use sslmode=verify-full`,
  };
}

/** IPv6 addresses come in brackets. */
const hostOf = (url: URL): string => decodeURIComponent(url.hostname).replace(/^\[(.*)\]$/, '$1') || 'localhost';

const isLocal = (address: Address): boolean =>
  'path' in address || ['localhost', '::1'].includes(address.host) || address.host.startsWith('127.');

/** One URL per host of the list. */
function parseUrls(text: string): URL[] {
  const parts = /^(postgres(?:ql)?:\/\/(?:[^@/?#]*@)?)([^/?#]*)(.*)$/.exec(text);
  if (!parts) throw new MeshError('BAD_CONFIG', '--database-url is not a postgres:// URL', { hint: URL_HINT });
  const [, before, hosts = '', after] = parts;
  try {
    // libpq takes `postgres://user@/database?host=/socket`; a URL with a user and no host does not parse.
    return hosts.split(',').map((host) => new URL(`${before}${host || 'localhost'}${after}`));
  } catch {
    throw new MeshError('BAD_CONFIG', '--database-url does not parse', { hint: URL_HINT });
  }
}

function tlsTerms(
  mode: string,
  root: string | undefined,
  certificate: string | undefined,
  key: string | undefined,
): TlsTerms {
  const files: ConnectionOptions = {
    ...(root && root !== 'system' ? { ca: readFor('sslrootcert', root) } : {}),
    ...(certificate ? { cert: readFor('sslcert', certificate) } : {}),
    ...(key ? { key: readFor('sslkey', key) } : {}),
  };
  const anyName = { ...files, rejectUnauthorized: true, checkServerIdentity: () => undefined };
  switch (mode) {
    case 'disable':
      return { mode: 'off', options: {} };
    case 'allow':
    case 'prefer':
      return { mode: 'prefer', options: { ...files, rejectUnauthorized: false } };
    case 'require':
      return { mode: 'on', options: root ? anyName : { ...files, rejectUnauthorized: false } };
    case 'verify-ca':
      return { mode: 'on', options: anyName };
    case 'verify-full':
      return { mode: 'on', options: { ...files, rejectUnauthorized: true } };
    default:
      throw new MeshError('BAD_CONFIG', `--database-url has the unknown sslmode "${mode}"`, {
        hint: 'use disable, prefer, require, verify-ca or verify-full',
      });
  }
}

function readFor(name: string, path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new MeshError('BAD_CONFIG', `${name} of --database-url: cannot read ${path} (${systemCode(error)})`, {
      cause: error,
    });
  }
}
