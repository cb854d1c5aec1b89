import { resolve } from 'node:path';
import { type Command, Option } from 'commander';
import { systemClock } from '../../common/clock.js';
import { defaultDataDir } from '../../common/files.js';
import { addPassphraseOptions } from '../../common/options.js';
import { newPassphrase } from '../../common/passphrase.js';
import { makeBackup } from '../../coordinator/backup/backup.js';
import { exitOnInterrupt, makeCommand, optionsOf, print } from '../context.js';

interface Options {
  out: string;
  data?: string;
  passphraseFile?: string;
  passphraseFd?: number;
  passphrase: boolean;
  withFiles?: boolean;
  database: boolean;
  databaseUrl?: string;
}

export function build(): Command {
  const command = makeCommand(
    'backup',
    "Write a mesh's identity and state to one file: the CA with its keys, and everything in the database. On the " +
      "coordinator's machine, by the user it runs as; it may go on running. Whoever has the file and its passphrase can be the mesh.",
    [
      'mesh backup --out /mnt/nas/mesh-monday.backup                        # asks for a passphrase',
      'mesh backup --out ./mesh.backup --data /var/lib/mesh --passphrase-file ./words',
      'mesh backup --out ./mesh.backup --with-files                         # staged files and the output of tasks too',
      'mesh backup --out ./mesh.backup --no-database                        # identity only',
    ],
  )
    .requiredOption('--out <file>', 'the file to make')
    .option('--data <dir>', "the coordinator's data directory (default: the XDG data directory, or MESH_HOME)");
  addPassphraseOptions(command, '--passphrase', 'what to encrypt the backup with', 'MESH_BACKUP_PASSPHRASE')
    .addOption(
      new Option('--no-passphrase', 'do not encrypt it: the file is then worth as much as the keys in it').conflicts([
        'passphraseFile',
        'passphraseFd',
      ]),
    )
    .option('--with-files', 'staged files and the output of tasks too')
    .option('--no-database', 'without the rows of the database, when that is backed up by itself')
    .option('--database-url <url>', 'the database of a coordinator that has none of its own [MESH_DATABASE_URL]');
  return command.action(async (_options: Options, self: Command) => {
    const options = optionsOf<Options>(self);
    exitOnInterrupt(options.json === true, 'there is no backup; make it again');
    const out = resolve(options.out);
    const source = { file: options.passphraseFile, descriptor: options.passphraseFd, flag: '--passphrase' };
    const manifest = await makeBackup({
      out,
      dataDir: resolve(options.data ?? defaultDataDir('coordinator', process.env)),
      passphrase: options.passphrase ? await newPassphrase(source, `passphrase for ${options.out}`) : undefined,
      databaseUrl: options.databaseUrl ?? process.env.MESH_DATABASE_URL,
      withDatabase: options.database,
      withFiles: options.withFiles === true,
      clock: systemClock,
    });
    const { meshId, createdAt, database, withFiles, parts } = manifest;
    const bytes = parts.reduce((sum, part) => sum + part.bytes, 0);
    const document = {
      file: out,
      meshId,
      createdAt,
      bytes,
      encrypted: options.passphrase,
      database: database !== null,
      withFiles,
    };
    print(options, document, () => `backed up ${meshId} to ${out}\n`);
    if (!withFiles && !options.json)
      process.stderr.write('staged files and the output of tasks are not in it; add --with-files for those\n');
  });
}
