/** The database of a mesh under test, read from outside: what is committed, whatever the coordinator says about it. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import postgres from 'postgres';
import type { Mesh } from './mesh.js';

/** The pid of the server that a coordinator keeps below its data directory. */
export function postmasterPid(dataDir: string): number {
  return Number(readFileSync(join(dataDir, 'postgres/data/postmaster.pid'), 'utf8').split('\n')[0]);
}

/** A connection to the server of the mesh's coordinator, as it runs now; to be ended by who asked for it. */
export function openDatabase(mesh: Mesh): postgres.Sql {
  const { dataDir } = mesh.coordinator;
  const lines = readFileSync(join(dataDir, 'postgres/data/postmaster.pid'), 'utf8').split('\n');
  const [port, socketDirectory] = [lines[3], lines[4]];
  const password = readFileSync(join(dataDir, 'postgres/password'), 'utf8').trim();
  return postgres({
    host: socketDirectory === '' ? '127.0.0.1' : (socketDirectory as string),
    port: Number(port),
    user: 'mesh',
    password,
    database: 'mesh',
    max: 2,
    onnotice: () => undefined,
  });
}

/** Runs one query and closes the connection. */
export async function query<T>(mesh: Mesh, ask: (sql: postgres.Sql) => PromiseLike<T>): Promise<T> {
  const sql = openDatabase(mesh);
  try {
    return await ask(sql);
  } finally {
    await sql.end({ timeout: 5 });
  }
}
