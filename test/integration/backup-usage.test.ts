import { join } from 'node:path';
import { test } from 'tap';
import { programPath } from '../support/mesh.js';
import { runCommand } from '../support/command.js';

test('a backup without a passphrase and one with a passphrase are two things', async (t) => {
  const folder = t.testdir();
  const backup = (environment: NodeJS.ProcessEnv, ...args: string[]) => {
    const line = [programPath('mesh'), 'backup', '--out', join(folder, 'out'), '--no-passphrase', ...args];
    return runCommand(process.execPath, line, {
      cwd: folder,
      env: { PATH: process.env.PATH, HOME: folder, ...environment },
    });
  };
  for (const found of [
    await backup({}, '--passphrase-file', 'words'),
    await backup({}, '--passphrase-fd', '0'),
    await backup({ MESH_BACKUP_PASSPHRASE_FILE: 'words' }),
  ])
    t.match(found, { code: 2, stdout: '', stderr: /^mesh: option '--no-passphrase' cannot be used with .*\n$/ });
});
