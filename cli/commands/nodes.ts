import type { Command } from 'commander';
import { systemClock } from '../../common/clock.js';
import { coordinatorShape, nodeShape, pageShape } from '../../sdk/shapes.js';
import { exitOnInterrupt, makeCommand, optionsOf, print, withConnection } from '../context.js';
import { coordinatorsTable, nodesTable } from '../render/views.js';

export function build(): Command {
  return makeCommand('nodes', 'List the nodes of the mesh, and its coordinators with the one that leads.', [
    'mesh nodes',
    "mesh nodes --json | jq '.items[] | {name, state}'",
    "mesh nodes --json | jq '.coordinators[] | select(.leader)'",
  ]).action(async (_options: object, command: Command) => {
    const options = optionsOf(command);
    exitOnInterrupt(options.json === true);
    await withConnection(options, async ({ mesh }) => {
      const answer = await mesh.listNodes({});
      const coordinators = answer.coordinators.map(coordinatorShape);
      const page = { ...pageShape(answer.items.map(nodeShape), ''), coordinators };
      print(options, page, () => {
        const none = 'No node has joined yet. Add one: mesh token create\n';
        const nodes = page.items.length === 0 ? none : nodesTable(page.items);
        // One coordinator is not worth a table.
        if (coordinators.length < 2) return nodes;
        return `${nodes}\n${coordinatorsTable(coordinators, systemClock.wallMs())}`;
      });
    });
  });
}
