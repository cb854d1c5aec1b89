import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chownSync, closeSync, existsSync, fsyncSync, openSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { MeshError } from '../../common/errors.js';
import { readIfExists, writeFileAtomic } from '../../common/files.js';
import type { Account } from './account.js';

/** Making the database cluster: whole or not at all. */
export const SUPERUSER = 'mesh';
const OUTPUT_CHARACTERS_MAX = 4000;
/** The major version of the bundled programs; a cluster belongs to one. */
const MAJOR = '18';

/** The password, made once and kept beside the cluster, readable for its owner only. */
export function readOrMakePassword(path: string): string {
  const kept = readIfExists(path)?.trim();
  if (kept) return kept;
  const password = randomBytes(24).toString('base64url');
  writeFileAtomic(path, `${password}\n`, 0o600);
  return password;
}

/**
 * Makes the cluster if there is none. `initdb` works in a directory of another name, which is renamed at the end, so one
 * that was killed half way leaves nothing that looks like a cluster.
 *
 * @returns whether it was made now
 * @throws MeshError DATA_DIR when it cannot be made, or belongs to another major version of PostgreSQL
 */
export async function makeCluster(account: Account, passwordFile: string): Promise<boolean> {
  const { dataDirectory } = account;
  removeLeftovers(dataDirectory);
  const version = readIfExists(join(dataDirectory, 'PG_VERSION'))?.trim();
  if (version === MAJOR) return false;
  if (version)
    throw new MeshError(
      'DATA_DIR',
      `${dataDirectory} was made by PostgreSQL ${version}; this program brings ${MAJOR}`,
      {
        hint: 'use the version of this program that made it, or name a PostgreSQL server with --database-url',
      },
    );
  if (existsSync(dataDirectory) && readdirSync(dataDirectory).length > 0)
    throw new MeshError('DATA_DIR', `${dataDirectory} is not empty, and no PostgreSQL cluster`);
  const temporary = `${dataDirectory}.${randomBytes(4).toString('hex')}.init`;
  const password = `${temporary}-password`;
  try {
    writeFileAtomic(password, readOrMakePassword(passwordFile), 0o600);
    if (account.uid !== undefined) chownSync(password, account.uid, account.gid as number);
    await runInitdb(account, temporary, password);
    rmSync(dataDirectory, { recursive: true, force: true });
    renameSync(temporary, dataDirectory);
    syncDirectory(dirname(dataDirectory));
  } finally {
    rmSync(password, { force: true });
    rmSync(temporary, { recursive: true, force: true });
  }
  return true;
}

function removeLeftovers(dataDirectory: string): void {
  const parent = dirname(dataDirectory);
  if (!existsSync(parent)) return;
  const pattern = new RegExp(`^${basename(dataDirectory)}\\.[0-9a-f]{8}\\.init(-password)?$`);
  for (const name of readdirSync(parent))
    if (pattern.test(name)) rmSync(join(parent, name), { recursive: true, force: true });
}

function runInitdb(account: Account, directory: string, passwordFile: string): Promise<void> {
  const command = [
    ...account.prefix,
    ...[account.binaries.initdb, '-D', directory, '-U', SUPERUSER, `--pwfile=${passwordFile}`],
    ...['--auth=scram-sha-256', '--encoding=UTF8', '--locale=C', '--no-instructions'],
  ];
  const { uid, gid } = account;
  return new Promise((resolve, reject) => {
    const child = spawn(command[0] as string, command.slice(1), {
      stdio: ['ignore', 'pipe', 'pipe'],
      cwd: dirname(directory),
      detached: true,
      windowsHide: true,
      ...(uid === undefined ? {} : { uid, gid: gid as number }),
    });
    let output = '';
    const keep = (chunk: Buffer) => {
      output = (output + chunk.toString()).slice(-OUTPUT_CHARACTERS_MAX);
    };
    child.stdout.on('data', keep);
    child.stderr.on('data', keep);
    child.on('error', (error) => reject(new MeshError('DATA_DIR', 'initdb cannot be started', { cause: error })));
    child.on('close', (code) => {
      if (code === 0) return resolve();
      const why = /(?:error|FATAL|PANIC): +(.*)/.exec(output)?.[1] ?? `initdb ended with ${code}`;
      const kind = /No space left|Check free disk space/.test(output) ? 'DISK_FULL' : 'DATA_DIR';
      reject(
        new MeshError(kind, `the database cannot be made in ${dirname(directory)}: ${why.trim()}`, {
          cause: new Error(output),
        }),
      );
    });
  });
}

function syncDirectory(path: string): void {
  if (process.platform === 'win32') return;
  const descriptor = openSync(path, 'r');
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}
