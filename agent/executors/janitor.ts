/**
 * Removes private directories after their attempts. The agent never walks a tree that a task can change underneath it (a
 * swapped link would lead it anywhere): an empty directory is simply removed, for any other `rm`, which walks by
 * descriptor and follows no link, runs as the task's user, many directories at a time. Trees with read-only folders are made writable and tried once more.
 */
import { spawn } from 'node:child_process';
import { rmdirSync } from 'node:fs';
import { access, rm, rmdir } from 'node:fs/promises';
import { Batcher } from '../../common/batcher.js';
import { systemCode } from '../../common/errors.js';
import type { Logger } from '../../common/log.js';
import type { TaskUser } from './user.js';

const DIRECTORIES_MAX = 64;

export class Janitor {
  readonly #user: TaskUser | undefined;
  readonly #batcher: Batcher<string>;

  constructor(user: TaskUser | undefined, log: Logger) {
    this.#user = user;
    this.#batcher = new Batcher({
      itemsMax: DIRECTORIES_MAX,
      flush: async (paths) => {
        const left = await removeTrees(paths, this.#user);
        if (left.length > 0) log.warn({ event: 'work.left-behind', paths: left }, 'work directories cannot be removed');
      },
      onError: (err, paths) => log.warn({ event: 'work.left-behind', err, paths }, 'work directories were left behind'),
    });
  }

  remove(path: string): void {
    try {
      // Most are empty, and then this is a few microseconds.
      rmdirSync(path);
    } catch (error) {
      if (systemCode(error) !== 'ENOENT') this.#batcher.add(path);
    }
  }

  /** Resolves when everything given so far is gone. */
  idle(): Promise<void> {
    return this.#batcher.idle();
  }
}

/** Removes trees that tasks could write to; returns those that resisted. */
export async function removeTrees(paths: readonly string[], user: TaskUser | undefined): Promise<string[]> {
  let left = await remaining(paths);
  for (const command of [[], ['chmod', '-R', 'u+rwX', '--']]) {
    if (left.length === 0) break;
    if (command.length > 0) await runAs(user, [...command, ...left]);
    await runAs(user, ['rm', '-rf', '--', ...left]);
    left = await remaining(left);
  }
  return left;
}

/** Tries what is safe and needs no process; returns what is still there. */
async function remaining(paths: readonly string[]): Promise<string[]> {
  const attempts = paths.map(async (path) => {
    try {
      await (process.platform === 'win32' ? rm(path, { recursive: true, force: true }) : rmdir(path));
      return [];
    } catch (error) {
      return systemCode(error) === 'ENOENT' || !(await exists(path)) ? [] : [path];
    }
  });
  return (await Promise.all(attempts)).flat();
}

const exists = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  );

/** Its exit code says nothing: `rm` cannot remove the top directories, whose parent is ours. We look afterwards. */
function runAs(user: TaskUser | undefined, [command, ...args]: string[]): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn(command as string, args, {
      cwd: '/',
      env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' },
      stdio: 'ignore',
      ...(user ? { uid: user.uid, gid: user.gid } : {}),
    });
    child.on('error', reject);
    child.on('exit', () => resolve());
  });
}
