/**
 * B21: the root replaced in a mesh of two coordinators, only one of which has the root's key, while work goes on: the
 * other gets its intermediate over the wire, leads on when the first is lost, and never goes on without.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, test } from 'tap';
import t from 'tap';
import { readRoots } from '../../common/identity/roots.js';
import { eventually } from '../support/eventually.js';
import { type Agent, type Coordinator, type Mesh, makeMesh } from '../support/mesh.js';
import { urlOf, withDatabase } from '../support/postgres.js';

const TASKS = 60;
const QUICK = ['--leader-lease', '1500ms', '--node-lease', '30s', '--heartbeat', '300ms'];
const AGENT = ['--slots', '2', '--stop-grace', '100ms', '--kill-grace', '300ms'];

interface RotationShape {
  phase: string;
  root: string;
  canFinish: boolean;
  missing: { role: string; name: string; missing: string }[];
}

let mesh: Mesh;
let first: Coordinator;
let second: Coordinator;
let agents: Agent[];
let flags: string[];
let oldRoot: string;
let jobId: string;
let gate: ReturnType<Mesh['witness']['gate']>;

const rootOf = (path: string) => readRoots(readFileSync(path, 'utf8')).digests;
const caFile = ({ dataDir }: Coordinator, name: string) => join(dataDir, 'ca', name);
const at = ({ ready }: Coordinator) => ['--profile', ready.adminProfile, '--coordinator', ready.address];

const status = async (coordinator: Coordinator): Promise<RotationShape> => {
  const asked = await mesh.ca('rotate', 'status', '--json', ...at(coordinator));
  if (asked.code !== 0) throw new Error(asked.stderr);
  return asked.json<RotationShape>();
};

before(async () => {
  const database = await withDatabase(t, { migrated: false });
  mesh = makeMesh(t);
  flags = ['--listen', '127.0.0.1', '--database-url', urlOf(database), ...QUICK];
  first = await mesh.startCoordinator({ args: [...flags, '--name', 'first'] });
  const operator = mesh.profile;
  agents = [await mesh.startAgent('a1', { args: AGENT }), await mesh.startAgent('a2', { args: AGENT })];
  const token = await mesh.token('--role', 'coordinator');
  second = await mesh.startCoordinator({
    data: 'second',
    args: [...flags, '--name', 'second', '--join', token, '--coordinator', first.ready.address],
  });
  mesh.profile = operator;
  [oldRoot = ''] = rootOf(caFile(first, 'ca.crt'));
  const known = ({ dataDir }: Agent) => readFileSync(join(dataDir, 'coordinators.json'), 'utf8');
  for (const agent of agents)
    await eventually('agents to know both', () => known(agent).includes(second.ready.address));
  t.equal((await mesh.ca('issue', 'wall', '--role', 'viewer', '--out', mesh.folder('old'))).code, 0);
  gate = mesh.witness.gate('gate');
  const script = `read line < ${gate.path}; echo $MESH_INDEX >> ${mesh.witness.path('ran')}`;
  jobId = (await mesh.submit('--array', `0-${TASKS - 1}`, '--', 'sh', '-c', script)).id;
});

test('the coordinator without the root key cannot begin one, and says who can', async (t) => {
  const refused = await mesh.ca('rotate', 'start', '--json', ...at(second));
  t.match(refused.error(), { code: 'CONFLICT', hint: /--coordinator HOST/ });
  t.notOk(existsSync(caFile(second, 'next')));
});

test('the leader is lost while the new root spreads: the other leads, and takes the next step by itself', async (t) => {
  const [, asleep] = agents as [Agent, Agent];
  // Connected and deaf: the rotation waits for it.
  asleep.program.signal('SIGSTOP');
  const started = await mesh.ca('rotate', 'start', '--json', ...at(first));
  t.equal(started.code, 0, started.stderr);
  for (const { program } of [first, second])
    await program.logged('trust.followed', ({ phase }) => phase === 'spreading');
  t.equal((await status(first)).phase, 'spreading');
  const mark = second.program.mark();
  await first.program.kill();
  await second.program.logged('leader.elected', () => true, mark);
  t.equal((await status(second)).phase, 'spreading');
  gate.open(TASKS / 3);
  asleep.program.signal('SIGCONT');
  await second.program.logged('rotation.moving', () => true, mark);
});

test('without an intermediate of the new root it goes no further, not even by force, and says why', async (t) => {
  const waiting = await second.program.logged('trust.waiting');
  t.match(waiting, { reason: /nobody gives this coordinator an intermediate of the new root/, hint: /ca\/ca\.key/ });
  const { phase, missing } = await status(second);
  t.equal(phase, 'moving');
  t.match(
    missing.find(({ role, name }) => role === 'coordinator' && name === 'second'),
    { missing: 'has no intermediate of the new root yet' },
  );
  const refused = await mesh.ca('rotate', 'finish', '--force', '--json', ...at(second));
  t.match(refused.error(), { code: 'CONFLICT', message: /coordinator second/ });
});

test('the one with the key comes back, stands by, and signs: both have an intermediate of the new root', async (t) => {
  const mark = second.program.mark();
  first = await mesh.startCoordinator({ data: 'coordinator', args: [...flags, '--name', 'first'] });
  mesh.profile = second.ready.adminProfile;
  await second.program.logged('trust.followed', ({ phase }) => phase === 'moving', mark);
  await first.program.logged('trust.followed', ({ phase }) => phase === 'moving');
  t.ok(existsSync(caFile(first, 'next/ca.key')));
  t.ok(existsSync(caFile(second, 'next/issuer.crt')));
  t.notOk(existsSync(caFile(second, 'next/ca.key')), 'the key of the root goes nowhere');
});

test('finish names who is missing; by force it ends all the same, and nothing was lost', async (t) => {
  const done = async () => (await status(second)).missing.every(({ role }) => role === 'viewer');
  await eventually('all but the viewer to be there', done);
  const refused = await mesh.ca('rotate', 'finish', '--json', ...at(second));
  t.match(refused.error(), { code: 'CONFLICT', message: /needed still: viewer wall/, hint: /--force/ });
  const marks = [first, second].map(({ program }) => program.mark());
  gate.open(TASKS / 3);
  const forced = await mesh.ca('rotate', 'finish', '--force', '--json', ...at(second));
  t.match(forced.json<RotationShape>(), { phase: 'steady' });
  for (const [index, { program }] of [first, second].entries())
    await program.logged('trust.followed', ({ phase }) => phase === 'steady', marks[index]);
  const [newRoot] = rootOf(caFile(first, 'ca.crt'));
  t.not(newRoot, oldRoot);
  t.same(rootOf(caFile(second, 'ca.crt')), [newRoot]);
  for (const coordinator of [first, second]) t.notOk(existsSync(caFile(coordinator, 'next')), 'nothing is left');
  t.ok(existsSync(caFile(first, 'ca.key')));
  t.notOk(existsSync(caFile(second, 'ca.key')));
  const ca = (name: string) => rootOf(join(name, 'ca.crt'));
  await eventually('agents to drop the old root', () =>
    agents.every(({ dataDir }) => ca(dataDir).length === 1 && ca(dataDir)[0] === newRoot),
  );
});

test('on the new root the lead changes hands as before, and every task ran once', async (t) => {
  const mark = first.program.mark();
  await second.program.kill();
  await first.program.logged('leader.elected', () => true, mark);
  mesh.profile = first.ready.adminProfile;
  gate.open(TASKS);
  t.match(await mesh.wait(jobId), { status: 'COMPLETED', tasks: { completed: TASKS } });
  const ran = mesh.witness.lines('ran').map(Number);
  t.same(
    ran.sort((a, b) => a - b),
    Array.from({ length: TASKS }, (_, index) => index),
  );
  t.ok((await mesh.tasks(jobId)).every(({ losses, failures }) => losses === 0 && failures === 0));
  second = await mesh.startCoordinator({ data: 'second', args: [...flags, '--name', 'second'] });
  // It says where it is once a second.
  await eventually(
    'the coordinator that came back to be none of those who are behind',
    async () => !(await status(first)).missing.some(({ role }) => role === 'coordinator'),
  );
});
