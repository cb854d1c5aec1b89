import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { lchownSync, cpSync, existsSync, lstatSync, mkdirSync, readdirSync, renameSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { MeshError } from '../../common/errors.js';
import { packageVersion } from '../../common/package.js';
import type { Binaries } from './binaries.js';

/**
 * PostgreSQL refuses to run as root. Under root there are two ways out, tried in this order:
 *
 * - a user namespace in which root looks like an ordinary user (`unshare`): files stay root's own and any directory
 *   serves, one below a 0700 home too. Many containers forbid it.
 * - the user `nobody`, with a copy of the programs and the data where that user can reach them.
 */
export interface Account {
  /** Put before the program and its arguments. */
  prefix: readonly string[];
  /** Of the process; undefined for our own. */
  uid: number | undefined;
  gid: number | undefined;
  binaries: Binaries;
  /** The directory of the cluster, which need not be the one asked for. */
  dataDirectory: string;
}

const NOBODY = 65534;
const UNSHARE = ['unshare', '--user', `--map-user=${NOBODY}`, `--map-group=${NOBODY}`, '--'] as const;
const PUBLIC_ROOT = '/var/lib/planetary-mesh';

export interface AccountOptions {
  binaries: Binaries;
  dataDirectory: string;
  /** Goes without the user namespace and keeps what nobody needs below this directory; for tests. */
  nobodyRoot?: string | undefined;
}

export function chooseAccount(options: AccountOptions): Account {
  const { binaries, dataDirectory, nobodyRoot } = options;
  const own: Account = { prefix: [], uid: undefined, gid: undefined, binaries, dataDirectory };
  if (process.getuid?.() !== 0) return own;
  if (nobodyRoot === undefined && canRun([...UNSHARE, binaries.postgres, '--version']))
    return { ...own, prefix: UNSHARE };
  return asNobody(own, nobodyRoot ?? PUBLIC_ROOT);
}

const canRun = (command: readonly string[], uid?: number): boolean =>
  spawnSync(command[0] as string, command.slice(1), {
    stdio: 'ignore',
    cwd: '/',
    ...(uid === undefined ? {} : { uid, gid: uid }),
  }).status === 0;

function asNobody(own: Account, root: string): Account {
  try {
    const binaries = canRun([own.binaries.postgres, '--version'], NOBODY)
      ? own.binaries
      : copyPrograms(own.binaries, root);
    if (!canRun([binaries.postgres, '--version'], NOBODY)) throw new Error(`${binaries.postgres} does not run`);
    const dataDirectory = reachable(dirname(own.dataDirectory))
      ? own.dataDirectory
      : publicData(own.dataDirectory, root);
    giveAway(dataDirectory);
    return { prefix: [], uid: NOBODY, gid: NOBODY, binaries, dataDirectory };
  } catch (error) {
    throw new MeshError('DATABASE_DOWN', 'the bundled PostgreSQL cannot run as root here, nor as another user', {
      hint: 'run the coordinator as an ordinary user, or name a PostgreSQL server with --database-url',
      cause: error,
    });
  }
}

const reachable = (directory: string): boolean => canRun(['test', '-x', directory], NOBODY);

/** @returns the same programs below a public directory; the copy is whole or not there */
export function copyPrograms(binaries: Binaries, root: string): Binaries {
  const from = resolve(binaries.postgres, '..', '..');
  const to = join(root, `postgres-${packageVersion}`);
  if (!existsSync(to)) {
    mkdirSync(root, { recursive: true, mode: 0o755 });
    const temporary = `${to}.${process.pid}.tmp`;
    cpSync(from, temporary, { recursive: true, verbatimSymlinks: true });
    renameSync(temporary, to);
  }
  const moved = (path: string) => join(to, 'bin', basename(path));
  return { postgres: moved(binaries.postgres), initdb: moved(binaries.initdb) };
}

function publicData(asked: string, root: string): string {
  const key = createHash('sha256').update(resolve(asked)).digest('hex').slice(0, 16);
  const directory = join(root, 'data', key);
  mkdirSync(directory, { recursive: true, mode: 0o755 });
  return join(directory, 'data');
}

/** Makes the cluster nobody's, and its parent a place where nobody may create it. */
function giveAway(dataDirectory: string): void {
  const parent = dirname(dataDirectory);
  lchownSync(parent, NOBODY, NOBODY);
  if (existsSync(dataDirectory) && lstatSync(dataDirectory).uid !== NOBODY) chownTree(dataDirectory);
}

function chownTree(path: string): void {
  for (const entry of readdirSync(path, { recursive: true, encoding: 'utf8' })) {
    lchownSync(join(path, entry), NOBODY, NOBODY);
  }
  lchownSync(path, NOBODY, NOBODY);
}
