import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
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

export interface Target {
  /** For the driver: the URL without what is translated below. */
  url: string | undefined;
  host: string | undefined;
  port: number | undefined;
  user: string | undefined;
  password: string | undefined;
  database: string | undefined;
  ssl: ConnectionOptions | 'prefer' | 'require' | false;
  /** Host, port and database for messages. */
  place: string;
  /** Set when the connection leaves this machine without a verified certificate. */
  warning: string | undefined;
}

/**
 * Parameters every connection starts with. The first four keep the plans of the hot statements from flipping: they join
 * `unnest(…)` with `task`, and with stale statistics the planner has chosen hash joins or scans that were 70 times
 * slower. Without those, what is left is a nested loop with the primary key inside; and a plan made anew each time knows
 * the arrays' lengths and the table's present size. Every other statement here is a lookup by index too, so all share one
 * pool. (Measured: coordinator/store/plans.test.ts asserts it, the figures are in adr/.)
 */
export const SESSION_PARAMETERS: Readonly<Record<string, string>> = {
  enable_hashjoin: 'off',
  enable_mergejoin: 'off',
  enable_seqscan: 'off',
  plan_cache_mode: 'force_custom_plan',
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

/** Parameters of libpq that are not for the server; the first four are translated, the rest mean nothing here. */
const CLIENT_PARAMETERS = ['sslmode', 'sslrootcert', 'sslcert', 'sslkey', 'channel_binding', 'gssencmode', 'sslsni'];

export function fromConnection(connection: Connection): Target {
  const { host, port, user, password, database } = connection;
  return {
    ...{ url: undefined, host, port, user, password, database, ssl: false, warning: undefined },
    place: host.startsWith('/') ? `${host}/${database}` : `${host}:${port}/${database}`,
  };
}

/**
 * Translates a `postgres://` URL. TLS follows libpq: `sslmode=disable`, `prefer` (default), `require` (encrypted, nobody
 * verified; with `sslrootcert` as `verify-ca`), `verify-ca`, `verify-full`. The driver's own `require` turns verification
 * off and it knows no `verify-ca`, hence this. `sslrootcert` names a PEM file; without one, the roots Node.js ships count.
 *
 * @throws MeshError BAD_CONFIG when the URL or a file it names is wrong; the password is never in the message
 */
export function fromUrl(text: string): Target {
  const url = parseUrl(text);
  const value = (name: string) => url.searchParams.get(name) ?? undefined;
  const host = value('host') ?? decodeURIComponent(url.hostname);
  const mode = value('sslmode');
  const ssl = tlsOptions(mode ?? 'prefer', host, value('sslrootcert'), value('sslcert'), value('sslkey'));
  const database = decodeURIComponent(url.pathname.slice(1));
  const socket = value('host')?.startsWith('/') ? value('host') : undefined;
  const port = value('port');
  for (const name of [...CLIENT_PARAMETERS, 'host', 'port']) url.searchParams.delete(name);
  const local =
    host === '' || host.startsWith('/') || host === 'localhost' || host === '::1' || host.startsWith('127.');
  const verified = typeof ssl === 'object' && ssl.rejectUnauthorized !== false;
  return {
    url: url.toString(),
    host: socket,
    port: port === undefined ? undefined : Number(port),
    user: undefined,
    password: undefined,
    database: undefined,
    ssl: socket ? false : ssl,
    place: `${host || 'localhost'}${url.port ? `:${url.port}` : ''}/${database}`,
    warning:
      local || verified
        ? undefined
        : `the connection to the database at ${host} is not verified; use sslmode=verify-full`,
  };
}

function parseUrl(text: string): URL {
  const hint = 'write it like postgres://user:password@host:5432/database?sslmode=verify-full';
  let url: URL;
  try {
    url = new URL(text);
  } catch {
    throw new MeshError('BAD_CONFIG', '--database-url is not a URL', { hint });
  }
  if (url.protocol !== 'postgres:' && url.protocol !== 'postgresql:')
    throw new MeshError('BAD_CONFIG', `--database-url names ${url.protocol.slice(0, -1)}, not postgres`, { hint });
  return url;
}

function tlsOptions(
  mode: string,
  host: string,
  root: string | undefined,
  certificate: string | undefined,
  key: string | undefined,
): Target['ssl'] {
  const files: ConnectionOptions = {
    ...(root && root !== 'system' ? { ca: readFor('sslrootcert', root) } : {}),
    ...(certificate ? { cert: readFor('sslcert', certificate) } : {}),
    ...(key ? { key: readFor('sslkey', key) } : {}),
    // The driver sets no host for addresses, and Node.js would then check the certificate against 'localhost'.
    ...(isIP(host) ? { host } : {}),
  };
  switch (mode) {
    case 'disable':
      return false;
    case 'allow':
    case 'prefer':
      return 'prefer';
    case 'require':
      return root
        ? { ...files, rejectUnauthorized: true, checkServerIdentity: () => undefined }
        : { ...files, rejectUnauthorized: false };
    case 'verify-ca':
      return { ...files, rejectUnauthorized: true, checkServerIdentity: () => undefined };
    case 'verify-full':
      return { ...files, rejectUnauthorized: true };
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
