/** What is lost when something dies: nothing that was accepted, and nothing runs twice without need. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { before, test } from 'tap';
import { isAlive } from '../../common/process-life.js';
import { type Agent, type Mesh, startMesh } from '../support/mesh.js';
import type { LogEvent } from '../support/program.js';
import { until } from '../support/until.js';

const shell = (script: string): string[] => ['--', 'sh', '-c', script];
/** Short, so that a lost node is given up soon; long enough for a busy machine. */
const COORDINATOR = ['--listen', '127.0.0.1', '--heartbeat', '250ms', '--node-lease', '3s'];
const AGENT = ['--slots', '1', '--kill-grace', '300ms'];
const agents = new Map<string, Agent>();
let mesh: Mesh;
let traces: string;

async function startAgent(name: string, ...args: string[]): Promise<Agent> {
  const agent = await mesh.startAgent(name, { args: [...AGENT, '--stop-grace', '100ms', ...args] });
  agents.set(name, agent);
  return agent;
}

const agentOf = (name: string | undefined): Agent => {
  const agent = agents.get(name ?? '');
  if (!agent) throw new Error(`there is no agent ${name}`);
  return agent;
};

/** Of traces `NODE PID …`: the last one's. */
const nodeAndPid = (line: string | undefined): [string, number] => {
  const [node = '', pid] = (line ?? '').split(' ');
  return [node, Number(pid)];
};

before(async () => {
  mesh = await startMesh(t, { coordinator: COORDINATOR });
  traces = mesh.witness.folder;
  await Promise.all([startAgent('a1'), startAgent('a2')]);
});

test('an agent is killed: suspected, given up, its task runs elsewhere; its next start cleans up', async (t) => {
  const script = `echo "$MESH_NODE $$" >> ${traces}/killed; test $MESH_ATTEMPT = 2 || exec sleep 600`;
  const job = await mesh.submit(...shell(script));
  const [line] = await mesh.witness.seen('killed');
  const [victim, pid] = nodeAndPid(line);
  const { program } = mesh.coordinator;
  const mark = program.mark();
  const agent = agentOf(victim);
  await agent.program.kill();
  const about = (name: string) => (event: LogEvent) => event.node === name;
  const suspect = await program.logged('node.suspect', about(victim), mark);
  const offline = await program.logged('node.offline', about(victim), mark);
  t.ok(program.events.indexOf(suspect) < program.events.indexOf(offline), 'first suspected, then given up');
  const seen = await mesh.witness.seen('killed', 2);
  t.not(nodeAndPid(seen[1])[0], victim, 'it runs on another node');
  t.match(await mesh.wait(job.id), { status: 'COMPLETED' });
  t.match(await mesh.tasks(job.id), [{ status: 'COMPLETED', attempts: 2, losses: 1, failures: 0 }]);
  t.match(await mesh.node(victim), { state: 'OFFLINE' });
  t.equal(mesh.witness.lines('killed').length, 2);

  await startAgent(victim);
  t.match(await mesh.node(victim), { state: 'HEALTHY', id: agent.ready.id });
  t.notOk(isAlive(pid), 'what its predecessor had started is gone');
});

test('an agent that starts again at once says what it no longer has', async (t) => {
  const script = `echo "$MESH_NODE $$" >> ${traces}/restarted; test $MESH_ATTEMPT = 2 || exec sleep 600`;
  const job = await mesh.submit('--where', 'name=a1', ...shell(script));
  const [line] = await mesh.witness.seen('restarted');
  const [, pid] = nodeAndPid(line);
  await agentOf('a1').program.kill();
  await startAgent('a1');
  t.match(await mesh.wait(job.id), { status: 'COMPLETED' });
  t.notOk(isAlive(pid));
  t.match(await mesh.tasks(job.id), [{ attempts: 2, losses: 1, failures: 0, node: 'a1' }]);
  t.equal(mesh.witness.lines('restarted').length, 2);
});

test('an agent stands still past its lease: when it wakes, what was given away is ended there', async (t) => {
  const script = `echo "$MESH_NODE $$" >> ${traces}/frozen; test $MESH_ATTEMPT = 2 || exec sleep 600`;
  const job = await mesh.submit(...shell(script));
  const [line] = await mesh.witness.seen('frozen');
  const [victim, pid] = nodeAndPid(line);
  const { program } = mesh.coordinator;
  const mark = program.mark();
  agentOf(victim).program.signal('SIGSTOP');
  await program.logged('node.offline', (event) => event.node === victim, mark);
  t.match(await mesh.wait(job.id), { status: 'COMPLETED' });
  agentOf(victim).program.signal('SIGCONT');
  await program.logged('node.connected', (event) => event.node === victim, mark);
  // It has one slot.
  t.match(await mesh.submit('--wait', '--where', `name=${victim}`, '--', 'true'), { status: 'COMPLETED' });
  t.notOk(isAlive(pid), 'the superseded attempt is dead');
  t.match(await mesh.tasks(job.id), [{ status: 'COMPLETED', attempts: 2, losses: 1 }]);
  t.equal(mesh.witness.lines('frozen').length, 2);
});

function postmasterPid(): number {
  const file = join(mesh.coordinator.dataDir, 'postgres/data/postmaster.pid');
  return existsSync(file) ? Number(readFileSync(file, 'utf8').split('\n')[0]) : -1;
}

/** Every agent is back after a new coordinator started. */
async function reconnected(): Promise<void> {
  for (const name of agents.keys()) await mesh.coordinator.program.logged('node.connected', (e) => e.node === name);
}

test('the coordinator is killed: what runs is adopted, what ended meanwhile is delivered', async (t) => {
  const gates = { early: mesh.witness.gate('early-gate'), late: mesh.witness.gate('late-gate') };
  // The first two run, one on each node; the rest waits.
  const script = [
    `echo "$MESH_INDEX" >> ${traces}/adopted`,
    `test $MESH_INDEX != 0 || read x < ${gates.early.path}`,
    `test $MESH_INDEX != 1 || read x < ${gates.late.path}`,
    `echo "$MESH_INDEX" >> ${traces}/adopted-ends`,
  ].join('; ');
  const job = await mesh.submit('--array', '0-7', ...shell(script));
  await mesh.witness.seen('adopted', 2);
  const orphan = postmasterPid();
  await mesh.coordinator.program.kill();
  t.ok(isAlive(orphan), 'PostgreSQL goes on without it');
  gates.early.open();
  await mesh.witness.seen('adopted-ends');
  await mesh.startCoordinator({ args: COORDINATOR });
  t.ok(postmasterPid() === orphan || !isAlive(orphan), 'the orphan was adopted or stopped');
  await reconnected();
  gates.late.open();
  t.match(await mesh.wait(job.id), { status: 'COMPLETED', tasks: { total: 8, completed: 8 } });
  t.strictSame(mesh.witness.lines('adopted').sort(), ['0', '1', '2', '3', '4', '5', '6', '7'], 'each ran once');
  for (const task of await mesh.tasks(job.id)) t.match(task, { attempts: 1, losses: 0, failures: 0 });
});

test('the coordinator is stopped: it exits with 0, and what runs does not notice', async (t) => {
  const gate = mesh.witness.gate('stopped-gate');
  const job = await mesh.submit(...shell(`echo run >> ${traces}/stopped; read x < ${gate.path}; echo done`));
  await mesh.witness.seen('stopped');
  const database = postmasterPid();
  t.strictSame(await mesh.coordinator.program.stop(), { code: 0, signal: null });
  t.notOk(isAlive(database), 'its PostgreSQL is stopped too');
  gate.open();
  await mesh.startCoordinator({ args: COORDINATOR });
  await reconnected();
  t.match(await mesh.wait(job.id), { status: 'COMPLETED' });
  t.match(await mesh.tasks(job.id), [{ attempts: 1, losses: 0, result: 'done\n' }]);
  t.equal(mesh.witness.lines('stopped').length, 1);
});

test('an agent is stopped: what runs may end, what only waits goes elsewhere', async (t) => {
  await agentOf('a1').program.stop();
  const leaving = await startAgent('a1', '--stop-grace', '1m');
  const gate = mesh.witness.gate('leaving-gate');
  const wait = `echo working; read x < ${gate.path}; echo done`;
  const script = `echo "$MESH_NODE $MESH_INDEX" >> ${traces}/leaving; if [ $MESH_NODE = a1 ]; then ${wait}; fi`;
  const job = await mesh.submit('--array', '0-9', ...shell(script));
  const isOn = (name: string) => (line: string) => line.startsWith(`${name} `);
  const onLeaving = () => mesh.witness.lines('leaving').filter(isOn('a1'));
  await until('a task on a1', () => onLeaving().length > 0, mesh.witness.signal);
  leaving.program.signal('SIGTERM');
  await mesh.witness.seen('leaving', 10);
  t.equal(onLeaving().length, 1, 'it took nothing more');
  t.ok(leaving.program.running, 'it waits for what runs');
  gate.open();
  t.strictSame(await leaving.program.ended, { code: 0, signal: null });
  t.match(await mesh.wait(job.id), { status: 'COMPLETED', tasks: { completed: 10 } });
  const [last] = (await mesh.tasks(job.id)).filter(({ node }) => node === 'a1');
  t.match(last, { attempts: 1, losses: 0, failures: 0, exitCode: 0, result: 'working\ndone\n' });
  t.equal(mesh.witness.lines('leaving').length, 10, 'everything ran once');
  t.match(await mesh.node('a1'), { state: 'OFFLINE' });
});

test('a second SIGTERM ends what runs; that is nobody’s failure', async (t) => {
  const hurried = await startAgent('a1', '--stop-grace', '1h');
  await mesh.cli('drain', 'a2');
  const script = `echo "$MESH_NODE $$" >> ${traces}/hurried; test $MESH_ATTEMPT = 2 || exec sleep 600`;
  const job = await mesh.submit('--retries', '0', ...shell(script));
  const [line] = await mesh.witness.seen('hurried');
  const [, pid] = nodeAndPid(line);
  await mesh.cli('undrain', 'a2');
  hurried.program.signal('SIGTERM');
  await hurried.program.logged('agent.stopping');
  hurried.program.signal('SIGTERM');
  t.strictSame(await hurried.program.ended, { code: 0, signal: null });
  t.notOk(isAlive(pid));
  t.match(await mesh.wait(job.id), { status: 'COMPLETED' });
  t.match(await mesh.tasks(job.id), [{ node: 'a2', attempts: 2, losses: 1, failures: 0 }]);
  await startAgent('a1');
});

test('PostgreSQL dies under load, twice: the coordinator survives, nothing accepted is lost', async (t) => {
  const { program } = mesh.coordinator;
  const job = await mesh.submit('--array', '0-399', ...shell(`echo $MESH_INDEX >> ${traces}/load`));
  for (const count of [20, 150]) {
    await mesh.witness.seen('load', count);
    const mark = program.mark();
    process.kill(postmasterPid(), 'SIGQUIT');
    await program.logged('postgres.restarted', undefined, mark);
  }
  const another = await mesh.submit('--wait', '--', 'true');
  t.match(another, { status: 'COMPLETED' });
  t.match(await mesh.wait(job.id), { status: 'COMPLETED', tasks: { total: 400, completed: 400, failed: 0 } });
  const ran = mesh.witness.lines('load').map(Number);
  t.equal(new Set(ran).size, 400);
  t.ok(program.running);
});
