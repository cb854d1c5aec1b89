import { Argument, Command } from 'commander';
import { MeshError } from '../../common/errors.js';
import { isName } from '../../common/ids.js';
import { asInteger, asNumber } from '../../common/numbers.js';
import { formatSize, parseSize } from '../../common/units.js';
import { namespaceShape, pageShape } from '../../sdk/shapes.js';
import { exitOnInterrupt, makeCommand, optionsOf, parsedOption, present, print, withConnection } from '../context.js';
import { renderTable } from '../render/table.js';
import { safe } from '../render/terminal.js';

type Shape = ReturnType<typeof namespaceShape>;

/** A quota's flag: a value, or null to take it away. */
type Given = number | null;

interface SetOptions {
  running?: Given;
  queued?: Given;
  cpus?: Given;
  bytes?: Given;
  member?: string[];
  without?: string[];
}

const QUOTAS = ['running', 'queued', 'cpus', 'bytes'] as const;

export function build(): Command {
  return new Command('namespace')
    .description('Groups of submitters and what each may take of the mesh. Who is in no other is in "default".')
    .addCommand(list())
    .addCommand(set())
    .addCommand(remove());
}

function list(): Command {
  return makeCommand('list', 'List the namespaces: what each takes, and its quotas. Submitters see their own.', [
    'mesh namespace list',
    'mesh namespace list --json',
  ]).action(async (_options: object, command: Command) => {
    const options = optionsOf(command);
    exitOnInterrupt(options.json === true);
    await withConnection(options, async ({ namespaces }) => {
      const page = pageShape((await namespaces.listNamespaces({})).items.map(namespaceShape), '');
      print(options, page, () => namespaceTable(page.items));
    });
  });
}

function set(): Command {
  return makeCommand('set', 'Make a namespace, or change its quotas and members. What is not named stays as it is.', [
    'mesh namespace set students --running 20 --queued 5000 --cpus 16 --bytes 50GiB --member anna --member ben',
    'mesh namespace set students --cpus none --without ben',
    'mesh namespace set default --queued 100000          # everybody who is in no other',
  ])
    .addArgument(nameArgument())
    .addOption(parsedOption('--running <n>', 'tasks assigned at a time, or none', orNone(asInteger(1, 2 ** 31 - 1))))
    .addOption(parsedOption('--queued <n>', 'tasks that may wait, or none', orNone(asInteger(0, 2 ** 40))))
    .addOption(parsedOption('--cpus <n>', 'CPUs that assigned tasks ask for, or none', orNone(asNumber(0.001, 1e9))))
    .addOption(parsedOption('--bytes <size>', 'files that its kept jobs were given, or none', orNone(parseSize)))
    .option('--member <name>', 'a submitter who joins it, and leaves the one it was in; may repeat', gather)
    .option('--without <name>', 'a submitter who leaves it for the default one; may repeat', gather)
    .action(async (name: string, _options: SetOptions, command: Command) => {
      const options = optionsOf<SetOptions>(command);
      const { running, queued, cpus, bytes, member = [], without = [] } = options;
      exitOnInterrupt(options.json === true);
      await withConnection(options, async ({ namespaces }) => {
        const response = await namespaces.setNamespace({
          name,
          quotas: {
            running: running ?? undefined,
            queued: queued ?? undefined,
            cpuMillis: cpus === undefined || cpus === null ? undefined : Math.round(cpus * 1000),
            bytes: bytes ?? undefined,
          },
          unlimited: QUOTAS.filter((quota) => options[quota] === null),
          members: member,
          without,
        });
        const shape = namespaceShape(present(response.namespace, 'the namespace'));
        print(options, shape, () => namespaceTable([shape]));
      });
    });
}

function remove(): Command {
  return makeCommand('remove', 'Remove a namespace that has no work. Its members are in "default" afterwards.', [
    'mesh namespace remove students',
  ])
    .addArgument(nameArgument())
    .action(async (name: string, _options: object, command: Command) => {
      const options = optionsOf(command);
      exitOnInterrupt(options.json === true);
      await withConnection(options, async ({ namespaces }) => {
        await namespaces.removeNamespace({ name });
        print(options, { name, removed: true }, () => `${safe(name)} is removed\n`);
      });
    });
}

const nameArgument = () =>
  new Argument('<name>', '1 to 63 of a-z, 0-9 and -').argParser((text: string) => {
    if (!isName(text)) throw new MeshError('BAD_NAME', `"${text}" cannot be a name`);
    return text;
  });

const orNone =
  (parse: (text: string) => number) =>
  (text: string): Given =>
    text === 'none' ? null : parse(text);

const gather = (name: string, before: string[] = []): string[] => [...before, name];

const share = (used: number, quota: number | null, show: (value: number) => string = String): string =>
  quota === null ? show(used) : `${show(used)} of ${show(quota)}`;

/** What is taken, and of how much where there is a quota. */
function namespaceTable(items: readonly Shape[]): string {
  const columns = ['NAMESPACE', 'RUNNING', 'QUEUED', 'CPUS', 'STORED', 'MEMBERS'].map((title) => ({ title }));
  const rows = items.map(({ name, usage, quotas, members }) => [
    safe(name),
    share(usage.running, quotas.running),
    share(usage.queued, quotas.queued),
    share(usage.cpus, quotas.cpus),
    share(usage.bytes, quotas.bytes, formatSize),
    members.length === 0 ? '-' : safe(members.join(' ')),
  ]);
  return renderTable(columns, rows);
}
