import type { Command } from 'commander';
import { nodeShape } from '../sdk/shapes.js';
import { exitOnInterrupt, makeCommand, optionsOf, present, print, withConnection } from './context.js';
import { safe } from './render/terminal.js';

/** `drain` and `undrain` differ in one bit. */
export function drainCommand(name: 'drain' | 'undrain', description: string): Command {
  const draining = name === 'drain';
  return makeCommand(name, description, [`mesh ${name} render-1`])
    .argument('<name>', 'the name of a node')
    .action(async (node: string, _options: object, command: Command) => {
      const options = optionsOf(command);
      exitOnInterrupt(options.json === true);
      await withConnection(options, async ({ mesh }) => {
        const shape = nodeShape(present((await mesh.drainNode({ name: node, draining })).node, 'the node'));
        print(options, shape, () =>
          draining
            ? `${safe(shape.name)} gets no more work; ${shape.running} of its tasks still run\n`
            : `${safe(shape.name)} gets work again\n`,
        );
      });
    });
}
