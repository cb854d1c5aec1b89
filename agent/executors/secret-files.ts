/**
 * Secrets as files, in memory alone: below a folder of the agent's own on a memory file system, one private directory for
 * each attempt (or function runner), whose files only the task's user can read. A directory goes with its attempt; what a
 * killed agent left is removed when it starts again, and a machine's restart takes everything.
 *
 * What the system swaps out may reach a disk: that is for encrypted swap to prevent.
 */
import { randomBytes } from 'node:crypto';
import { chownSync, mkdirSync, rmSync, statfsSync, unlinkSync, writeFileSync } from 'node:fs';
import { chmod, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { MeshError, systemCode } from '../../common/errors.js';
import type { JobSecrets } from '../core/secrets.js';
import { NodeFault } from '../core/types.js';
import type { Janitor } from './janitor.js';
import type { TaskUser } from './user.js';
import { claimFolder, emptyFolder } from './workroot.js';

/** The coordinator checks it too; a node, which writes these files with all its rights, does not have to believe it. */
const NAME = /^\w{1,63}$/;
/** What `statfs` says of file systems that live in memory (linux/magic.h). */
const TMPFS = 0x01021994;
const RAMFS = 0x858458f6;

export interface PlacedSecrets {
  directory: string;
  remove(): void;
}

export class SecretFiles {
  readonly #path: string;
  readonly #user: TaskUser | undefined;
  readonly #janitor: Janitor;

  private constructor(path: string, user: TaskUser | undefined, janitor: Janitor) {
    this.#path = path;
    this.#user = user;
    this.#janitor = janitor;
  }

  /**
   * Makes the folder, empty. Undefined where there is no memory file system: such a node is given no job that wants files.
   * @param marker tells the agents of one machine apart
   */
  static async prepare(
    marker: string,
    user: TaskUser | undefined,
    janitor: Janitor,
    candidates: readonly (string | undefined)[] = [user ? undefined : process.env.XDG_RUNTIME_DIR, '/dev/shm'],
  ): Promise<SecretFiles | undefined> {
    for (const parent of candidates) {
      if (parent === undefined || !isInMemory(parent)) continue;
      try {
        const path = await claimFolder(parent, `planetary-mesh-${marker}`);
        await chmod(path, user ? 0o711 : 0o700);
        await emptyFolder(path, user);
        return new SecretFiles(path, user, janitor);
      } catch {
        // Not ours to write to; the next one may be.
      }
    }
    return undefined;
  }

  /**
   * A new directory with these files, by name.
   * @throws MeshError BAD_SPEC for a name that is none; NodeFault when there is no room for them
   */
  place(files: ReadonlyMap<string, Buffer>): PlacedSecrets {
    for (const name of files.keys())
      if (!NAME.test(name)) throw new MeshError('BAD_SPEC', `${JSON.stringify(name)} cannot be the name of a secret`);
    const directory = join(this.#path, randomBytes(8).toString('hex'));
    try {
      mkdirSync(directory, { mode: 0o700 });
      for (const [name, value] of files) {
        const path = join(directory, name);
        writeFileSync(path, value, { mode: 0o400, flag: 'wx' });
        if (this.#user) chownSync(path, this.#user.uid, this.#user.gid);
      }
      if (this.#user) chownSync(directory, this.#user.uid, this.#user.gid);
    } catch (error) {
      // It is the task's last of all: until then nobody else can have put anything there.
      rmSync(directory, { recursive: true, force: true });
      throw new NodeFault(`the files of secrets could not be kept in memory: ${systemCode(error) ?? String(error)}`);
    }
    const remove = () => {
      for (const name of files.keys()) removeNow(join(directory, name));
      this.#janitor.remove(directory);
    };
    return { directory, remove };
  }

  async close(): Promise<void> {
    await emptyFolder(this.#path, this.#user).catch(() => undefined);
    await rm(this.#path, { recursive: true, force: true }).catch(() => undefined);
  }
}

/** What a task put in its place, or beside it, is the janitor's. */
function removeNow(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // A folder of that name, or its directory was closed to us: the directory was the task's own.
  }
}

function isInMemory(path: string): boolean {
  try {
    return [TMPFS, RAMFS].includes(statfsSync(path).type);
  } catch {
    return false;
  }
}

/** The files among these secrets, if any is to be one. @throws NodeFault where they cannot be kept in memory */
export function placeSecrets(
  where: SecretFiles | undefined,
  secrets: JobSecrets | undefined,
): PlacedSecrets | undefined {
  if (!secrets || secrets.files.size === 0) return undefined;
  if (where) return where.place(secrets.files);
  throw new NodeFault('this node has no memory file system for the files of secrets');
}
