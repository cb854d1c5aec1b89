import { once } from 'node:events';
import { createInterface } from 'node:readline/promises';
import { Argument, Command } from 'commander';
import { systemClock } from '../../common/clock.js';
import { MeshError } from '../../common/errors.js';
import { parsePhrase } from '../../common/identity/phrase.js';
import type { MeshConnection } from '../../sdk/connect.js';
import { coordinatorShape, nodeShape, pageShape, type WaitingShape } from '../../sdk/shapes.js';
import { exitOnInterrupt, makeCommand, optionsOf, parsedOption, print, withConnection } from '../context.js';
import { safe } from '../render/terminal.js';
import { listWaiting, type Waiting } from '../waiting.js';
import { coordinatorsTable, nodesTable, waitingTable } from '../render/views.js';

interface ListOptions {
  waiting?: boolean;
}

interface ApproveOptions {
  phrase?: string;
  yes?: boolean;
}

export function build(): Command {
  const nodes = makeCommand(
    'nodes',
    'List the nodes of the mesh, machines that wait for approval, and the coordinators with the one that leads.',
    [
      'mesh nodes',
      "mesh nodes --json | jq '.items[] | {name, state}'",
      "mesh nodes --json | jq '.coordinators[] | select(.leader)'",
      'mesh nodes --waiting',
      'mesh nodes approve render-1',
    ],
  )
    .option('--waiting', 'only the machines that wait for approval')
    .action(async (_options: ListOptions, command: Command) => {
      const options = optionsOf<ListOptions>(command);
      exitOnInterrupt(options.json === true);
      await withConnection(options, async (connection) => {
        if (options.waiting) {
          const page = pageShape(await shownWaiting(connection), '');
          return print(options, page, () => waitingText(page.items) || 'No machine waits for approval.\n');
        }
        const answer = await connection.mesh.listNodes({});
        const waiting = await waitingIfAllowed(connection);
        const coordinators = answer.coordinators.map(coordinatorShape);
        const page = { ...pageShape(answer.items.map(nodeShape), ''), coordinators, waiting };
        print(options, page, () => {
          const none = 'No node has joined yet. Add one: mesh token create\n';
          const parts = [page.items.length === 0 ? none : nodesTable(page.items), waitingText(waiting)];
          // One coordinator is not worth a table.
          if (coordinators.length > 1) parts.push(coordinatorsTable(coordinators, systemClock.wallMs()));
          return parts.filter((part) => part !== '').join('\n');
        });
      });
    });
  return nodes.addCommand(approve()).addCommand(refuse());
}

function approve(): Command {
  return makeCommand(
    'approve',
    'Let a machine in that waits, after comparing the six words here with those it shows itself.',
    ['mesh nodes approve render-1', 'mesh nodes approve render-1 --phrase "six words as the machine shows them"'],
  )
    .addArgument(new Argument('<name>', 'a machine that waits, as listed by mesh nodes --waiting'))
    .addOption(parsedOption('--phrase <words>', 'the words the machine shows, instead of being asked', parsePhrase))
    .option('--yes', 'do not ask; whoever waits under the name is let in')
    .action(async (name: string, _options: ApproveOptions, command: Command) => {
      const options = optionsOf<ApproveOptions>(command);
      exitOnInterrupt(options.json === true, 'nothing was approved');
      await withConnection(options, async (connection) => {
        const { shown, publicKey } = await findWaiting(connection, name);
        await agree(shown, options);
        const { name: given, serial } = await connection.nodes.approveNode({ name, publicKey });
        print(options, { ...shown, name: given, serial, approved: true }, () => `${safe(given)} is let in\n`);
      });
    });
}

function refuse(): Command {
  return makeCommand('refuse', 'Turn a machine away that waits. It is told, and stops asking.', [
    'mesh nodes refuse render-1',
  ])
    .addArgument(new Argument('<name>', 'a machine that waits, as listed by mesh nodes --waiting'))
    .action(async (name: string, _options: object, command: Command) => {
      const options = optionsOf(command);
      exitOnInterrupt(options.json === true);
      await withConnection(options, async (connection) => {
        const { shown, publicKey } = await findWaiting(connection, name);
        await connection.nodes.refuseNode({ name, publicKey });
        const token = safe(shown.token);
        print(options, { ...shown, refused: true }, () => `${safe(name)} is refused\n`);
        if (!options.json)
          process.stderr.write(`if its token fell into wrong hands, end that too: mesh token revoke ${token}\n`);
      });
    });
}

const shownWaiting = async (connection: MeshConnection): Promise<WaitingShape[]> =>
  (await listWaiting(connection)).map(({ shown }) => shown);

/** Only operators hear who waits, and only from the leader; the list of nodes is for others too. */
async function waitingIfAllowed(connection: MeshConnection): Promise<WaitingShape[]> {
  return shownWaiting(connection).catch((error: unknown) => {
    if (error instanceof MeshError && ['DENIED', 'NOT_LEADER'].includes(error.code)) return [];
    throw error;
  });
}

async function findWaiting(connection: MeshConnection, name: string): Promise<Waiting> {
  const found = (await listWaiting(connection)).find(({ shown }) => shown.name === name);
  if (found) return found;
  throw new MeshError('NOT_FOUND', `no machine waits for approval as "${name.slice(0, 80)}"`, {
    hint: 'see: mesh nodes --waiting',
  });
}

/** @throws MeshError CONFLICT when the words differ or the answer is no, INTERRUPTED, USAGE when nobody can be asked */
async function agree({ name, phrase, address }: WaitingShape, options: ApproveOptions & { json?: boolean }) {
  const hint = `somebody else may ask under this name: mesh nodes refuse ${name}`;
  if (options.phrase !== undefined) {
    if (options.phrase === phrase) return;
    throw new MeshError('CONFLICT', `the words are not those of ${name}, which are: ${phrase}`, { hint });
  }
  if (options.yes) return;
  if (options.json || !process.stdin.isTTY)
    throw new MeshError('USAGE', 'there is no terminal to ask on', {
      hint: 'give the words the machine shows with --phrase, or --yes',
    });
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  // Neither Ctrl-C nor Ctrl-D answers a question of readline: both only close it.
  const left = once(terminal, 'close').then(() => {
    throw new MeshError('INTERRUPTED', 'interrupted', { hint: 'nothing was approved' });
  });
  left.catch(() => undefined);
  try {
    process.stderr.write(`${safe(name)}, asking from ${safe(address)}, must show these words:\n\n  ${phrase}\n\n`);
    const answer = await Promise.race([terminal.question('Does it? [y/N] ').catch(() => left), left]);
    if (/^y(?:es)?$/i.test(answer.trim())) return;
  } finally {
    terminal.close();
  }
  throw new MeshError('CONFLICT', `${name} was not approved`, { hint });
}

const waitingText = (waiting: readonly WaitingShape[]): string =>
  waiting.length === 0
    ? ''
    : `${waitingTable(waiting, systemClock.wallMs())}Compare the words with those the machine shows, then: mesh nodes approve NAME\n`;
