/** The options that commands of `mesh-ca` share. */
import { type Command, Option } from 'commander';
import { MeshError } from '../common/errors.js';
import type { PassphraseSource } from '../common/passphrase.js';
import { asInteger } from '../common/settings.js';

export interface DirectoryOptions {
  dir: string;
  json?: boolean;
  passphraseFile?: string;
  passphraseFd?: number;
}

/** A flag's value, with the flag named in the error. */
export const parsed =
  <T>(flag: string, parse: (text: string) => T) =>
  (text: string): T => {
    try {
      return parse(text);
    } catch (error) {
      throw new MeshError('USAGE', `${flag}: ${(error as Error).message}`);
    }
  };

export const jsonOption = () => new Option('--json', 'one JSON document on standard output');
export const dirOption = () => new Option('--dir <dir>', 'the CA directory to work on').env('MESH_CA_DIR');

/** @param flag such as `--passphrase`; becomes `--passphrase-file` and `--passphrase-fd` */
export function addPassphraseOptions(command: Command, flag: string, what: string, variable?: string): Command {
  const file = new Option(`${flag}-file <file>`, `${what}: the first line of a file that only its owner may read`);
  const descriptor = new Option(`${flag}-fd <number>`, 'the same from an open descriptor').argParser(
    parsed(`${flag}-fd`, asInteger(0, 65_535)),
  );
  if (variable) file.env(`${variable}_FILE`);
  return command.addOption(file).addOption(descriptor);
}

export const addOwnPassphraseOptions = (command: Command): Command =>
  addPassphraseOptions(command, '--passphrase', "what the CA's keys are encrypted with", 'MESH_CA_PASSPHRASE');

export const ownPassphrase = (options: { passphraseFile?: string; passphraseFd?: number }): PassphraseSource => ({
  file: options.passphraseFile,
  descriptor: options.passphraseFd,
  flag: '--passphrase',
});

/** A command that works on the keys of a directory. */
export const addDirectoryOptions = (command: Command): Command =>
  addOwnPassphraseOptions(command.addOption(dirOption().makeOptionMandatory()).addOption(jsonOption()));
