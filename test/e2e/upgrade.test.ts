/** Programs are replaced while they work: everything restarts one after the other, and versions meet. */
import t, { before, test } from 'tap';
import { type Agent, type Mesh, startMesh } from '../support/mesh.js';
import { OldAgent } from '../support/old-agent.js';
import { eventually } from '../support/eventually.js';
import { until } from '../support/until.js';

const shell = (script: string): string[] => ['--', 'sh', '-c', script];
const COORDINATOR = ['--listen', '127.0.0.1', '--heartbeat', '500ms', '--node-lease', '10s'];
const AGENT = ['--slots', '3', '--kill-grace', '300ms', '--stop-grace', '500ms'];
const NAMES = ['a1', 'a2', 'a3'];
const agents = new Map<string, Agent>();
let mesh: Mesh;
let traces: string;

async function startAgent(name: string): Promise<void> {
  agents.set(name, await mesh.startAgent(name, { args: AGENT }));
}

before(async () => {
  mesh = await startMesh(t, { coordinator: COORDINATOR });
  traces = mesh.witness.folder;
  await Promise.all(NAMES.map(startAgent));
});

test('everything restarts, one after the other, under load: nothing is lost, and only what ran on a stopped agent runs again', async (t) => {
  const total = 2200;
  const gate = mesh.witness.gate('upgrade-gate');
  const longScript = `echo "$MESH_NODE $MESH_INDEX" >> ${traces}/long; read x < ${gate.path}; echo done`;
  const long = await mesh.submit('--array', '0-2', '--cpus', '1', ...shell(longScript));
  await mesh.witness.seen('long', 3);
  const short = await mesh.submit('--array', `0-${total - 1}`, ...shell(`echo $MESH_INDEX >> ${traces}/short`));
  // Where each long task began last: what a stopped agent takes with it.
  let expected = 0;
  for (const [position, name] of [...NAMES, 'coordinator', ...NAMES].entries()) {
    await mesh.witness.seen('short', (position + 1) * 300);
    if (name === 'coordinator') {
      await mesh.coordinator.program.stop();
      await mesh.startCoordinator({ args: COORDINATOR });
      for (const node of NAMES) await mesh.coordinator.program.logged('node.connected', (event) => event.node === node);
      continue;
    }
    const places = new Map(mesh.witness.lines('long').map((line) => line.split(' ').reverse() as [string, string]));
    expected += [...places.values()].filter((node) => node === name).length;
    await agents.get(name)?.program.stop();
    await mesh.witness.seen('long', 3 + expected);
    await startAgent(name);
  }
  gate.open(3);
  t.match(await mesh.wait(short.id), { status: 'COMPLETED', tasks: { total, completed: total } });
  t.match(await mesh.wait(long.id), { status: 'COMPLETED', tasks: { completed: 3 } });
  const ran = mesh.witness.lines('short').map(Number);
  t.equal(new Set(ran).size, total);
  t.equal(ran.length, total, 'a short task ends before its agent does');
  t.ok(expected >= 1, 'some long tasks were cut off');
  t.equal(mesh.witness.lines('long').length, 3 + expected);
  const losses = (await mesh.tasks(long.id)).reduce((sum, task) => sum + task.losses, 0);
  t.equal(losses, expected, 'and each of those was told of');
  for (const { state } of await mesh.nodes()) t.equal(state, 'HEALTHY');
});

test('an agent of the version before works with this coordinator', async (t) => {
  const old = await OldAgent.start({
    ...{ name: 'old', dataDir: mesh.folder('old'), token: await mesh.token() },
    coordinator: mesh.coordinator.ready.address,
  });
  t.teardown(() => old.stop());
  await until(
    'the welcome',
    () => {
      if (old.problem) throw old.problem;
      return old.welcome;
    },
    old,
  );
  t.equal(old.welcome?.protocol, 1, 'they agree on what both speak');
  t.match(await mesh.node('old'), { state: 'HEALTHY', version: '0.0.1' });
  const job = await mesh.submit('--array', '0-9', '--where', 'name=old', ...shell('echo "$MESH_INDEX"'));
  t.match(await mesh.wait(job.id), { status: 'COMPLETED', tasks: { completed: 10 } });
  for (const { index, node, result } of await mesh.tasks(job.id))
    t.match({ node, result }, { node: 'old', result: `${index}\n` });

  // What it does not understand it is not given: it would keep what it must stop.
  const stop = await mesh.submit('--on-disconnect', 'stop', '--where', 'name=old', '--', 'true');
  const why = await eventually('a reason', async () => {
    const { nodes } = (await mesh.cli('why', '--json', stop.id)).json<{
      nodes: { name: string; feasible: boolean; reason: string }[];
    }>();
    return nodes.find(({ name, reason }) => name === 'old' && reason !== '');
  });
  t.match(why, { feasible: false, reason: /protocol|version|upgrade/i });
  const anywhere = await mesh.submit('--wait', '--array', '0-5', '--on-disconnect', 'stop', '--', 'true');
  t.match(anywhere, { status: 'COMPLETED' });
  t.notOk((await mesh.tasks(anywhere.id)).some(({ node }) => node === 'old'));
  t.notOk(old.jobs.has(stop.id));
  t.match(await mesh.job(stop.id), { status: 'QUEUED' });
  await mesh.cli('cancel', stop.id);
});
