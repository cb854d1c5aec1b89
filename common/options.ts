/** Options that commands of several programs share. */
import { type Command, Option } from 'commander';
import { MeshError } from './errors.js';
import { asInteger } from './numbers.js';

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

/**
 * Where a passphrase comes from.
 * @param flag such as `--passphrase`; becomes `--passphrase-file` and `--passphrase-fd`
 * @param variable becomes the variable for the file
 */
export function addPassphraseOptions(command: Command, flag: string, what: string, variable?: string): Command {
  const file = new Option(`${flag}-file <file>`, `${what}: the first line of a file that only its owner may read`);
  const descriptor = new Option(`${flag}-fd <number>`, 'the same from an open descriptor').argParser(
    parsed(`${flag}-fd`, asInteger(0, 65_535)),
  );
  if (variable) file.env(`${variable}_FILE`);
  return command.addOption(file).addOption(descriptor);
}
