/**
 * What is lost between an agent and its coordinator, at the worst moment: an assignment that was committed and never
 * arrived, a result that was committed and never acknowledged, connections that break again and again. Agents connect
 * through a proxy that withholds one direction or cuts.
 */
import t, { before, test } from 'tap';
import { eventually } from '../support/eventually.js';
import { type FaultyProxy, startProxy } from '../support/faulty-proxy.js';
import { type Agent, type Mesh, startMesh } from '../support/mesh.js';

const shell = (script: string): string[] => ['--', 'sh', '-c', script];
/** The lease outlasts everything that happens here: what runs is never given away. */
const COORDINATOR = ['--listen', '127.0.0.1', '--heartbeat', '300ms', '--node-lease', '20s'];
/** Whatever agents learn, the proxy is the only way. */
const behindProxy = (): string[] => [...COORDINATOR, '--advertise', proxy.address];
const AGENT = ['--slots', '2', '--kill-grace', '300ms', '--stop-grace', '100ms'];
let mesh: Mesh;
let proxy: FaultyProxy;
let agent: Agent;
let traces: string;

const startAgent = async (): Promise<void> => {
  agent = await mesh.startAgent('a1', { args: [...AGENT, '--coordinator', proxy.address] });
};

before(async () => {
  proxy = await startProxy(t, () => mesh.coordinator.ready.address);
  mesh = await startMesh(t, { coordinator: behindProxy() });
  traces = mesh.witness.folder;
  await startAgent();
});

/** Kills the coordinator, starts it again, and waits until the agent is back. */
async function restartCoordinator(): Promise<void> {
  await mesh.coordinator.program.kill();
  proxy.cut();
  await mesh.startCoordinator({ args: behindProxy() });
  await mesh.coordinator.program.logged('node.connected', ({ node }) => node === 'a1');
}

const tasksAre = (id: string, status: string): Promise<boolean> =>
  eventually(`the tasks of ${id} to be ${status}`, async () =>
    (await mesh.tasks(id)).every((task) => task.status === status),
  );

test('the coordinator is killed between commit and send: sent again under the same generation', async (t) => {
  proxy.hold('down');
  const job = await mesh.submit(...shell(`echo "$MESH_GENERATION" >> ${traces}/unsent`));
  await tasksAre(job.id, 'ASSIGNED');
  t.strictSame(mesh.witness.lines('unsent'), [], 'the agent has not heard of it');
  await restartCoordinator();
  t.match(await mesh.wait(job.id), { status: 'COMPLETED' });
  t.strictSame(mesh.witness.lines('unsent'), ['1']);
  t.match(await mesh.tasks(job.id), [{ generation: 1, attempts: 1, losses: 0 }]);
  const back = mesh.coordinator.program.events.find(({ event }) => event === 'node.connected');
  t.match(back, { resent: 1, superseded: 0 });
});

test('an assignment that arrives late on a connection that was given up changes nothing', async (t) => {
  const { program } = mesh.coordinator;
  const mark = program.mark();
  proxy.hold('down', false);
  const job = await mesh.submit(...shell(`echo "$MESH_GENERATION" >> ${traces}/late`));
  // The heartbeats are not answered either: the agent opens another session, which brings the assignment again.
  t.match(await mesh.wait(job.id), { status: 'COMPLETED' });
  await program.logged('node.connected', ({ resent }) => resent === 1, mark);
  proxy.release('down');
  t.match(await mesh.submit('--wait', '--', 'true'), { status: 'COMPLETED' });
  t.strictSame(mesh.witness.lines('late'), ['1'], 'it ran once');
  t.match(await mesh.tasks(job.id), [{ status: 'COMPLETED', attempts: 1, generation: 1 }]);
});

test('the coordinator is killed between the commit of results and their acknowledgement: nothing is counted twice', async (t) => {
  const gate = mesh.witness.gate('unacknowledged-gate');
  const script = `echo $MESH_INDEX >> ${traces}/unacknowledged; read x < ${gate.path}; echo done`;
  const job = await mesh.submit('--array', '0-1', ...shell(script));
  await mesh.witness.seen('unacknowledged', 2);
  await tasksAre(job.id, 'RUNNING');
  proxy.hold('down');
  gate.open(2);
  t.match(await mesh.wait(job.id), { status: 'COMPLETED' });
  await restartCoordinator();
  t.match(await mesh.node('a1'), { state: 'HEALTHY', running: 0, queued: 0 });
  t.match(await mesh.job(job.id), { status: 'COMPLETED', tasks: { total: 2, completed: 2, running: 0, retrying: 0 } });
  for (const task of await mesh.tasks(job.id)) t.match(task, { attempts: 1, generation: 1, result: 'done\n' });
  t.equal(mesh.witness.lines('unacknowledged').length, 2);
});

test('connections are cut all the time under load: every task runs once', async (t) => {
  const total = 400;
  const job = await mesh.submit('--array', `0-${total - 1}`, ...shell(`echo $MESH_INDEX >> ${traces}/cuts`));
  for (let seen = 30; seen < total; seen += 60) {
    await mesh.witness.seen('cuts', seen);
    proxy.cut();
  }
  t.match(await mesh.wait(job.id), { status: 'COMPLETED', tasks: { total, completed: total } });
  const ran = mesh.witness.lines('cuts').map(Number);
  t.equal(ran.length, total, 'none ran twice');
  t.equal(new Set(ran).size, total, 'none is missing');
  t.ok(agent.program.running);
});
