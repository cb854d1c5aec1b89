import { resolve } from 'node:path';
import type { Command } from 'commander';
import { systemClock } from '../../common/clock.js';
import { addPassphraseOptions } from '../../common/options.js';
import { askPassphrase, givenPassphrase } from '../../common/passphrase.js';
import { restoreBackup } from '../../coordinator/backup/restore.js';
import { makeCommand, optionsOf, print } from '../context.js';

interface Options {
  data: string;
  passphraseFile?: string;
  passphraseFd?: number;
  databaseUrl?: string;
}

export function build(): Command {
  const command = makeCommand(
    'restore',
    'Make a data directory from a backup. A coordinator started on it is the same mesh: agents come back by themselves ' +
      'where they find it, under the address it had or over mDNS. The one that was lost must never run again.',
    [
      'mesh restore /mnt/nas/mesh-monday.backup --data /var/lib/mesh',
      'mesh restore ./mesh.backup --data ./mesh --passphrase-file ./words',
      'mesh restore ./mesh.backup --data ./mesh --database-url postgres://mesh@db.example/empty',
    ],
  )
    .argument('<file>', 'what mesh backup made')
    .requiredOption('--data <dir>', 'the data directory to make; must be empty or not exist');
  addPassphraseOptions(command, '--passphrase', 'what the backup is encrypted with', 'MESH_BACKUP_PASSPHRASE').option(
    '--database-url <url>',
    'an empty PostgreSQL to put the rows into, instead of one in the data directory',
  );
  return command.action(async (file: string, _options: Options, self: Command) => {
    const options = optionsOf<Options>(self);
    const source = { file: options.passphraseFile, descriptor: options.passphraseFd, flag: '--passphrase' };
    const dataDir = resolve(options.data);
    const manifest = await restoreBackup({
      file: resolve(file),
      dataDir,
      passphrase: async () => givenPassphrase(source) ?? (await askPassphrase(source, `passphrase of ${file}`)),
      databaseUrl: options.databaseUrl,
      clock: systemClock,
    });
    const { meshId, createdAt, database, withFiles } = manifest;
    print(options, { dataDir, meshId, createdAt, database: database !== null, withFiles }, () => {
      const rows = database
        ? ''
        : 'the rows of the database were not in it: start the coordinator with --database-url\n';
      return `restored ${meshId} as of ${createdAt} into ${dataDir}\n${rows}`;
    });
    if (!options.json)
      process.stderr.write(
        'join tokens are spent, and what was revoked since must be revoked again (mesh-ca revoke)\n',
      );
  });
}
