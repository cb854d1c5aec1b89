/** B21: certificates that live for seconds, and the root replaced, while tasks run: nobody drops out, nothing fails. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'tap';
import { readRoots } from '../../common/identity/roots.js';
import { certificateFiles, get } from '../support/https.js';
import { type Agent, type Mesh, startMesh } from '../support/mesh.js';

const QUICK = ['--heartbeat', '300ms', '--node-lease', '8s', '--leader-lease', '3s'];
const TASKS = 240;

/** Short tasks that leave their index; enough of them to be running all the time. */
const work = (mesh: Mesh, name: string) => [
  ...['--array', `0-${TASKS - 1}`, '--', 'sh', '-c', `sleep 0.1; echo $MESH_INDEX >> ${mesh.witness.path(name)}`],
];

const ranOnce = (mesh: Mesh, name: string) =>
  mesh.witness
    .lines(name)
    .map(Number)
    .sort((a, b) => a - b);

const everyIndex = Array.from({ length: TASKS }, (_, index) => index);

const rootsOf = (agent: Agent) => readRoots(readFileSync(join(agent.dataDir, 'ca.crt'), 'utf8'));

interface RotationShape {
  phase: string;
  root: string;
  nextRoot: string | null;
  done: number;
  canFinish: boolean;
  missing: { role: string; name: string; live: boolean; missing: string }[];
}

const status = async (mesh: Mesh): Promise<RotationShape> =>
  (await mesh.ca('rotate', 'status', '--json')).json<RotationShape>();

test('B21: agents whose certificates live for seconds renew them with new keys while they work', async (t) => {
  const life = ['--agent-certificate-life', '15s', '--coordinator-certificate-life', '15s'];
  const mesh = await startMesh(t, { coordinator: [...QUICK, ...life], agents: ['a1', 'a2'], agent: ['--slots', '2'] });
  const agent = await mesh.startAgent('a3', { args: ['--slots', '2', '--kill-grace', '300ms'] });
  const keyFile = join(agent.dataDir, 'agent.key');
  const keys = new Set([readFileSync(keyFile, 'utf8')]);
  const job = await mesh.submit(...work(mesh, 'renewals'));
  let mark = 0;
  for (let renewals = 0; renewals < 3; renewals++) {
    await agent.program.logged('certificate.renewed', () => true, mark);
    mark = agent.program.mark();
    keys.add(readFileSync(keyFile, 'utf8'));
  }
  await mesh.coordinator.program.logged('certificate.renewed');
  t.match(await mesh.wait(job.id), { status: 'COMPLETED', tasks: { completed: TASKS } });
  t.same(ranOnce(mesh, 'renewals'), everyIndex, 'each task ran once');
  t.equal(keys.size, 4, 'each time with another key');
  const dropped = agent.program.events.filter(({ event }) => event === 'session.ended' || event === 'session.failed');
  t.same(dropped, [], 'no session was dropped');
  const tasks = await mesh.tasks(job.id);
  t.ok(
    tasks.every(({ losses, failures }) => losses === 0 && failures === 0),
    'nothing was lost or failed',
  );
});

test('B21: the root is replaced under load; afterwards nothing of the old one is accepted', async (t) => {
  const mesh = await startMesh(t, { coordinator: QUICK, agents: ['a1', 'a2'], agent: ['--slots', '2'] });
  const { coordinator } = mesh;
  const oldRoot = readFileSync(join(coordinator.dataDir, 'ca', 'ca.crt'), 'utf8');
  const issued = mesh.folder('old');
  t.equal((await mesh.ca('issue', 'wall', '--role', 'viewer', '--out', issued)).code, 0);
  const job = await mesh.submit(...work(mesh, 'rotation'));

  t.equal((await mesh.ca('rotate', 'start')).code, 0);
  const [before] = readRoots(oldRoot).digests;
  const during = await mesh.startAgent('a3', { args: ['--slots', '2', '--kill-grace', '300ms'] });
  t.equal(rootsOf(during).digests[0], before, 'who joins meanwhile is told of both');
  await coordinator.program.logged('rotation.moving');
  const refused = await mesh.ca('rotate', 'finish', '--json');
  t.match(refused.error(), { code: 'CONFLICT', message: /the old root is needed still: .*viewer wall/ });
  const moving = await mesh.startAgent('a4', { args: ['--slots', '2', '--kill-grace', '300ms'] });
  t.equal(rootsOf(moving).digests.length, 2);

  const renewed = await mesh.ca(
    ...['renew', '--cert', join(issued, 'wall.crt'), '--key', join(issued, 'wall.key')],
    ...['--out', mesh.folder('new'), '--coordinator', coordinator.ready.address],
  );
  t.equal(renewed.code, 0, renewed.stderr);
  const rotated = await mesh.ca('rotate', '--overlap', '1s', '--json');
  t.equal(rotated.code, 0, rotated.stderr);
  const after = rotated.json<RotationShape>();
  t.match(after, { phase: 'steady', nextRoot: null });
  t.not(after.root, before);

  t.match(await mesh.wait(job.id), { status: 'COMPLETED', tasks: { completed: TASKS } });
  t.same(ranOnce(mesh, 'rotation'), everyIndex, 'each task ran once');
  t.ok(
    (await mesh.tasks(job.id)).every(({ losses, failures }) => losses === 0 && failures === 0),
    'nothing was lost or failed',
  );
  t.equal((await mesh.nodes()).filter(({ state }) => state === 'HEALTHY').length, 4);
  const late = await mesh.startAgent('a5');
  t.same(rootsOf(late).digests, [after.root]);
  t.match(await status(mesh), { phase: 'steady', root: after.root });

  const { address } = coordinator.ready;
  const old = {
    ...certificateFiles(issued, 'wall'),
    ca: readFileSync(join(coordinator.dataDir, 'ca', 'ca.crt'), 'utf8'),
  };
  t.equal((await get(address, '/metrics', old)).status, 401, 'the old chain is refused');
  const fresh = certificateFiles(mesh.folder('new'), 'wall');
  t.equal((await get(address, '/metrics', fresh)).status, 200, 'the new one is not');
});
