/**
 * Puts all keys of a CA directory under a passphrase, under another one, or under none. They change together: the new
 * files are written into `resealed.new`, which becomes `resealed` in one step; from then on they only have to be moved
 * over the old ones. A directory found with `resealed` is finished whenever it is opened, which takes no passphrase; one
 * found with `resealed.new` was not changed. What the old files held may stay readable in the disk's free blocks.
 */
import type { KeyObject } from 'node:crypto';
import { readdirSync, renameSync } from 'node:fs';
import { basename, join } from 'node:path';
import { MeshError, systemCode } from '../common/errors.js';
import { emptyPrivateDir, removeIfEmpty, syncDirectory, writeFileAtomic } from '../common/files.js';
import type { Passphrase } from '../common/passphrase.js';
import { readPrivateKeyFile, sealKey } from './keys.js';

const KEY_FILE = /\.key(?:\.next)?$/;

const filesIn = (directory: string): string[] => {
  try {
    return readdirSync(directory);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return [];
    throw new MeshError('DATA_DIR', `cannot read ${directory} (${systemCode(error)})`, {
      hint: 'run it as the user who owns it',
      cause: error,
    });
  }
};

/** Every private key in the directory. */
export const keyFilesIn = (directory: string): string[] =>
  filesIn(directory)
    .filter((name) => KEY_FILE.test(name))
    .sort()
    .map((name) => join(directory, name));

/**
 * The caller holds the directory's lock. @returns the files that were changed
 * @throws MeshError PASSPHRASE when `from` does not open all of them; nothing is changed then
 */
export function resealKeys(directory: string, from: Passphrase | undefined, to: Passphrase | undefined): string[] {
  const staging = join(directory, 'resealed.new');
  const keys = keyFilesIn(directory).map((path): [string, KeyObject] => [path, readPrivateKeyFile(path, from)]);
  emptyPrivateDir(staging);
  for (const [path, key] of keys) writeFileAtomic(join(staging, basename(path)), sealKey(key, to), 0o600);
  renameSync(staging, resealedIn(directory));
  syncDirectory(directory);
  finishResealing(directory);
  return keys.map(([path]) => path);
}

const resealedIn = (directory: string): string => join(directory, 'resealed');

/** Moves over what a resealing that was interrupted had decided. Two processes may do it at the same time. */
export function finishResealing(directory: string): void {
  const resealed = resealedIn(directory);
  for (const name of filesIn(resealed)) {
    try {
      renameSync(join(resealed, name), join(directory, name));
    } catch (error) {
      if (systemCode(error) !== 'ENOENT') throw error;
    }
  }
  removeIfEmpty(resealed);
}
