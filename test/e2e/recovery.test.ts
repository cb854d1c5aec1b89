/** The coordinator's machine is lost, and the mesh goes on from a backup: same identity, same jobs, nobody joins again. */
import { readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { before, test } from 'tap';
import type { AuditShape } from '../../sdk/audit.js';
import type { JobShape } from '../../sdk/shapes.js';
import { type Mesh, startMesh } from '../support/mesh.js';
import { eventually } from '../support/eventually.js';

const NAMES = ['a1', 'a2', 'a3'];
const COORDINATOR = ['--listen', '127.0.0.1', '--heartbeat', '500ms', '--node-lease', '10s'];
const WORDS = 'several words nobody guesses';
const EPOCH_STEP = 1_000_000;

let mesh: Mesh;
let words: string;
const shell = (script: string): string[] => ['--', 'sh', '-c', script];

/** `echo INDEX >> NAME`, then waits at the gate. */
function held(name: string): { script: string[]; gate: ReturnType<Mesh['witness']['gate']> } {
  const gate = mesh.witness.gate(`${name}-gate`);
  return { gate, script: shell(`echo $MESH_INDEX >> ${mesh.witness.path(name)}; read x < ${gate.path}; echo done`) };
}

before(async () => {
  words = join(t.testdir(), 'words');
  writeFileSync(words, `${WORDS}\n`, { mode: 0o600 });
  mesh = await startMesh(t, { coordinator: [...COORDINATOR, '--ca-passphrase-file', words], agents: NAMES });
});

test('backup while it runs, the machine lost, restore, and everybody comes back', async (t) => {
  const { coordinator } = mesh;
  const port = coordinator.ready.address.split(':').at(-1) as string;
  const backup = join(mesh.root, 'mesh.backup');

  const finished = await mesh.submit('--wait', '--array', '0-2', ...shell('echo "$MESH_INDEX"'));
  const running = held('running');
  const { id } = await mesh.submit('--array', '0-3', '--where', 'name in (a1,a2)', ...running.script);
  await mesh.witness.seen('running', 2);
  t.equal((await mesh.ca('issue', 'eve', '--role', 'operator', '--out', join(mesh.root, 'eve'))).code, 0);
  t.equal((await mesh.ca('revoke', 'eve')).code, 0);
  const token = await mesh.token();

  const made = await mesh.cli(
    ...['backup', '--json', '--out', backup, '--data', coordinator.dataDir, '--passphrase-file', words],
  );
  t.equal(made.code, 0, made.stderr);
  t.match(made.json(), { meshId: coordinator.ready.meshId, encrypted: true, database: true });
  const { createdAt } = made.json<{ createdAt: string }>();
  t.equal(statSync(backup).mode & 0o777, 0o600);
  t.notOk(readFileSync(backup).includes(coordinator.ready.meshId), 'nothing can be read in it');

  // What happens from here on is lost.
  const lost = held('lost');
  const forgotten = await mesh.submit('--where', 'name=a3', ...lost.script);
  await mesh.witness.seen('lost');

  const pidFile = readFileSync(join(coordinator.dataDir, 'postgres', 'data', 'postmaster.pid'), 'utf8').split('\n');
  await coordinator.program.kill();
  process.kill(Number(pidFile[0]), 'SIGKILL');
  for (const gone of [coordinator.dataDir, pidFile[4] as string]) rmSync(gone, { recursive: true });

  const dataDir = join(mesh.root, 'restored');
  const restored = await mesh.cli('restore', '--json', backup, '--data', dataDir, '--passphrase-file', words);
  t.equal(restored.code, 0, restored.stderr);
  for (const name of ['ca.key', 'issuer.key', 'secrets.key'])
    t.match(readFileSync(join(dataDir, 'ca', name), 'utf8'), /BEGIN ENCRYPTED PRIVATE KEY/, name);
  t.equal(statSync(join(dataDir, 'ca', 'issuer.key')).mode & 0o777, 0o600);
  const args = [...COORDINATOR, '--port', port, '--ca-passphrase-file', words];
  const { ready, program } = await mesh.startCoordinator({ data: 'restored', args });
  t.equal(ready.meshId, coordinator.ready.meshId);
  t.equal(ready.caFingerprint, coordinator.ready.caFingerprint);
  const elected = await program.logged('leader.elected', (event) => Number(event.epoch) > EPOCH_STEP);
  t.ok(elected, 'no agent has obeyed a higher epoch');
  for (const name of ['a1', 'a2']) await program.logged('node.connected', (event) => event.node === name);
  // The job of which the backup knows nothing is killed where it ran.
  await program.logged('node.connected', (event) => event.node === 'a3' && event.superseded === 1);

  // What ran at the backup and still runs is adopted; what waited runs; nothing runs twice.
  t.equal(mesh.witness.lines('running').length, 2);
  running.gate.open(4);
  t.match(await mesh.wait(id), { status: 'COMPLETED', tasks: { total: 4, completed: 4 } });
  t.same(mesh.witness.lines('running').sort(), ['0', '1', '2', '3'], 'each ran once');

  t.equal((await mesh.cli('job', forgotten.id)).code, 5);
  const after = await mesh.submit('--wait', '--where', 'name=a3', ...shell('echo new'));
  t.match(after, { status: 'COMPLETED' });
  t.equal((await mesh.tasks(after.id))[0]?.result, 'new\n');

  t.match(await mesh.job(finished.id), { status: 'COMPLETED' } as Partial<JobShape>);
  t.same(
    (await mesh.tasks(finished.id)).map(({ result }) => result),
    ['0\n', '1\n', '2\n'],
  );
  const audited = (await mesh.cli('audit', '--json', '--limit', '1000'))
    .json<{ items: AuditShape[] }>()
    .items.reverse();
  const [first] = audited.filter(({ at }) => at > createdAt);
  t.match(
    first,
    { action: 'mesh.restored', target: createdAt, actor: /^coordinator\// },
    'what came after it is missing',
  );
  t.equal(audited.filter(({ action }) => action === 'mesh.restored').length, 1);
  const verdict = await mesh.cli('audit', '--verify');
  t.equal(verdict.code, 0, `the audit is whole: ${verdict.stdout}${verdict.stderr}`);
  const eve = (await mesh.ca('list', '--json')).json<{ items: { name: string; revokedAt: string | null }[] }>();
  t.ok(eve.items.find(({ name }) => name === 'eve')?.revokedAt, 'who was revoked stays so');
  const login = await mesh.cli('login', token, '--coordinator', ready.address, '--profile', join(mesh.root, 'p'));
  t.equal(login.code, 4, 'a token from before may have been spent since');
  await eventually('all nodes to be healthy', async () =>
    (await mesh.nodes()).every(({ state }) => state === 'HEALTHY') ? true : undefined,
  );
});

test('a coordinator says in one line why it cannot open its keys', async (t) => {
  const { dataDir, program } = mesh.coordinator;
  await program.stop();
  const start = (env: NodeJS.ProcessEnv, ...args: string[]) =>
    mesh.run('coordinator', ['--data', dataDir, '--no-mdns', '--port', '0', ...args], { env });
  const without = await start({});
  t.equal(without.code, 4);
  t.match(without.stderr, /^mesh-coordinator: no passphrase of the CA's keys .*--ca-passphrase-file.*\n$/);
  const wrong = join(mesh.root, 'wrong');
  writeFileSync(wrong, 'other words\n', { mode: 0o600 });
  const refused = await start({ MESH_CA_PASSPHRASE_FILE: wrong });
  t.equal(refused.code, 4);
  t.match(refused.stderr, /^mesh-coordinator: the passphrase does not open .*issuer\.key; .*\n$/);
  const shown = await start({}, '--ca-passphrase-file', words, '--print-config');
  t.match(shown.stdout, /ca-passphrase-file = /);
  for (const { stdout, stderr } of [without, refused, shown]) t.notMatch(stdout + stderr, /several words/);
  await mesh.startCoordinator({ data: 'restored', args: [...COORDINATOR, '--ca-passphrase-file', words] });
});
