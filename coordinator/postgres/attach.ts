import { join } from 'node:path';
import { readIfExists } from '../../common/files.js';
import { isAlive } from '../../common/process-life.js';
import { chooseAccount } from './account.js';
import { findBinaries } from './binaries.js';
import { SUPERUSER } from './cluster.js';
import { DATABASE, type EmbeddedConnection } from './embedded.js';
import { parsePidFile, servesDirectory } from './orphan.js';

/**
 * How to reach the embedded PostgreSQL that another process runs in a data directory's `postgres/`; undefined when none
 * runs there.
 */
export async function runningConnection(directory: string): Promise<EmbeddedConnection | undefined> {
  const binaries = await findBinaries();
  const { dataDirectory } = chooseAccount({ binaries, dataDirectory: join(directory, 'data') });
  const file = parsePidFile(readIfExists(join(dataDirectory, 'postmaster.pid')) ?? '');
  const password = readIfExists(join(directory, 'password'))?.trim();
  if (!file || password === undefined || !isAlive(file.pid) || !servesDirectory(file.pid, dataDirectory))
    return undefined;
  return {
    host: file.socketDirectory ?? '127.0.0.1',
    port: file.port,
    user: SUPERUSER,
    password,
    database: DATABASE,
  };
}
