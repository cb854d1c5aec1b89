import type { Command } from 'commander';
import { nodeShape, pageShape } from '../../sdk/shapes.js';
import { exitOnInterrupt, makeCommand, optionsOf, print, withConnection } from '../context.js';
import { nodesTable } from '../render/views.js';

export function build(): Command {
  return makeCommand('nodes', 'List the nodes of the mesh.', [
    'mesh nodes',
    "mesh nodes --json | jq '.items[] | {name, state}'",
  ]).action(async (_options: object, command: Command) => {
    const options = optionsOf(command);
    exitOnInterrupt(options.json === true);
    await withConnection(options, async ({ mesh }) => {
      const page = pageShape((await mesh.listNodes({})).items.map(nodeShape), '');
      print(options, page, () =>
        page.items.length === 0 ? 'No node has joined yet. Add one: mesh token create\n' : nodesTable(page.items),
      );
    });
  });
}
