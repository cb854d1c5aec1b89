import { Argument, type Command } from 'commander';
import { exitOnInterrupt, makeCommand, optionsOf, print, withConnection } from '../context.js';
import { safe } from '../render/terminal.js';

export function build(): Command {
  return makeCommand(
    'remove',
    'Forget a node that is gone: OFFLINE, or revoked. Its certificates are revoked, what it held goes elsewhere; tasks that ran there keep its name.',
    ['mesh remove old-laptop', 'mesh revoke stolen-laptop && mesh remove stolen-laptop'],
  )
    .addArgument(new Argument('<name>', 'the name of a node'))
    .action(async (name: string, _options: object, command: Command) => {
      const options = optionsOf(command);
      exitOnInterrupt(options.json === true);
      await withConnection(options, async ({ nodes }) => {
        await nodes.removeNode({ name });
        print(options, { name, removed: true }, () => `${safe(name)} is forgotten\n`);
      });
    });
}
