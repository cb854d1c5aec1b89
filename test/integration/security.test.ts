/** Who gets in and what they may do there, asked of a running mesh from outside. */
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { credentials, Client, type ServiceError } from '@grpc/grpc-js';
import t, { before, test } from 'tap';
import { openDirectory } from '../../ca/directory.js';
import { systemClock } from '../../common/clock.js';
import { makeKeyPair } from '../../common/identity/keys.js';
import { BACKDATE_MS } from '../../common/identity/profile.js';
import { CaServiceService } from '../../proto/gen/mesh/v1/ca.js';
import { MeshServiceService } from '../../proto/gen/mesh/v1/mesh.js';
import type { JobShape } from '../../sdk/shapes.js';
import { certificateFiles, get } from '../support/https.js';
import { type Mesh, type Page, startMesh } from '../support/mesh.js';

let mesh: Mesh;
const shell = (script: string): string[] => ['--', 'sh', '-c', script];

before(async () => {
  mesh = await startMesh(t, { agents: ['a1', 'a2'] });
});

/** Enrols a person and gives their profile's folder. */
async function login(role: string, name: string): Promise<string> {
  const folder = join(mesh.root, `profile-${name}`);
  const token = await mesh.token('--role', role, '--name', name);
  const { address } = mesh.coordinator.ready;
  const { code, stderr } = await mesh.cli('login', token, '--coordinator', address, '--profile', folder);
  if (code !== 0) throw new Error(`no login as ${name}: ${stderr}`);
  return folder;
}

/** A profile made of certificate files. */
function profileOf(name: string, certificate: string, key: string): string {
  const folder = mesh.folder(`profile-${name}`);
  cpSync(certificate, join(folder, 'client.crt'));
  cpSync(key, join(folder, 'client.key'));
  for (const file of ['ca.crt', 'profile.json']) cpSync(join(mesh.profile, file), join(folder, file));
  return folder;
}

/** Files of a new certificate, issued through the coordinator. */
async function issue(role: string, name: string): Promise<string> {
  const out = join(mesh.root, `issued-${name}`);
  const { code, stderr } = await mesh.ca('issue', name, '--role', role, '--out', out);
  if (code !== 0) throw new Error(`nothing issued to ${name}: ${stderr}`);
  return out;
}

const as = (profile: string, ...args: string[]) => mesh.cli('--profile', profile, '--json', ...args);

test('an agent may not do what people do', async (t) => {
  const data = join(mesh.root, 'agent-a1');
  const profile = profileOf('as-agent', join(data, 'agent.crt'), join(data, 'agent.key'));
  for (const command of [['jobs'], ['submit', '--', 'true'], ['token', 'create']]) {
    const denied = await as(profile, ...command);
    t.equal(denied.code, 4, command.join(' '));
    t.match(denied.error(), { code: 'DENIED', message: /agent\/a1/ });
  }
  t.match((await mesh.ca('list', '--json', '--profile', profile)).code, 4, 'nor what operators do');
});

test('viewers see states, not output; submitters see what is theirs; operators see all', async (t) => {
  const [viewer, anna, ben] = await Promise.all([
    login('viewer', 'vera'),
    login('submitter', 'anna'),
    login('submitter', 'ben'),
  ]);
  const submitted = await as(anna, 'submit', '--wait', ...shell('echo private'));
  const job = submitted.json<JobShape>();
  t.match(job, { status: 'COMPLETED', submitter: 'anna' });

  const forbidden: [string, string[], number][] = [
    [viewer, ['logs', job.id], 4],
    [viewer, ['results', job.id], 4],
    [viewer, ['submit', '--', 'true'], 4],
    [viewer, ['cancel', job.id], 4],
    [viewer, ['drain', 'a1'], 4],
    [anna, ['drain', 'a1'], 4],
    [anna, ['token', 'create'], 4],
    [ben, ['job', job.id], 5],
    [ben, ['tasks', job.id], 5],
    [ben, ['logs', job.id], 5],
    [ben, ['results', job.id], 5],
    [ben, ['why', job.id], 5],
    [ben, ['cancel', job.id], 5],
    [ben, ['retry', job.id], 5],
  ];
  for (let from = 0; from < forbidden.length; from += 2) {
    await Promise.all(
      forbidden.slice(from, from + 2).map(async ([profile, command, expected]) => {
        const { code, stdout } = await as(profile, ...command);
        const who = profile.split('-').at(-1);
        t.equal(code, expected, `${who}: ${command.join(' ')}`);
        t.equal(stdout, '');
      }),
    );
  }
  const jobsOf = async (profile: string) =>
    (await as(profile, 'jobs')).json<Page<JobShape>>().items.map(({ id }) => id);
  t.strictSame(await jobsOf(ben), []);
  t.strictSame(await jobsOf(anna), [job.id]);
  t.strictSame(await jobsOf(viewer), [job.id]);
  t.strictSame(await jobsOf(mesh.profile), [job.id]);
  const seen = await as(viewer, 'tasks', job.id);
  t.notMatch(seen.stdout, /private/, 'a result is output too');
  t.match((await as(anna, 'logs', job.id)).stdout, /private/);
  t.match((await as(mesh.profile, 'logs', job.id)).stdout, /private/);
});

test('a submitter who is called like an operator is somebody else', async (t) => {
  const namesake = await login('submitter', 'admin');
  const theirs = (await as(mesh.profile, 'submit', '--wait', ...shell('echo private'))).json<JobShape>();
  t.equal(theirs.submitter, 'operator/admin');
  for (const command of ['job', 'logs', 'results', 'cancel', 'retry'])
    t.equal((await as(namesake, command, theirs.id)).code, 5, command);
  t.strictSame((await as(namesake, 'jobs')).json<Page<JobShape>>().items, []);
  const own = (await as(namesake, 'submit', '--wait', ...shell('true'))).json<JobShape>();
  t.equal(own.submitter, 'admin');
});

test('over HTTPS: health is open, metrics are for who has the role', async (t) => {
  const { address } = mesh.coordinator.ready;
  const [metrics, agent] = await Promise.all([issue('metrics', 'prometheus'), issue('agent', 'curious')]);
  const nobody = certificateFiles(metrics);
  for (const path of ['/healthz', '/readyz']) t.match(await get(address, path, nobody), { status: 200 }, path);
  const refused = await get(address, '/metrics', nobody);
  t.match(refused, { status: 401, type: /^application\/problem\+json/ });
  t.match(JSON.parse(refused.body), { status: 401, title: String, detail: /certificate/ });
  t.match(await get(address, '/metrics', certificateFiles(agent, 'curious')), { status: 403 });
  const scraped = await get(address, '/metrics', certificateFiles(metrics, 'prometheus'));
  t.match(scraped, { status: 200, type: /^text\/plain/, body: /^mesh_leader 1$/m });
  t.match(await get(address, '/nothing', nobody), { status: 404 });

  const profile = profileOf('metrics', join(metrics, 'prometheus.crt'), join(metrics, 'prometheus.key'));
  for (const command of [['jobs'], ['nodes']])
    t.match((await as(profile, ...command)).error(), { code: 'DENIED' }, `metrics: ${command.join(' ')}`);
});

test('over gRPC without a certificate: every method of people and of the authority is refused', async (t) => {
  const { address, adminProfile } = mesh.coordinator.ready;
  const root = readFileSync(join(adminProfile, 'ca.crt'));
  const client = new Client(address, credentials.createSsl(root));
  t.teardown(() => client.close());
  const methods = [...Object.values(MeshServiceService), ...Object.values(CaServiceService)];
  t.ok(methods.length > 15);
  for (const { path } of methods) {
    const status = await new Promise<number>((resolve) => {
      const empty = () => Buffer.alloc(0);
      client.makeUnaryRequest(path, empty, empty, {}, (error: ServiceError | null) => resolve(error?.code ?? 0));
    });
    t.equal(status, 16, path);
  }
});

test('a revoked agent is shown out at once, and stays out', async (t) => {
  const leaving = await mesh.startAgent('leaving');
  const job = await mesh.submit('--where', 'name=leaving', ...shell('exec sleep 600'));
  const { program } = mesh.coordinator;
  const mark = program.mark();
  const revoked = await mesh.ca('revoke', 'leaving', '--json');
  t.equal(revoked.code, 0, revoked.stderr);
  await program.logged('node.revoked', (event) => event.node === 'leaving', mark);
  const exit = await leaving.program.ended;
  t.equal(exit.code, 4);
  t.match(leaving.program.stderr, /^mesh-agent: [^\n]*revoked[^\n]*; [^\n]+\n$/);
  t.match(await mesh.node('leaving'), { revoked: true });
  const { address } = mesh.coordinator.ready;
  const again = await mesh.run('agent', ['--data', leaving.dataDir, '--coordinator', address, '--no-mdns']);
  t.equal(again.code, 4);
  t.match(again.stderr, /^mesh-agent: [^\n]*revoked[^\n]*; [^\n]+\n$/);
  await mesh.cli('cancel', job.id);

  const wish = await mesh.startAgent('leaving', { data: 'agent-newcomer' });
  t.not(wish.ready.name, 'leaving', 'a revoked name is not given to who only asks for it');
  const named = await mesh.token('--name', 'leaving');
  const back = await mesh.startAgent('leaving', { data: 'agent-back', args: ['--slots', '1', '--join', named] });
  t.equal(back.ready.name, 'leaving', 'it is to who brings a token that names it');
  t.match(await mesh.submit('--wait', '--where', 'name=leaving', '--', 'true'), { status: 'COMPLETED' });
});

test('a revoked person is refused', async (t) => {
  const profile = await login('operator', 'olga');
  t.equal((await as(profile, 'nodes')).code, 0);
  t.equal((await mesh.ca('revoke', 'olga')).code, 0);
  t.equal((await as(profile, 'nodes')).code, 4);
});

test('an agent with files from mesh-ca needs no token', async (t) => {
  const files = await issue('agent', 'by-hand');
  const flags = [
    '--cert',
    join(files, 'by-hand.crt'),
    '--key',
    join(files, 'by-hand.key'),
    '--ca',
    join(files, 'ca.crt'),
  ];
  const agent = await mesh.startAgent('by-hand', { args: ['--slots', '1', ...flags] });
  t.equal(agent.ready.name, 'by-hand');
  t.match(await mesh.submit('--wait', '--where', 'name=by-hand', '--', 'true'), { status: 'COMPLETED' });
  t.equal((await agent.program.stop()).code, 0);
});

test('a certificate renews itself; what runs does not notice', async (t) => {
  // The command line counts in days, so the authority is asked directly, for a certificate as old as the authority
  // itself, with 20 seconds left: its renewal is due now or soon.
  const { authority } = openDirectory(join(mesh.coordinator.dataDir, 'ca'), systemClock);
  const bornMs = Date.parse(authority.issuer.validFrom) + BACKDATE_MS;
  const pair = makeKeyPair();
  const { publicKeyDer } = pair;
  const request = {
    publicKeyDer,
    role: 'agent',
    name: 'short',
    lifetimeMs: Date.now() - bornMs + 20_000,
    nowMs: bornMs,
  } as const;
  const issued = authority.issue(request);
  const folder = mesh.folder('short-lived');
  const [cert, key, ca] = ['short.crt', 'short.key', 'ca.crt'].map((name) => join(folder, name)) as [
    string,
    string,
    string,
  ];
  writeFileSync(cert, issued.pem);
  writeFileSync(key, pair.privateKeyPem, { mode: 0o600 });
  cpSync(join(mesh.profile, 'ca.crt'), ca);
  const files = ['--slots', '1', '--cert', cert, '--key', key, '--ca', ca];
  const gate = mesh.witness.gate('renewal-gate');
  const { program } = mesh.coordinator;
  const mark = program.mark();
  const waiting = mesh.submit(
    '--where',
    'name=short',
    ...shell(`echo up >> ${mesh.witness.path('renewal')}; read x < ${gate.path}`),
  );
  const agent = await mesh.startAgent('short', { args: files });
  await agent.program.logged('certificate.renewed');
  const job = await waiting;
  await mesh.witness.seen('renewal');
  await program.logged('certificate.issued', (event) => event.name === 'short', mark);
  const node = await mesh.node('short');
  t.match(node, { state: 'HEALTHY' });
  t.not(readFileSync(join(agent.dataDir, 'agent.crt'), 'utf8'), issued.pem, 'the new one is stored');
  gate.open();
  t.match(await mesh.wait(job.id), { status: 'COMPLETED' });
  t.match(await mesh.tasks(job.id), [{ attempts: 1, losses: 0 }]);
  t.not((await mesh.node('short')).certFingerprint, issued.fingerprint, 'and the new one is what it shows');
  await agent.program.stop();
});
