/**
 * Where private directories are made. Normally `work/` in the data directory; when tasks run as another user who cannot
 * get there (a data directory is private), a folder in /var/tmp that belongs to the agent and that others may pass
 * through but not list.
 */
import { createHash } from 'node:crypto';
import { chownSync, mkdirSync } from 'node:fs';
import { chmod, lstat, mkdir, mkdtemp, readdir, rm, stat } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { MeshError, systemCode } from '../../common/errors.js';
import { removeTrees } from './janitor.js';
import type { TaskUser } from './user.js';

const PASSABLE = 0o001;

/** Short and stable: tells the processes and folders of one agent on a machine from those of another. */
export const dataDirMarker = (dataDir: string): string =>
  createHash('sha256').update(resolve(dataDir)).digest('hex').slice(0, 12);

export interface WorkRoot {
  readonly path: string;
  readonly user: TaskUser | undefined;
  /** The task user's own: for what runs in it without a private directory of its own. */
  readonly scratch: string;
  /** Makes a private directory of the task user's in it. */
  privateDir(name: string): string;
  /** Removes everything below it, and itself if it lies outside the data directory. */
  remove(): Promise<void>;
}

/**
 * Makes it, empty. Whatever an earlier run left is removed, so sweep its processes first.
 * @throws MeshError DATA_DIR when there is no place for it
 */
export async function prepareWorkRoot(
  dataDir: string,
  user: TaskUser | undefined,
  temporaryDir = '/var/tmp',
): Promise<WorkRoot> {
  const inside = resolve(dataDir, 'work');
  const outside = user !== undefined && !(await passable(dirname(inside)));
  try {
    const path = outside ? await claimFolder(temporaryDir, `planetary-mesh-${dataDirMarker(dataDir)}`) : inside;
    await mkdir(path, { recursive: true });
    await chmod(path, user ? 0o711 : 0o700);
    await emptyFolder(path, user);
    const remove = async () => {
      await emptyFolder(path, user).catch(() => undefined);
      if (outside) await rm(path, { recursive: true, force: true }).catch(() => undefined);
    };
    const privateDir = (name: string) => {
      const directory = join(path, name);
      mkdirSync(directory, { mode: 0o700 });
      if (user) chownSync(directory, user.uid, user.gid);
      return directory;
    };
    return { path, user, scratch: privateDir('scratch'), privateDir, remove };
  } catch (error) {
    throw new MeshError(
      'DATA_DIR',
      `no working directory for tasks can be made (${systemCode(error) ?? String(error)})`,
      {
        cause: error,
      },
    );
  }
}

/** Whether any user may pass through this directory and all above it. */
export async function passable(path: string): Promise<boolean> {
  for (let folder = path; ; folder = dirname(folder)) {
    if (((await stat(folder)).mode & PASSABLE) === 0) return false;
    if (folder === dirname(folder)) return true;
  }
}

/** /var/tmp is everybody's: a folder of that name is ours only if it is a real one and belongs to us. */
export async function claimFolder(parent: string, name: string): Promise<string> {
  const path = join(parent, name);
  try {
    await mkdir(path, { mode: 0o700 });
    return path;
  } catch (error) {
    if (systemCode(error) !== 'EEXIST') throw error;
  }
  const status = await lstat(path);
  if (status.isDirectory() && status.uid === process.getuid?.()) return path;
  return mkdtemp(`${path}-`);
}

/**
 * What tasks could write to goes as their user, also where it lies in a folder of ours; the rest is ours alone and can be
 * removed as it is.
 */
export async function emptyFolder(path: string, user: TaskUser | undefined): Promise<void> {
  const children = (await readdir(path)).map((name) => join(path, name));
  const stubborn = new Set<string>();
  if (user) {
    const theirs: string[] = [];
    for (const child of children) theirs.push(...(await ownedBy(user, child, 1)));
    for (const child of await removeTrees(theirs, user)) stubborn.add(child);
  }
  for (const child of children)
    if (![...stubborn].some((left) => `${left}/`.startsWith(`${child}/`)))
      await rm(child, { recursive: true, force: true });
}

async function ownedBy(user: TaskUser, path: string, depth: number): Promise<string[]> {
  const status = await lstat(path);
  if (status.uid === user.uid) return [path];
  if (depth === 0 || !status.isDirectory()) return [];
  const found = await Promise.all((await readdir(path)).map((name) => ownedBy(user, join(path, name), depth - 1)));
  return found.flat();
}
