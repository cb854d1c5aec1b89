/** Approving a machine by answering a question on a terminal. */
import t, { before, test } from 'tap';
import { type Mesh, programPath, startMesh } from '../support/mesh.js';
import { Terminal } from '../support/terminal.js';

let mesh: Mesh;

before(async () => {
  mesh = await startMesh(t, { coordinator: ['--approve-nodes'] });
});

test('a machine is let in by who says yes to its words, and by nothing else', async (t) => {
  const to = ['--coordinator', mesh.coordinator.ready.address, '--join', await mesh.token(), '--slots', '1'];
  const flags = ['--data', mesh.folder('agent-attic'), '--name', 'attic', '--no-mdns'];
  const agent = mesh.launch('agent', [...flags, ...to]);
  const { phrase } = await agent.logged('join.waiting');
  const answer = async (typed: string) => {
    const terminal = new Terminal([process.execPath, programPath('mesh'), 'nodes', 'approve', 'attic'], {
      ...{ cwd: mesh.root, env: mesh.environment },
    });
    await terminal.shows(String(phrase));
    await terminal.shows('Does it? [y/N] ');
    terminal.type(typed);
    return { code: await terminal.ended, shown: terminal.shown };
  };
  for (const no of ['\r', 'n\r', 'yours\r'])
    t.match(await answer(no), { code: 1, shown: /mesh: attic was not approved; / }, JSON.stringify(no));
  for (const key of ['\u0003', '\u0004'])
    t.match(await answer(key), { code: 130, shown: /mesh: interrupted; nothing was approved/ }, JSON.stringify(key));
  t.match(await answer('y\r'), { code: 0, shown: /attic is let in/ });
  await agent.logged('session.open');
});
