/** B21: the coordinator is killed in the middle of each step by which a new root comes into its directory, and goes on. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'tap';
import { readRoots } from '../../common/identity/roots.js';
import { eventually } from '../support/eventually.js';
import { type Mesh, startMesh } from '../support/mesh.js';
import { FolderSignal, until } from '../support/until.js';

const QUICK = ['--listen', '127.0.0.1', '--heartbeat', '300ms', '--node-lease', '60s', '--leader-lease', '2s'];

interface RotationShape {
  phase: string;
  root: string;
  canFinish: boolean;
}

const status = async (mesh: Mesh) => (await mesh.ca('rotate', 'status', '--json')).json<RotationShape>();

/** Kills the coordinator as soon as `path` is there, and starts it again: its directory opens, whatever was under way. */
async function killedAt(mesh: Mesh, folder: string, path: string): Promise<void> {
  const signal = new FolderSignal(folder);
  await until(`${path} to be written`, () => existsSync(path), signal);
  signal.close();
  await mesh.coordinator.program.kill();
  await mesh.startCoordinator({ args: QUICK });
}

test('B21: killed at every step of a rotation, the coordinator goes on or starts over, and tasks do not notice', async (t) => {
  const mesh = await startMesh(t, { coordinator: QUICK, agents: ['a1'] });
  const ca = join(mesh.coordinator.dataDir, 'ca');
  const next = join(ca, 'next');
  const rootOf = (path: string) => readRoots(readFileSync(path, 'utf8')).digests[0];
  const before = rootOf(join(ca, 'ca.crt'));
  const gate = mesh.witness.gate('gate');
  const script = `echo begun >> ${mesh.witness.path('ran')}; read line < ${gate.path}; echo done >> ${mesh.witness.path('ran')}`;
  const job = await mesh.submit('--', 'sh', '-c', script);
  await mesh.witness.seen('ran');

  // Whoever asked for it hears nothing any more, and asks again.
  const asked = mesh.ca('rotate', 'start');
  await killedAt(mesh, ca, next);
  await asked;
  t.equal((await mesh.ca('rotate', 'start')).code, 0);

  const root = rootOf(join(next, 'ca.crt'));
  await killedAt(mesh, next, join(next, 'issuer.crt'));
  t.equal(rootOf(join(next, 'ca.crt')), root, 'the root that others were told of stays');
  await eventually('everybody to be there', async () => (await status(mesh)).canFinish);

  const finished = mesh.ca('rotate', 'finish');
  await killedAt(mesh, ca, join(ca, 'ca.former'));
  await finished;
  // It may have been killed before its step was written down.
  if ((await status(mesh)).phase !== 'steady') t.equal((await mesh.ca('rotate', 'finish')).code, 0);
  await eventually('the next authority to take over', () => !existsSync(next));
  t.match(await status(mesh), { phase: 'steady', root });
  t.equal(rootOf(join(ca, 'ca.crt')), root);
  t.not(root, before);

  gate.open();
  t.match(await mesh.wait(job.id), { status: 'COMPLETED', tasks: { completed: 1 } });
  t.same(mesh.witness.lines('ran'), ['begun', 'done'], 'it ran once');
  t.match(await mesh.tasks(job.id), [{ losses: 0, failures: 0 }]);
  await mesh.startAgent('a2');
});
