import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MeshError, systemCode } from '../common/errors.js';
import { readIfExists } from '../common/files.js';
import { isAlive } from '../common/process-life.js';

export interface DataDir {
  path: string;
  /** Below the system's temporary directory, and worth nothing once the quickstart has ended well. */
  temporary: boolean;
}

/**
 * A fresh data directory: `.quickstart` below the package, or one of the system's temporary ones where that cannot be
 * written. What an earlier run left there is removed.
 * @throws MeshError IN_USE when an earlier run is still going
 */
export function freshDataDir(root: string): DataDir {
  const path = join(root, '.quickstart');
  if (prepare(path)) return { path, temporary: false };
  return { path: mkdtempSync(join(tmpdir(), 'mesh-quickstart-')), temporary: true };
}

function prepare(directory: string): boolean {
  try {
    if (!existsSync(directory)) mkdirSync(directory, { mode: 0o700 });
    else if (!statSync(directory).isDirectory()) return false;
    accessSync(directory, constants.W_OK | constants.X_OK);
  } catch (error) {
    if (['EACCES', 'EROFS', 'EPERM', 'EEXIST', 'ENOTDIR'].includes(systemCode(error) ?? '')) return false;
    throw error;
  }
  const pids = alivePids(join(directory, 'log'), directory);
  if (pids.length > 0)
    throw new MeshError('IN_USE', `an earlier quickstart still runs in ${directory}`, {
      hint: `wait for it, or stop it: kill ${pids.join(' ')}`,
    });
  try {
    for (const name of readdirSync(directory)) rmSync(join(directory, name), { recursive: true, force: true });
    return true;
  } catch {
    // Left behind by another user.
    return false;
  }
}

/** Processes that wrote a ready file there and still run with that directory on their command line. */
function alivePids(logDir: string, directory: string): number[] {
  const names = (() => {
    try {
      return readdirSync(logDir).filter((name) => name.endsWith('.ready'));
    } catch {
      return [];
    }
  })();
  return names.flatMap((name) => {
    const pid = Number(/"pid":(\d+)/.exec(readIfExists(join(logDir, name)) ?? '')?.[1]);
    return Number.isInteger(pid) && pid > 1 && runsHere(pid, directory) ? [pid] : [];
  });
}

function runsHere(pid: number, directory: string): boolean {
  if (!isAlive(pid)) return false;
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(directory);
  } catch {
    return true;
  }
}
