/** B21: certificates that end while a machine is off or asleep. It comes back by itself, and its tasks are not lost. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'tap';
import { expiredAtMs } from '../../link/recover.js';
import { eventually } from '../support/eventually.js';
import { type Agent, type Mesh, startMesh } from '../support/mesh.js';

const QUICK = ['--heartbeat', '300ms', '--leader-lease', '3s', '--agent-certificate-life', '10s'];
const AGENT = ['--slots', '1', '--stop-grace', '100ms', '--kill-grace', '300ms'];

const endMs = ({ dataDir }: Agent): number =>
  expiredAtMs({ certificateChain: readFileSync(join(dataDir, 'agent.crt'), 'utf8'), privateKey: '', root: '' });

/** The certificate that the stopped agent holds is over, by this machine's clock, which is the coordinator's too. */
const ended = (agent: Agent) => eventually('the certificate to end', () => Date.now() > endMs(agent));

/** Leaves a line when it begins, waits to be let through, and leaves another. */
const held = (mesh: Mesh, name: string) => [
  ...['--', 'sh', '-c'],
  `echo begun >> ${mesh.witness.path(name)}; read line < ${mesh.witness.path(`${name}-gate`)}; echo done >> ${mesh.witness.path(name)}`,
];

const audited = async (mesh: Mesh, action: string): Promise<string> =>
  (await mesh.cli('audit', '--action', action, '--json')).stdout;

test('B21: killed in the middle of a task and started again past the end of its certificate, it comes back by itself', async (t) => {
  const mesh = await startMesh(t, { coordinator: [...QUICK, '--node-lease', '3s'] });
  const agent = await mesh.startAgent('a1', { args: AGENT });
  const gate = mesh.witness.gate('killed-gate');
  const job = await mesh.submit(...held(mesh, 'killed'));
  await mesh.witness.seen('killed');
  await agent.program.kill();
  await ended(agent);
  const again = await mesh.startAgent('a1', { args: AGENT });
  t.match(await again.program.logged('certificate.recovered'), { notAfter: /^20/ });
  await mesh.witness.seen('killed', 2);
  gate.open(2);
  t.match(await mesh.wait(job.id), { status: 'COMPLETED', tasks: { completed: 1 } });
  t.match(await audited(mesh, 'certificate.recovered'), /agent\/a1/);
});

test('B21: stopped past the end of its certificate it recovers while it runs; its task never noticed', async (t) => {
  const mesh = await startMesh(t, { coordinator: [...QUICK, '--node-lease', '60s'] });
  const agent = await mesh.startAgent('a1', { args: AGENT });
  const gate = mesh.witness.gate('asleep-gate');
  const job = await mesh.submit(...held(mesh, 'asleep'));
  await mesh.witness.seen('asleep');
  const mark = agent.program.mark();
  agent.program.signal('SIGSTOP');
  await ended(agent);
  agent.program.signal('SIGCONT');
  await agent.program.logged('certificate.recovered', () => true, mark);
  gate.open();
  t.match(await mesh.wait(job.id), { status: 'COMPLETED', tasks: { completed: 1 } });
  t.same(mesh.witness.lines('asleep'), ['begun', 'done'], 'it ran once');
  t.match(await mesh.tasks(job.id), [{ losses: 0, failures: 0 }]);
  t.match(await mesh.coordinator.program.logged('certificate.recovered'), { name: 'a1' });
});

test('A5: a mesh that takes nobody back says what to do, and that works', async (t) => {
  const mesh = await startMesh(t, { coordinator: [...QUICK, '--node-lease', '3s', '--recover-within', '0'] });
  const agent = await mesh.startAgent('a1', { args: AGENT });
  await agent.program.kill();
  const job = await mesh.submit('--', 'true');
  await ended(agent);
  const { address } = mesh.coordinator.ready;
  const flags = ['--data', agent.dataDir, '--no-mdns', '--sandbox', 'process', '--coordinator', address, ...AGENT];
  const refused = mesh.launch('agent', flags);
  const line = await refused.logged('session.failed');
  t.match(line, { code: 'EXPIRED', reason: /expired at .* this mesh takes nobody back/ });
  t.match(line.hint, /mesh token create --name a1 --replace.*--join TOKEN/);
  t.ok(refused.running, 'it goes on: the mesh may be set to take it back');
  t.equal((await refused.stop()).code, 0);
  t.match(await audited(mesh, 'recovery.refused'), /agent\/a1/);

  const token = await mesh.token('--name', 'a1', '--replace');
  await mesh.startAgent('a1', { args: [...AGENT, '--join', token] });
  t.match(await mesh.wait(job.id), { status: 'COMPLETED' }, 'what was submitted meanwhile is done');
});
