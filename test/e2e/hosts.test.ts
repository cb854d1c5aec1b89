/** Three machines on a LAN without a default route: they find each other over mDNS, and a token is all they are told. */
import { join } from 'node:path';
import t, { before, test } from 'tap';
import { createLan, type Lan, type LanHost, noNetns } from '../support/netns.js';
import { type Agent, makeMesh, type Mesh, type Page } from '../support/mesh.js';
import type { Spawner } from '../support/program.js';

let lan: Lan;
let mesh: Mesh;
let agents: Agent[];
const skip = noNetns;

const on =
  (host: LanHost): Spawner =>
  (file, args, options) =>
    host.spawn(file, args, options);

before(async () => {
  if (skip) return;
  lan = createLan(t, ['coordinator', 'left', 'right']);
  mesh = makeMesh(t, { mdns: true });
  mesh.enter = ['ip', 'netns', 'exec', lan.host('coordinator').namespace];
  const args = ['--heartbeat', '500ms', '--node-lease', '1m'];
  await mesh.startCoordinator({ spawner: on(lan.host('coordinator')), args });
  agents = await Promise.all(
    ['left', 'right'].map((name) => mesh.startAgent(name, { spawner: on(lan.host(name)), args: ['--slots', '1'] })),
  );
});

test('agents on two hosts find the coordinator on a third and join it', { skip }, async (t) => {
  const port = mesh.coordinator.ready.address.split(':').at(-1);
  for (const { ready } of agents)
    t.equal(ready.coordinator, `${lan.host('coordinator').address()}:${port}`, `${ready.name} came over the LAN`);
  t.match(await mesh.nodes(), [
    { name: 'left', state: 'HEALTHY' },
    { name: 'right', state: 'HEALTHY' },
  ]);
});

test('a job runs on both, with the files it was given', { skip }, async (t) => {
  const gate = mesh.witness.gate('lan-gate');
  const script = `echo $MESH_NODE >> ${mesh.witness.path('lan')}; read x < ${gate.path}; ip -o -4 address show; echo {}`;
  const input = 'one\ntwo\n';
  const submitted = await mesh.cliWith({ input }, 'submit', '--json', '--each', '-', '--', 'sh', '-c', script);
  const { id } = submitted.json<{ id: string }>();
  t.strictSame((await mesh.witness.seen('lan', 2)).sort(), ['left', 'right']);
  gate.open(2);
  t.match(await mesh.wait(id), { status: 'COMPLETED' });
  for (const { node, result } of await mesh.tasks(id)) {
    const addresses = String(result).match(/10\.88\.0\.\d+/);
    t.equal(addresses?.[0], lan.host(node ?? '').address(), `${node} is a machine of its own`);
  }
});

test('a person on another host logs in with a token and nothing else', { skip }, async (t) => {
  const token = await mesh.token('--role', 'submitter', '--name', 'anna');
  const profile = join(mesh.root, 'anna');
  const { enter } = mesh;
  mesh.enter = ['ip', 'netns', 'exec', lan.host('right').namespace];
  const login = await mesh.cli('login', token, '--profile', profile);
  t.equal(login.code, 0, login.stderr);
  const ran = await mesh.cli('submit', '--profile', profile, '--results', '--', 'echo', 'hello');
  t.match(ran, { code: 0, stdout: 'hello\n' });
  const jobs = (await mesh.cli('jobs', '--json', '--profile', profile)).json<Page<{ submitter: string }>>();
  t.match(jobs.items, [{ submitter: 'anna' }]);
  mesh.enter = enter;
});

test('a cable that is pulled for a moment costs nothing', { skip }, async (t) => {
  const gate = mesh.witness.gate('cable-gate');
  const trace = mesh.witness.path('cable');
  const script = `echo start >> ${trace}; read x < ${gate.path}; echo done`;
  const { program } = mesh.coordinator;
  const job = await mesh.submit('--where', 'name=left', '--', 'sh', '-c', script);
  await mesh.witness.seen('cable');
  const mark = program.mark();
  lan.cable('left', false);
  await program.logged('node.suspect', (event) => event.node === 'left', mark);
  lan.cable('left', true);
  await program.logged('node.healthy', (event) => event.node === 'left', mark);
  gate.open();
  t.match(await mesh.wait(job.id), { status: 'COMPLETED' });
  t.match(await mesh.tasks(job.id), [{ attempts: 1, losses: 0, result: 'done\n' }]);
  t.equal(mesh.witness.lines('cable').length, 1);
});
