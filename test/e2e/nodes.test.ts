/** Nodes that go: forgotten once they are gone, or shut out; and a mesh on one machine that lets in its own. */
import { join } from 'node:path';
import t, { before, test } from 'tap';
import { type Agent, type Mesh, startMesh } from '../support/mesh.js';
import { until } from '../support/until.js';

let mesh: Mesh;
let goes: Agent;

before(async () => {
  mesh = await startMesh(t, { agents: ['stays', 'stolen'] });
  goes = await mesh.startAgent('goes', { args: ['--slots', '1', '--stop-grace', '100ms'] });
});

const names = async (): Promise<string[]> => (await mesh.nodes()).map(({ name }) => name);

test('a node that is connected is not removed; one that has left is, and history keeps its name', async (t) => {
  const job = await mesh.submit('--wait', '--where', 'name=goes', '--', 'true');
  const early = await mesh.cli('remove', 'goes', '--json');
  t.equal(early.code, 1);
  t.match(early.error(), { code: 'CONFLICT', message: /it is connected/, hint: /mesh revoke goes/ });
  const { program } = mesh.coordinator;
  const mark = program.mark();
  await goes.program.stop();
  await program.logged('node.offline', ({ node }) => node === 'goes', mark);
  t.match((await mesh.cli('remove', 'goes', '--json')).json(), { name: 'goes', removed: true });
  t.strictSame(await names(), ['stays', 'stolen']);
  t.equal((await mesh.cli('node', 'goes')).code, 5);
  t.match(await mesh.tasks(job.id), [{ node: 'goes' }]);
  const { address } = mesh.coordinator.ready;
  const back = await mesh.run('agent', ['--data', goes.dataDir, '--coordinator', address, '--no-mdns']);
  t.equal(back.code, 4, 'it does not come back by itself');
});

test('a stolen node is shut out at once and forgotten; a person of its name stays; what it had runs elsewhere', async (t) => {
  const profile = join(mesh.root, 'profile-stolen');
  const token = await mesh.token('--role', 'viewer', '--name', 'stolen');
  const { address } = mesh.coordinator.ready;
  t.equal((await mesh.cli('login', token, '--coordinator', address, '--profile', profile)).code, 0);
  const gate = mesh.witness.gate('gate');
  const trace = mesh.witness.path('ran');
  const script = `echo $MESH_NODE >> ${trace}; test $MESH_NODE = stays || read x < ${gate.path}`;
  t.equal((await mesh.cli('drain', 'stays')).code, 0);
  const job = await mesh.submit('--', 'sh', '-c', script);
  t.strictSame(await mesh.witness.seen('ran'), ['stolen']);
  const revoked = (await mesh.cli('revoke', 'stolen', '--json')).json<{ serials: string[] }>();
  t.match(revoked, { name: 'stolen', revoked: true });
  t.equal(revoked.serials.length, 1);
  t.equal((await mesh.cli('nodes', '--profile', profile)).code, 0, 'the viewer of that name is another holder');
  t.equal((await mesh.cli('revoke', 'stolen')).code, 5, 'twice');
  t.match((await mesh.cli('remove', 'stolen')).stdout, 'stolen is forgotten');
  t.strictSame(await names(), ['stays']);
  t.equal((await mesh.cli('undrain', 'stays')).code, 0);
  t.match(await mesh.wait(job.id), { status: 'COMPLETED' });
  t.match(await mesh.tasks(job.id), [{ node: 'stays', losses: 1 }]);
});

test('mesh up --approve-nodes: its own agents come in, another waits and is shown', async (t) => {
  const running = mesh.watch('up', '--data', join(mesh.root, 'up'), '--port', '0', '--agents', '1', '--approve-nodes');
  const command = await until('the command to join', () => running.lines.find((line) => /--join/.test(line)), running);
  await until('its own agent', () => running.lines.some((line) => /: HEALTHY$/.test(line)), running);
  const token = command.trim().split(' ').at(-1) ?? '';
  const address = /at (\S+:\d+)/.exec(running.lines.join('\n'))?.[1] ?? '';
  const flags = ['--data', mesh.folder('agent-other'), '--name', 'other', '--coordinator', address, '--no-mdns'];
  const other = mesh.launch('agent', [...flags, '--join', token, '--ready-file', join(mesh.root, 'ready', 'other')]);
  const { phrase } = await other.logged('join.waiting');
  const shown = `other waits for approval and must show: ${String(phrase)}; then: mesh nodes approve other`;
  await until('who waits', () => running.lines.includes(shown), running);
  other.signal('SIGINT');
  t.equal((await other.ended).code, 130);
  running.child.kill('SIGTERM');
  t.equal((await running.result).code, 0);
});
