/** The options that commands of `mesh-ca` share. */
import { type Command, Option } from 'commander';
import { addPassphraseOptions } from '../common/options.js';
import type { PassphraseSource } from '../common/passphrase.js';

export interface DirectoryOptions {
  dir: string;
  json?: boolean;
  passphraseFile?: string;
  passphraseFd?: number;
}

export const jsonOption = () => new Option('--json', 'one JSON document on standard output');
export const dirOption = () => new Option('--dir <dir>', 'the CA directory to work on').env('MESH_CA_DIR');

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
