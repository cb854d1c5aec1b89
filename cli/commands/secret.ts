import { readFileSync } from 'node:fs';
import { Argument, Command } from 'commander';
import { MeshError, systemCode } from '../../common/errors.js';
import { pageShape, secretShape } from '../../sdk/shapes.js';
import { parseSecretName } from '../arguments/secrets.js';
import { exitOnInterrupt, makeCommand, optionsOf, present, print, withConnection } from '../context.js';
import { readSecret } from '../read-secret.js';
import { renderTable } from '../render/table.js';
import { safe } from '../render/terminal.js';

interface WhoseOptions {
  for?: string;
}

interface SetOptions extends WhoseOptions {
  fromFile?: string;
}

const FOR_HELP = 'whose it is, as an operator: everyone, or submitter/NAME; otherwise your own';

export function build(): Command {
  const secret = new Command('secret').description('Set, list and remove secrets: values that only tasks get to see.');
  return secret.addCommand(set()).addCommand(list()).addCommand(remove());
}

const nameArgument = () => new Argument('<name>', 'letters, digits and _, no digit first').argParser(parseSecretName);

function set(): Command {
  return makeCommand(
    'set',
    [
      'Set a secret, or replace its value. Nobody can read it back; jobs are given it with: mesh submit --secret NAME',
      'The value is never an argument, which other users of this machine could see. It is asked for without showing it, or read from standard input, where one line break at the end is left out, or from a file, of which every byte counts.',
    ].join('\n\n'),
    [
      'mesh secret set API_TOKEN',
      'pass show api/token | mesh secret set API_TOKEN',
      'mesh secret set DEPLOY_KEY --from-file id_ed25519',
      'mesh secret set LICENSE --for everyone',
    ],
  )
    .addArgument(nameArgument())
    .option('--from-file <file>', 'take the value from a file')
    .option('--for <owner>', FOR_HELP)
    .action(async (name: string, _options: SetOptions, command: Command) => {
      const options = optionsOf<SetOptions>(command);
      exitOnInterrupt(options.json === true);
      const value = options.fromFile === undefined ? await readSecret(name) : readFrom(options.fromFile);
      await withConnection(options, async ({ secrets }) => {
        const response = await secrets.setSecret({ name, value, owner: options.for ?? '' });
        const shape = secretShape(present(response.secret, 'the secret'));
        print(options, shape, () => `${safe(shape.name)} is set for ${safe(shape.owner)}\n`);
      });
    });
}

/** @throws MeshError USAGE */
function readFrom(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new MeshError('USAGE', `--from-file: ${path} cannot be read (${systemCode(error)})`, {
      hint: 'name a file with the value in it',
    });
  }
}

function list(): Command {
  return makeCommand('list', 'List the secrets you may use, never their values. Operators see those of everybody.', [
    'mesh secret list',
  ]).action(async (_options: object, command: Command) => {
    const options = optionsOf(command);
    exitOnInterrupt(options.json === true);
    await withConnection(options, async ({ secrets }) => {
      const page = pageShape((await secrets.listSecrets({})).items.map(secretShape), '');
      const rows = page.items.map((s) => [s.name, s.owner, `${s.sizeBytes} B`, s.setAt ?? '-', s.setBy].map(safe));
      const columns = ['NAME', 'OWNER', 'SIZE', 'SET AT', 'BY'].map((title) => ({ title }));
      print(options, page, () => (rows.length === 0 ? 'There are no secrets.\n' : renderTable(columns, rows)));
    });
  });
}

function remove(): Command {
  return makeCommand(
    'remove',
    'Remove a secret. Attempts that run keep what they were given; tasks that still need it fail.',
    ['mesh secret remove API_TOKEN', 'mesh secret remove LICENSE --for everyone'],
  )
    .addArgument(nameArgument())
    .option('--for <owner>', FOR_HELP)
    .action(async (name: string, _options: WhoseOptions, command: Command) => {
      const options = optionsOf<WhoseOptions>(command);
      exitOnInterrupt(options.json === true);
      await withConnection(options, async ({ secrets }) => {
        await secrets.removeSecret({ name, owner: options.for ?? '' });
        print(options, { name, removed: true }, () => `${safe(name)} is removed\n`);
      });
    });
}
