/**
 * Four machines on a network without a way out: a coordinator that everyone finds by itself, two agents that know a
 * join token and nothing else, and a person on a machine where no program of the mesh runs.
 */
import { createHash, randomBytes } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { before, test } from 'tap';
import type { JobShape, TaskShape } from '../../sdk/shapes.js';
import { type CommandResult, runCommand } from '../support/command.js';
import { type Agent, type Coordinator, type Mesh, makeMesh, type Page, programPath } from '../support/mesh.js';
import { createLan, type Lan, noNetns } from '../support/netns.js';
import type { Spawner } from '../support/program.js';

interface Result {
  index: number;
  status: string;
  result: unknown;
}

const shell = (script: string, ...words: string[]): string[] => ['--', 'sh', '-c', script, 'sh', ...words];
const AGENT = ['--slots', '1', '--stop-grace', '100ms', '--kill-grace', '300ms'];
const options = { skip: noNetns };
let lan: Lan;
let mesh: Mesh;
let coordinator: Coordinator;
let agents: Agent[];
let traces: string;

const on =
  (host: string): Spawner =>
  (file, args, around) =>
    lan.host(host).spawn(file, args, { ...around, stdio: ['ignore', 'pipe', 'pipe'] });

/** A command typed on a host. */
function typed(host: string, program: 'mesh' | 'mesh-ca', args: readonly string[], more: { cwd?: string } = {}) {
  const command = ['netns', 'exec', lan.host(host).namespace, process.execPath, programPath(program), ...args];
  return runCommand('ip', command, { cwd: more.cwd ?? mesh.root, env: mesh.environment });
}

before(async () => {
  if (noNetns) return;
  // Taken down in reverse: first the mesh, then the network below it.
  lan = createLan(t, ['hub', 'left', 'right', 'desk']);
  mesh = makeMesh(t, { mdns: true });
  mesh.run = (program, args, { cwd } = {}) =>
    typed('hub', program as 'mesh' | 'mesh-ca', args, cwd === undefined ? {} : { cwd });
  traces = mesh.witness.folder;
  coordinator = await mesh.startCoordinator({ spawner: on('hub') });
  agents = await Promise.all(
    ['left', 'right'].map((name) => mesh.startAgent(name, { args: AGENT, spawner: on(name) })),
  );
});

/** Where the coordinator is for the other hosts. */
function hub(): string {
  return `${lan.host('hub').address()}:${coordinator.ready.address.split(':').at(-1)}`;
}

test('agents that know a token find the coordinator on the network', options, async (t) => {
  for (const { ready } of agents) t.match(ready, { coordinator: hub() });
  t.match(
    (await mesh.nodes()).map(({ name, state }) => ({ name, state })).sort((a, b) => (a.name < b.name ? -1 : 1)),
    [
      { name: 'left', state: 'HEALTHY' },
      { name: 'right', state: 'HEALTHY' },
    ],
  );
});

test('an array runs on both hosts', options, async (t) => {
  const gate = mesh.witness.gate('array-gate');
  // A slot each: two that run at the same time are on two hosts.
  const script = `echo "$MESH_NODE" >> ${traces}/array; read x < ${gate.path}; echo "$MESH_NODE"`;
  const job = await mesh.submit('--array', '0-7', ...shell(script));
  t.strictSame((await mesh.witness.seen('array', 2)).slice().sort(), ['left', 'right']);
  gate.open(8);
  t.match(await mesh.wait(job.id), { status: 'COMPLETED', tasks: { total: 8, completed: 8 } });
  const tasks = await mesh.tasks(job.id);
  t.equal(tasks.length, 8);
  t.strictSame([...new Set(tasks.map(({ node }) => node))].sort(), ['left', 'right']);
  for (const { node, result } of tasks) t.equal(result, `${node}\n`, 'what it said is what the coordinator says');
});

/** `mesh …` of the person at the desk. */
const desk = (args: string[], cwd?: string): Promise<CommandResult> =>
  typed('desk', 'mesh', [...args, '--profile', join(mesh.root, 'desk')], cwd === undefined ? {} : { cwd });

test('a person on another machine logs in with a token, and submits', options, async (t) => {
  const token = await mesh.token('--role', 'submitter', '--name', 'dora');
  const login = await desk(['login', '--json', token]);
  t.equal(login.code, 0, login.stderr);
  t.match(login.json(), { meshId: coordinator.ready.meshId, role: 'submitter', name: 'dora', coordinators: [hub()] });

  const submitted = await typed('desk', 'mesh', [
    ...['submit', '--json', '--wait', '--profile', join(mesh.root, 'desk')],
    ...['--array', '1-4', ...shell('echo "hello $MESH_INDEX"')],
  ]);
  t.equal(submitted.code, 0, submitted.stderr);
  const job = submitted.json<JobShape>();
  t.match(job, { status: 'COMPLETED', submitter: 'dora', tasks: { total: 4, completed: 4 } });
  t.strictSame(
    (await desk(['results', '--json', job.id])).lines<Result>().map(({ result }) => result),
    ['hello 1\n', 'hello 2\n', 'hello 3\n', 'hello 4\n'],
  );
});

test('files of the person reach the hosts that work on them', options, async (t) => {
  const cwd = mesh.folder('work');
  mkdirSync(join(cwd, 'in'));
  // More than one message's worth.
  const contents = [300_000, 3_000_000, 0, 17].map((size) => randomBytes(size));
  contents.forEach((content, index) => writeFileSync(join(cwd, `in/${index}.bin`), content));
  const gate = mesh.witness.gate('files-gate');
  const digest = `sha256sum < "$1"; pwd; echo "$MESH_NODE" >> ${traces}/files; read x < ${gate.path}`;
  const profile = ['--profile', join(mesh.root, 'desk')];
  const submitted = await typed(
    'desk',
    'mesh',
    ['submit', '--json', ...profile, '--each', 'in/*.bin', ...shell(digest, '{}')],
    { cwd },
  );
  t.equal(submitted.code, 0, submitted.stderr);
  const { id } = submitted.json<JobShape>();
  t.strictSame((await mesh.witness.seen('files', 2)).slice().sort(), ['left', 'right']);
  gate.open(4);
  t.match((await desk(['wait', '--json', id])).json<JobShape>(), { status: 'COMPLETED', tasks: { completed: 4 } });
  const tasks = (await desk(['tasks', '--json', id])).json<Page<TaskShape>>().items;
  t.equal(tasks.length, 4);
  for (const [index, { result }] of tasks.entries()) {
    const [sum, folder] = String(result).split('\n');
    const expected = createHash('sha256').update(contents[index] as Buffer).digest('hex');
    t.equal(sum, `${expected}  -`, `in/${index}.bin`);
    t.notOk(folder?.startsWith(cwd), 'a copy of its own');
  }
});
