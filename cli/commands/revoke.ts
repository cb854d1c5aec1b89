import { Argument, type Command } from 'commander';
import { exitOnInterrupt, makeCommand, optionsOf, print, withConnection } from '../context.js';
import { counted, safe } from '../render/terminal.js';

export function build(): Command {
  return makeCommand(
    'revoke',
    'Shut a node out at once: its certificates are revoked, its session ends. It comes back only with a token that names it.',
    ['mesh revoke render-1', 'mesh revoke render-1 && mesh remove render-1'],
  )
    .addArgument(new Argument('<name>', 'the name of a node'))
    .action(async (name: string, _options: object, command: Command) => {
      const options = optionsOf(command);
      exitOnInterrupt(options.json === true);
      await withConnection(options, async ({ nodes }) => {
        const { serials } = await nodes.revokeNode({ name });
        const text = () => `${safe(name)} is shut out (${counted(serials.length, 'certificate')} revoked)\n`;
        print(options, { name, revoked: true, serials }, text);
      });
    });
}
