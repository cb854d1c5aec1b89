import type { Command } from 'commander';
import { nodeShape } from '../../sdk/shapes.js';
import { exitOnInterrupt, makeCommand, optionsOf, present, print, withConnection } from '../context.js';
import { nodeView } from '../render/views.js';

export function build(): Command {
  return makeCommand('node', 'Show one node.', ['mesh node render-1'])
    .argument('<name>', 'the name of a node')
    .action(async (name: string, _options: object, command: Command) => {
      const options = optionsOf(command);
      exitOnInterrupt(options.json === true);
      await withConnection(options, async ({ mesh }) => {
        const node = nodeShape(present((await mesh.getNode({ name })).node, 'the node'));
        print(options, node, () => nodeView(node));
      });
    });
}
