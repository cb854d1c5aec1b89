/** Two coordinators on one PostgreSQL: one leads, the other stands by, and whoever leads next, nothing is lost. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, test } from 'tap';
import t from 'tap';
import type { CoordinatorShape } from '../../sdk/shapes.js';
import { certificateFiles, get } from '../support/https.js';
import { type Coordinator, type Mesh, makeMesh } from '../support/mesh.js';
import { urlOf, withDatabase } from '../support/postgres.js';
import { FolderSignal, until } from '../support/until.js';

const TASKS = 300;
const LEASE = ['--leader-lease', '1500ms', '--node-lease', '4s', '--heartbeat', '500ms'];
const AGENT = ['--slots', '2', '--stop-grace', '100ms', '--kill-grace', '300ms'];

let mesh: Mesh;
let first: Coordinator;
let second: Coordinator;
let flags: string[];

const readiness = async ({ ready, dataDir }: Coordinator): Promise<[number, string]> => {
  const { status, body } = await get(ready.address, '/readyz', certificateFiles(join(dataDir, 'ca')));
  return [status, (JSON.parse(body) as { detail?: string }).detail ?? ''];
};

const coordinators = async (): Promise<CoordinatorShape[]> =>
  (await mesh.cli('nodes', '--json')).json<{ coordinators: CoordinatorShape[] }>().coordinators;

/** Each task leaves its index; from the hundredth on it waits to be let through. */
const counted = (name: string, gate: string) => [
  ...['--array', `0-${TASKS - 1}`, '--', 'sh', '-c'],
  `[ $MESH_INDEX -lt 100 ] || read line < ${mesh.witness.path(gate)}; echo $MESH_INDEX >> ${mesh.witness.path(name)}`,
];

const everyIndex = Array.from({ length: TASKS }, (_, index) => index);
const ran = (name: string): number[] =>
  mesh.witness
    .lines(name)
    .map(Number)
    .sort((a, b) => a - b);

before(async () => {
  const database = await withDatabase(t, { migrated: false });
  mesh = makeMesh(t);
  flags = ['--listen', '127.0.0.1', '--database-url', urlOf(database), ...LEASE];
  first = await mesh.startCoordinator({ args: [...flags, '--name', 'first'] });
  const operator = mesh.profile;
  const agents = await Promise.all(['a1', 'a2'].map((name) => mesh.startAgent(name, { args: AGENT })));
  const token = await mesh.token('--role', 'coordinator');
  second = await mesh.startCoordinator({
    data: 'second',
    args: [...flags, '--name', 'second', '--join', token, '--coordinator', first.ready.address],
  });
  mesh.profile = operator;
  // What nobody had the time to hear of cannot be followed to.
  await Promise.all(agents.map(({ dataDir }) => untilRemembered(dataDir, second.ready.address)));
});

/** The agent wrote down that there is a coordinator at this address. */
async function untilRemembered(dataDir: string, address: string): Promise<void> {
  const signal = new FolderSignal(dataDir);
  const path = join(dataDir, 'coordinators.json');
  const known = () => existsSync(path) && readFileSync(path, 'utf8').includes(address);
  await until(`${dataDir} to know ${address}`, known, signal);
  signal.close();
}

test('the second one stands by, says so, and is known', async (t) => {
  t.same(await readiness(first), [200, '']);
  t.same(await readiness(second), [503, 'standby']);
  t.match(await coordinators(), [
    { name: 'first', leader: true, addresses: [first.ready.address] },
    { name: 'second', leader: false, addresses: [second.ready.address] },
  ]);
  const metrics = async ({ ready, dataDir }: Coordinator) =>
    (await get(ready.address, '/metrics', certificateFiles(join(dataDir, 'admin'), 'client'))).body;
  t.match(await metrics(first), /^mesh_leader 1$/m);
  t.match(await metrics(second), /^mesh_leader 0$/m);
});

test('asked for what only a leader does, a standby sends people on to it', async (t) => {
  const at = ['--profile', second.ready.adminProfile];
  t.equal((await mesh.cli('nodes', ...at)).code, 0);
  const job = await mesh.submit(...at, '--wait', '--', 'true');
  t.match(job, { status: 'COMPLETED' });
  t.equal((await mesh.cli('results', job.id, ...at)).code, 0);
});

test('the one that joined has asked for the key for secrets, and that is audited', async (t) => {
  await second.program.logged('secret.key-received');
  const audited = (await mesh.cli('audit', '--json')).stdout;
  t.match(audited, /"secret\.key-shared".*"coordinator\/second"|"coordinator\/second".*"secret\.key-shared"/s);
  t.equal((await mesh.cliWith({ input: 'known to both' }, 'secret', 'set', 'SHARED')).code, 0);
});

test('the leader is killed in the middle of a job: the standby leads, everybody follows, nothing runs twice', async (t) => {
  const gate = mesh.witness.gate('gate-1');
  const job = await mesh.submit(...counted('runs-1', 'gate-1'));
  await mesh.witness.seen('runs-1', 100);
  const mark = second.program.mark();
  const killedMs = performance.now();
  await first.program.kill();
  gate.open(TASKS);
  await second.program.logged('leader.elected', () => true, mark);
  t.comment(`another led ${Math.round(performance.now() - killedMs)} ms after the kill, at a lease of 1500 ms`);
  t.match(await mesh.wait(job.id), { status: 'COMPLETED', tasks: { completed: TASKS } });
  t.same(ran('runs-1'), everyIndex, 'each task ran once');
  t.same(await readiness(second), [200, '']);
  const nodes = await mesh.nodes();
  t.same(
    nodes.map(({ name, state }) => [name, state]),
    [
      ['a1', 'HEALTHY'],
      ['a2', 'HEALTHY'],
    ],
  );
});

test('what was set at the former leader the new one gives to those who ask', async (t) => {
  const script = '[ "$SHARED" = "known to both" ] && echo "it is $SHARED"';
  const job = await mesh.submit('--wait', '--secret', 'SHARED', '--', 'sh', '-c', script);
  t.match(job, { status: 'COMPLETED' });
  t.match((await mesh.cli('results', job.id)).stdout, /it is \*\*\*/);
});

test('with its intermediate alone, the new leader enrols and certifies', async (t) => {
  const agent = await mesh.startAgent('a3', { args: AGENT });
  t.equal(agent.ready.coordinator, second.ready.address);
  const issued = await mesh.ca('issue', 'wall', '--role', 'viewer', '--out', mesh.folder('issued'));
  t.equal(issued.code, 0, issued.stderr);
});

test('the old leader comes back and stands by', async (t) => {
  first = await mesh.startCoordinator({ data: 'coordinator', args: [...flags, '--name', 'first'] });
  t.same(await readiness(first), [503, 'standby']);
});

test('a leader that is stopped past its lease and goes on: another leads, it steps down and follows', async (t) => {
  const gate = mesh.witness.gate('gate-2');
  const job = await mesh.submit(...counted('runs-2', 'gate-2'));
  await mesh.witness.seen('runs-2', 100);
  const [marks, paused] = [first.program.mark(), second.program.mark()];
  second.program.signal('SIGSTOP');
  await first.program.logged('leader.elected', () => true, marks);
  second.program.signal('SIGCONT');
  gate.open(TASKS);
  await second.program.logged('leader.lost', () => true, paused);
  await second.program.logged('leader.standby', () => true, paused);
  t.same(await readiness(second), [503, 'standby']);
  t.match(await mesh.wait(job.id), { status: 'COMPLETED', tasks: { completed: TASKS } });
  t.same(ran('runs-2'), everyIndex, 'each task ran once');
  t.same(
    (await coordinators()).map(({ name, leader }) => [name, leader]),
    [
      ['first', true],
      ['second', false],
    ],
  );
});

test('a leader that is told to stop gives the lead away at once', async (t) => {
  const mark = second.program.mark();
  await first.program.stop();
  await second.program.logged('leader.elected', () => true, mark);
  t.match(await mesh.submit('--wait', '--', 'true'), { status: 'COMPLETED' });
});
