import { existsSync } from 'node:fs';
import { askPassphrase, givenPassphrase, type Passphrase, type PassphraseSource } from '../common/passphrase.js';
import { filesOf, isSealedDirectory } from './layout.js';

/**
 * The passphrase of a directory's keys: the one that was given, or one asked for on the terminal when the keys need it.
 * For a directory that is yet to be made, the one to make it with. @throws MeshError USAGE, PASSPHRASE
 */
export async function unlock(directory: string, source: PassphraseSource): Promise<Passphrase | undefined> {
  const given = givenPassphrase(source);
  if (given || !existsSync(filesOf(directory).issuerKey) || !isSealedDirectory(directory)) return given;
  return askPassphrase(source, `passphrase of the CA's keys in ${directory}`);
}
