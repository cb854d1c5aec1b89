/** Clocks that are ten minutes apart: whoever refuses says by how much, and leases do not notice. */
import { spawn } from 'node:child_process';
import { cpSync, existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import t, { before, test } from 'tap';
import { certificateFiles, get } from '../support/https.js';
import { type Mesh, startMesh } from '../support/mesh.js';
import type { Spawner } from '../support/program.js';

/** Debian keeps it in a folder of the architecture. */
function findLibrary(): string | undefined {
  const folders = existsSync('/usr/lib') ? readdirSync('/usr/lib').map((name) => join('/usr/lib', name)) : [];
  return folders.map((folder) => join(folder, 'faketime/libfaketime.so.1')).find((path) => existsSync(path));
}

const library = findLibrary();
const skip = library === undefined ? 'libfaketime is not installed' : false;
/** Timers go by the monotonic clock, which no skew of the wall clock touches. */
const skewed = (offset: string): NodeJS.ProcessEnv => ({
  LD_PRELOAD: library,
  FAKETIME: offset,
  FAKETIME_DONT_FAKE_MONOTONIC: '1',
});
const spawnSkewed =
  (offset: string): Spawner =>
  (file, [isolated, ...words], options) => {
    const variables = Object.entries(skewed(offset)).map(([name, value]) => `${name}=${value}`);
    return spawn(file, [isolated ?? '', ...variables, ...words], options);
  };

let mesh: Mesh;
const LEASE = ['--node-lease', '2s', '--heartbeat', '300ms'];

before(async () => {
  if (skip) return;
  mesh = await startMesh(t, { coordinator: LEASE });
});

const ONE_LINE = /^mesh[a-z-]*: [^\n]+\n$/;
/** The certificate begins five minutes before it was made, so that much more is known than what is missing. */
const BEHIND =
  /is not valid yet: it is valid from \S+ to \S+, and here it is \S+; the clock of this machine is at least (?:[6-9]|10) min \d+ s behind/;
const HINT = /set both clocks, best by NTP/;

test('A27: an agent that is ten minutes behind says so, and joins nothing', { skip }, async (t) => {
  const data = mesh.folder('agent-late');
  const flags = ['--data', data, '--join', await mesh.token(), '--coordinator', mesh.coordinator.ready.address];
  const refused = await mesh.run('agent', [...flags, '--no-mdns'], { env: skewed('-10m') });
  t.equal(refused.code, 3);
  t.match(refused.stderr, ONE_LINE);
  t.match(refused.stderr, BEHIND);
  t.match(refused.stderr, HINT);
  t.notOk(existsSync(join(data, 'agent.crt')));
});

test('A27: a command that is ten minutes behind says so', { skip }, async (t) => {
  const refused = await mesh.cliWith({ env: skewed('-10m') }, 'jobs');
  t.equal(refused.code, 3);
  t.match(refused.stderr, ONE_LINE);
  t.match(refused.stderr, BEHIND);
  t.match(refused.stderr, HINT);
  t.equal((await mesh.cliWith({ env: skewed('+10m') }, 'jobs')).code, 0, 'one that is ahead has no trouble');
});

test('A27: a coordinator that is ten minutes behind tells its peers, and its log', { skip }, async (t) => {
  const { dataDir, program, ready } = mesh.coordinator;
  const out = mesh.folder('early');
  const flags = ['early', '--role', 'operator', '--out', out, '--dir', join(dataDir, 'ca')];
  const issued = await mesh.run('mesh-ca', ['issue', ...flags], { env: skewed('+10m') });
  t.equal(issued.code, 0, issued.stderr);
  const profile = mesh.folder('profile-early');
  for (const [from, to] of [
    [join(out, 'early.crt'), 'client.crt'],
    [join(out, 'early.key'), 'client.key'],
    [join(out, 'ca.crt'), 'ca.crt'],
    [join(mesh.profile, 'profile.json'), 'profile.json'],
  ] as const)
    cpSync(from, join(profile, to));
  const refused = await mesh.cli('--profile', profile, 'jobs');
  t.equal(refused.code, 4);
  t.match(refused.stderr, ONE_LINE);
  t.match(refused.stderr, BEHIND);
  t.match(await get(ready.address, '/metrics', certificateFiles(out, 'early')), { status: 401, body: BEHIND });
  await program.logged('door.refused', (line) => BEHIND.test(String(line.reason)));
});

test('A27: leases do not notice: work goes on far beyond a lease, and a dead agent is found as ever', {
  skip,
}, async (t) => {
  const { program } = mesh.coordinator;
  const mark = program.mark();
  const agent = await mesh.startAgent('ahead', {
    args: ['--slots', '1', '--stop-grace', '100ms', '--kill-grace', '300ms'],
    spawner: spawnSkewed('+10m'),
  });
  const script = `date +%s >> ${mesh.witness.path('ahead')}; sleep 5`;
  const job = await mesh.submit('--where', 'name=ahead', '--on-disconnect', 'stop', '--wait', '--', 'sh', '-c', script);
  t.match(job, { status: 'COMPLETED' });
  t.match(await mesh.tasks(job.id), [{ attempts: 1, losses: 0, failures: 0 }]);
  const troubles = program.events
    .slice(mark)
    .filter(({ event, node }) => node === 'ahead' && (event === 'node.suspect' || event === 'node.offline'));
  t.same(troubles, []);
  t.match(await mesh.node('ahead'), { state: 'HEALTHY' });
  const killed = program.mark();
  await agent.program.kill();
  await program.logged('node.offline', (line) => line.node === 'ahead', killed);
});

test('A27: an agent that is days ahead goes on with a certificate that has ended by its own clock alone', {
  skip,
}, async (t) => {
  const { address } = mesh.coordinator.ready;
  const settled = await mesh.startAgent('days');
  await settled.program.stop();
  // A token that was spent stays in unit files; it is no way in.
  for (const more of [[], ['--join', await mesh.token()]]) {
    const again = await mesh.startAgent('days', {
      args: ['--slots', '1', '--stop-grace', '100ms', '--kill-grace', '300ms', ...more],
      spawner: spawnSkewed('+30h'),
    });
    t.equal(again.ready.coordinator, address);
    t.match(await mesh.submit('--where', 'name=days', '--wait', '--', 'true'), { status: 'COMPLETED' });
    t.equal((await again.program.stop()).code, 0);
  }
  const tokens = (await mesh.cli('token', 'list', '--json')).stdout;
  t.match(tokens, /"usesLeft": ?1/, 'the token was not spent');
});
