import postgres from 'postgres';

/** A database as its client is told: `host` may be the folder of a Unix socket. */
export interface DatabaseAddress {
  host: string;
  port: number;
  user: string;
  password: string;
  database: string;
}

/** The form node-postgres reads; a socket's folder travels as a parameter. */
export function toConnectionString({ host, port, user, password, database }: DatabaseAddress): string {
  const who = `${encodeURIComponent(user)}:${encodeURIComponent(password)}`;
  return `postgres://${who}@localhost:${port}/${database}?host=${encodeURIComponent(host)}`;
}

/** Creates a second database on the same server, with the server's settings. */
export async function createDatabase(server: DatabaseAddress, name: string): Promise<DatabaseAddress> {
  const sql = postgres({ ...server, max: 1, onnotice: () => undefined });
  try {
    await sql`create database ${sql(name)}`;
    return { ...server, database: name };
  } finally {
    await sql.end();
  }
}

/** The server's version and what decides how durable a commit is. */
export async function describeServer(server: DatabaseAddress): Promise<Record<string, string>> {
  const sql = postgres({ ...server, max: 1 });
  try {
    const names = [
      'server_version',
      'synchronous_commit',
      'fsync',
      'full_page_writes',
      'shared_buffers',
      'max_wal_size',
    ];
    const rows = await sql<{ name: string; setting: string }[]>`
      select name, current_setting(name) as setting from pg_settings where name = any(${names}) order by name`;
    return Object.fromEntries(rows.map(({ name, setting }) => [name, setting]));
  } finally {
    await sql.end();
  }
}

/** What autovacuum would have done by itself in a while: so that no run pays for the garbage of the one before. */
export async function settleDatabase(database: DatabaseAddress): Promise<void> {
  const sql = postgres({ ...database, max: 1, onnotice: () => undefined });
  try {
    await sql.unsafe('vacuum (analyze)');
  } finally {
    await sql.end();
  }
}
