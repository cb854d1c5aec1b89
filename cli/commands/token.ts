import { Argument, Command, Option } from 'commander';
import { isName } from '../../common/ids.js';
import { type Role, ROLES } from '../../common/identity/identity.js';
import { MeshError } from '../../common/errors.js';
import { asInteger } from '../../common/numbers.js';
import { parseDuration } from '../../common/units.js';
import { pageShape, tokenShape } from '../../sdk/shapes.js';
import { exitOnInterrupt, makeCommand, optionsOf, parsedOption, present, print, withConnection } from '../context.js';
import { renderTable } from '../render/table.js';
import { safe } from '../render/terminal.js';

const TTL = { value: 15 * 60_000, shown: '15m' };

interface CreateOptions {
  role: Role;
  name?: string;
  ttl: number;
  uses: number;
  replace?: boolean;
}

export function build(): Command {
  const token = new Command('token').description('Make, list and revoke join tokens.');
  return token.addCommand(create()).addCommand(list()).addCommand(revoke());
}

/** What to type on the other machine. */
export function joinCommand(role: string, secret: string): string {
  if (role === 'agent') return `mesh-agent --join ${secret}`;
  // Which URL is only the operator's to know: it holds a password.
  if (role === 'coordinator') return `mesh-coordinator --database-url URL --join ${secret}`;
  return `mesh login ${secret}`;
}

function asName(text: string): string {
  if (!isName(text)) throw new MeshError('BAD_NAME', `"${text}" cannot be a name`);
  return text;
}

function create(): Command {
  return makeCommand('create', 'Make a join token and print the command that uses it. It is shown only now.', [
    'mesh token create',
    'mesh token create --uses 10 --ttl 1h',
    'mesh token create --role submitter --name anna',
    'mesh token create --role coordinator',
  ])
    .addOption(new Option('--role <role>', 'what the holder becomes').choices(ROLES).default('agent'))
    .addOption(parsedOption('--name <name>', 'the name the holder gets; otherwise the holder may wish', asName))
    .addOption(parsedOption('--ttl <duration>', 'how long it can be used', parseDuration, TTL))
    .addOption(
      parsedOption('--uses <n>', 'how many machines may use it', asInteger(1, 10_000), { value: 1, shown: '1' }),
    )
    .option('--replace', 'with --name: revoke the certificate that has the name now')
    .action(async (_options: CreateOptions, command: Command) => {
      const options = optionsOf<CreateOptions>(command);
      if (options.replace && options.name === undefined)
        throw new MeshError('USAGE', '--replace needs --name', { hint: 'name the machine or person to replace' });
      exitOnInterrupt(options.json === true);
      await withConnection(options, async ({ mesh }) => {
        const { role, name = '', ttl, uses, replace = false } = options;
        const response = await mesh.createToken({ role, name, ttlMs: ttl, uses, replace });
        const { usesLeft, ...shape } = tokenShape(present(response.token, 'the token'));
        const made = { token: response.secret, ...shape, uses: usesLeft, command: joinCommand(role, response.secret) };
        print(options, made, () => `${made.command}\n`);
      });
    });
}

function list(): Command {
  return makeCommand('list', 'List the join tokens, with how often each can still be used.', [
    'mesh token list',
  ]).action(async (_options: object, command: Command) => {
    const options = optionsOf(command);
    exitOnInterrupt(options.json === true);
    await withConnection(options, async ({ mesh }) => {
      const page = pageShape((await mesh.listTokens({})).items.map(tokenShape), '');
      const rows = page.items.map((t) => [t.id, t.role, safe(t.name ?? '-'), String(t.usesLeft), t.expiresAt ?? '-']);
      const columns = ['ID', 'ROLE', 'NAME', 'USES LEFT', 'EXPIRES'].map((title) => ({ title }));
      print(options, page, () => (rows.length === 0 ? 'There are no tokens.\n' : renderTable(columns, rows)));
    });
  });
}

function revoke(): Command {
  return makeCommand('revoke', 'Make a join token useless. Who has joined with it stays.', ['mesh token revoke ID'])
    .addArgument(new Argument('<id>', 'the id of a token, as listed'))
    .action(async (id: string, _options: object, command: Command) => {
      const options = optionsOf(command);
      exitOnInterrupt(options.json === true);
      await withConnection(options, async ({ mesh }) => {
        await mesh.revokeToken({ id });
        print(options, { id, revoked: true }, () => `${safe(id)} is revoked\n`);
      });
    });
}
