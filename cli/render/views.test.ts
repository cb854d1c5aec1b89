import { test } from 'tap';
import { Node } from '../../proto/gen/mesh/v1/mesh.js';
import { nodeShape } from '../../sdk/shapes.js';
import { nodesTable, nodeView } from './views.js';

const node = (over: Partial<Node> = {}) => nodeShape(Node.fromPartial({ name: 'attic', state: 'HEALTHY', ...over }));

test('a suspended node shows that beside its state, and why where there is room', (t) => {
  const why = 'it failed what others did not; it is tried again in 40 s';
  const table = nodesTable([node({ suspended: why, draining: true }), node({ name: 'cellar' })]);
  t.match(table, /attic +HEALTHY draining suspended /);
  t.match(table, /cellar +HEALTHY +0/);
  t.match(nodeView(node({ suspended: why })), new RegExp(`suspended:? +${why}`));
  t.notMatch(nodeView(node()), /suspended/);
  t.end();
});

test('a node whose certificate will end because it is not renewed shows that beside its state, and where to look', (t) => {
  const table = nodesTable([node({ renewalOverdue: true }), node({ name: 'cellar' })]);
  t.match(table, /attic +HEALTHY expiring /);
  t.match(table, /cellar +HEALTHY +0/);
  t.match(nodeView(node({ renewalOverdue: true })), /expiring:? +it renews .* in vain; .*certificate\.renewal_failed/);
  t.notMatch(nodeView(node()), /expiring/);
  t.end();
});
