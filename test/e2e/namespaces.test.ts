/** A namespace with quotas, through the commands that people type. */
import { join } from 'node:path';
import t, { before, test } from 'tap';
import type { JobShape, namespaceShape } from '../../sdk/shapes.js';
import { type Mesh, type Page, startMesh } from '../support/mesh.js';

type NamespaceShape = ReturnType<typeof namespaceShape>;

let mesh: Mesh;
let anna: string;

/** `mesh …` as the submitter anna. */
const asAnna = (...args: string[]) => mesh.cli('--profile', anna, ...args);

before(async () => {
  mesh = await startMesh(t);
  anna = join(mesh.root, 'anna');
  const token = await mesh.token('--role', 'submitter', '--name', 'anna');
  const [login] = await Promise.all([
    mesh.cli('--profile', anna, 'login', token, '--coordinator', mesh.coordinator.ready.address),
    mesh.startAgent('a1', { args: ['--slots', '6', '--stop-grace', '100ms', '--kill-grace', '300ms'] }),
  ]);
  t.equal(login.code, 0, login.stderr);
});

test('what runs is held back at the quota, what waits beyond it is refused', async (t) => {
  const set = await mesh.cli(
    'namespace',
    'set',
    'students',
    '--running',
    '2',
    '--queued',
    '8',
    '--member',
    'anna',
    '--json',
  );
  t.match(set.json<NamespaceShape>(), {
    name: 'students',
    quotas: { running: 2, queued: 8, cpus: null, bytes: null },
    members: ['anna'],
  });
  const gate = mesh.witness.gate('gate');
  const up = mesh.witness.path('up');
  const command = ['--', 'sh', '-c', `echo up >> ${up}; read x < ${gate.path}; echo down >> ${up}`];
  const submitted = await asAnna('submit', '--json', '--array', '0-5', ...command);
  const { id, namespace } = submitted.json<JobShape & { namespace: string }>();
  t.equal(namespace, 'students');
  await mesh.witness.seen('up', 2);
  const why = await asAnna('why', id);
  t.match(why.stdout, /held back: the namespace students has its quota of 2 running tasks assigned/);

  const refused = await asAnna('submit', '--array', '0-4', '--', 'true');
  t.equal(refused.code, 1);
  t.match(
    refused.stderr,
    /^mesh: the namespace students has a quota of 8 queued tasks; 4 wait, and this job has 5; ask for less/,
  );
  t.equal(refused.stderr.trim().split('\n').length, 1);
  const other = await mesh.submit('--wait', '--array', '0-8', '--', 'true');
  t.equal(other.status, 'COMPLETED', 'others use what is left of the machine');

  const [own, ...rest] = (await asAnna('namespace', 'list', '--json')).json<Page<NamespaceShape>>().items;
  t.match(own, { name: 'students', usage: { running: 2, queued: 4, cpus: 2 } });
  t.same(rest, [], 'a submitter sees the own one');
  gate.open(6);
  t.equal((await mesh.wait(id)).status, 'COMPLETED');
  let running = 0;
  for (const line of mesh.witness.lines('up')) {
    running += line === 'up' ? 1 : -1;
    t.ok(running <= 2, 'never more than the quota');
  }
  t.equal(running, 0);
});

test('only operators change quotas; a table for people, one line for mistakes', async (t) => {
  const denied = await asAnna('namespace', 'set', 'students', '--running', 'none');
  t.equal(denied.code, 4);
  const table = await mesh.cli('namespace', 'list');
  t.match(
    table.stdout,
    /NAMESPACE +RUNNING +QUEUED +CPUS +STORED +MEMBERS\ndefault .+\nstudents +0 of 2 +0 of 8 +0 +0 B +anna\n/,
  );
  const wrong = await mesh.cli('namespace', 'set', 'students', '--running', 'few');
  t.equal(wrong.code, 2);
  t.match(wrong.stderr, /^mesh: --running: /);
  t.equal((await mesh.cli('namespace', 'remove', 'nobody')).code, 5);
  t.equal((await mesh.cli('namespace', 'remove', 'students')).code, 0);
  t.equal((await asAnna('namespace', 'list', '--json')).json<Page<NamespaceShape>>().items[0]?.name, 'default');
});
