/** Two meshes that share a network. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'tap';
import { makeMesh } from '../support/mesh.js';

test('two meshes on one network: an agent joins the one its token is of', async (t) => {
  const [one, two] = [makeMesh(t, { mdns: true }), makeMesh(t, { mdns: true })];
  const [first, second] = [await one.startCoordinator(), await two.startCoordinator()];
  t.not(first.ready.meshId, second.ready.meshId);
  const agents = await Promise.all([one.startAgent('x'), two.startAgent('x')]);
  const port = (address: string) => address.split(':').at(-1);
  t.equal(port(agents[0].ready.coordinator), port(first.ready.address));
  t.equal(port(agents[1].ready.coordinator), port(second.ready.address));
  for (const side of [one, two]) {
    t.strictSame(
      (await side.nodes()).map(({ name }) => name),
      ['x'],
    );
    t.match(await side.submit('--wait', '--', 'true'), { status: 'COMPLETED' });
  }
  const token = await one.token();
  const mixed = ['--data', agents[1].dataDir, '--join', token];
  await agents[1].program.stop();
  const refused = await two.run('agent', mixed);
  t.equal(refused.code, 1);
  t.match(refused.stderr, /belongs to the mesh mesh-[a-z0-9]+, the token to mesh-/);
  t.ok(existsSync(join(agents[1].dataDir, 'agent.crt')), 'what it had is still there');
});
