/** Revocation while things are open: sessions, streams, kept-alive requests, on another coordinator, and resumed ones. */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { Agent, request } from 'node:https';
import { cpSync } from 'node:fs';
import { join } from 'node:path';
import { connect, createServer, type TLSSocket } from 'node:tls';
import t, { before, test } from 'tap';
import { buildCrl } from '../../ca/x509/crl.js';
import { fieldsOf } from '../../common/identity/check.js';
import { makeCsr } from '../../common/identity/csr.js';
import { makeKeyPair } from '../../common/identity/keys.js';
import type { Credential } from '../../link/credentials.js';
import { Forger } from '../support/forger.js';
import { failure, hello, openFront } from '../support/front.js';
import { certificateFiles, get } from '../support/https.js';
import { type Agent as AgentProcess, type Coordinator, makeMesh, type Mesh } from '../support/mesh.js';
import { OPERATOR, PlayedAgent, submit } from '../support/plane.js';
import { urlOf, withDatabase } from '../support/postgres.js';

let mesh: Mesh;
let leader: Coordinator;
let standby: Coordinator;

const plainFiles = ({ certificateChain, privateKey, root }: Credential) => ({
  ca: root,
  cert: certificateChain,
  key: privateKey,
});

before(async () => {
  const database = await withDatabase(t, { migrated: false });
  mesh = makeMesh(t);
  // A lease that no test lives to see the end of: what is given away is given away because of the revocation.
  const args = ['--listen', '127.0.0.1', '--database-url', urlOf(database), '--node-lease', '10m'];
  leader = await mesh.startCoordinator({ args: [...args, '--name', 'first'] });
  const operator = mesh.profile;
  const token = await mesh.token('--role', 'coordinator');
  const join = ['--name', 'second', '--join', token, '--coordinator', leader.ready.address];
  standby = await mesh.startCoordinator({ data: 'second', args: [...args, ...join] });
  mesh.profile = operator;
});

const AGENT = ['--slots', '1', '--stop-grace', '100ms', '--kill-grace', '300ms'];

async function startAgent(name: string): Promise<AgentProcess> {
  const token = await mesh.token();
  return mesh.startAgent(name, { args: [...AGENT, '--join', token, '--coordinator', leader.ready.address] });
}

/** A task on `from` that, anywhere else, ends at once. */
async function holdTask(from: string): Promise<{ id: string }> {
  const script = `echo $MESH_NODE >> ${mesh.witness.path(from)}; [ $MESH_NODE != ${from} ] || exec sleep 600`;
  const job = await mesh.submit('--where', `name in (${from},${from}-spare)`, '--', 'sh', '-c', script);
  await mesh.witness.seen(from);
  return job;
}

/** Requests over one connection that is kept. */
function keptAlive(coordinator: Coordinator, folder: string, name: string) {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const [host, port] = coordinator.ready.address.split(':');
  const files = certificateFiles(folder, name);
  let socket: TLSSocket | undefined;
  const ask = (): Promise<number> =>
    new Promise((resolve, reject) => {
      const call = request({ host, port: Number(port), path: '/metrics', agent, ...files }, (response) => {
        socket = response.socket as TLSSocket;
        response.resume();
        response.on('end', () => resolve(response.statusCode ?? 0));
      });
      call.on('error', reject);
      call.end();
    });
  return { ask, closed: () => once(socket as TLSSocket, 'close'), end: () => agent.destroy() };
}

/** At the coordinator that is asked it holds before the command returns; at any other, within a second. */
const revokeAtLeader = (name: string) => mesh.ca('revoke', name, '--coordinator', leader.ready.address);

test('A12: revoked through the standby: the session on the leader is cut, the work goes elsewhere', async (t) => {
  const held = await startAgent('held');
  const job = await holdTask('held');
  await startAgent('held-spare');
  const mark = leader.program.mark();
  const revoked = await mesh.ca('revoke', 'held', '--coordinator', standby.ready.address);
  t.equal(revoked.code, 0, revoked.stderr);
  await standby.program.logged('certificate.revoked', (line) => line.name === 'held');
  await leader.program.logged('node.revoked', (line) => line.node === 'held', mark);
  t.match(await held.program.ended, { code: 4 });
  t.match(held.program.stderr, /revoked/);
  t.match(await mesh.wait(job.id), { status: 'COMPLETED' }, 'long before the lease ended');
  t.match(await mesh.tasks(job.id), [{ status: 'COMPLETED', node: 'held-spare', losses: 1, failures: 0 }]);
  t.match(await mesh.node('held'), { revoked: true });
  const audited = await mesh.cli('audit', '--json', '--action', 'certificate.revoked');
  t.match(audited.stdout, /agent\/held/, 'the audit says whose');
});

test('A12: a result that was read when its agent was revoked, and not written yet, does not count', async (t) => {
  const front = await openFront(t);
  const { plane, store, mesh } = front;
  const pair = makeKeyPair();
  const request = { csr: makeCsr(pair.privateKey, 'late'), role: 'agent', name: 'late', days: 1 };
  const { pem, serial } = await plane.issuance.issue(OPERATOR, request);
  const late = new PlayedAgent(plane, 'late', 2, { serial });
  await late.connect();
  const job = await submit(plane, 1);
  const tasks = await late.assigned();
  await plane.issuance.revoke(OPERATOR, serial);
  late.report(tasks, { resultJson: '"late"' });
  const honest = new PlayedAgent(plane, 'honest');
  await honest.connect();
  const again = await honest.assigned();
  t.match(again, [{ generation: 2 }], 'it is given to another at once');
  late.report(tasks, { resultJson: '"later"' });
  await honest.finish(again, { resultJson: '"honest"' });
  const [row] = await store.tasks.list({ job: job.seq, fromIndex: 0, limit: 1 });
  t.match(row, { status: 'COMPLETED', resultJson: '"honest"' });
  await plane.audit.idle();
  const [stale] = await store.audit.find({ action: 'result.stale', limit: 10 });
  t.match(stale, { actor: 'agent/late' });
  const credential = { certificateChain: pem, privateKey: pair.privateKeyPem, root: mesh.authority.rootPem };
  const returning = front.agent(credential).session();
  returning.write(hello());
  t.match(await failure(returning), { code: 'REVOKED' }, 'and it can say nothing more');
});

test('A12: revoked with mesh-ca in the directory of the standby: noticed without a restart', async (t) => {
  const out = mesh.folder('by-hand');
  const directory = join(standby.dataDir, 'ca');
  t.equal((await mesh.ca('issue', 'by-hand', '--role', 'agent', '--out', out, '--dir', directory)).code, 0);
  const files = ['--cert', join(out, 'by-hand.crt'), '--key', join(out, 'by-hand.key'), '--ca', join(out, 'ca.crt')];
  const agent = await mesh.startAgent('by-hand', { args: [...AGENT, ...files, '--coordinator', leader.ready.address] });
  const mark = leader.program.mark();
  t.equal((await mesh.ca('revoke', 'by-hand', '--dir', directory)).code, 0);
  await leader.program.logged('node.revoked', (line) => line.node === 'by-hand', mark);
  t.match(await agent.program.ended, { code: 4 });
});

test('A12: kept-alive requests and watching clients on either coordinator are cut too', async (t) => {
  const out = mesh.folder('watcher');
  for (const [name, role] of [
    ['prometheus', 'metrics'],
    ['anna', 'operator'],
  ] as const)
    t.equal((await mesh.ca('issue', name, '--role', role, '--out', out)).code, 0);
  const job = await mesh.submit('--where', 'name=nobody', '--', 'true');
  const profile = mesh.folder('profile-anna');
  for (const [from, to] of [
    ['anna.crt', 'client.crt'],
    ['anna.key', 'client.key'],
    ['ca.crt', 'ca.crt'],
  ] as const)
    cpSync(join(out, from), join(profile, to));
  cpSync(join(mesh.profile, 'profile.json'), join(profile, 'profile.json'));
  const watching = mesh.watch('--profile', profile, 'wait', job.id);
  const open = [leader, standby].map((coordinator) => keptAlive(coordinator, out, 'prometheus'));
  t.teardown(() => open.forEach(({ end }) => end()));
  for (const { ask } of open) t.equal(await ask(), 200);
  const cut = open.map(({ closed }) => closed());
  t.equal((await revokeAtLeader('prometheus')).code, 0);
  await Promise.all(cut);
  for (const { ask } of open) t.equal(await ask(), 401, 'and a new connection gets nothing');
  t.equal((await revokeAtLeader('anna')).code, 0);
  t.match(await watching.result, { code: 4, stderr: /revoked/ });
  await mesh.cli('cancel', job.id);
});

test('A12: whoever verifies by himself finds the serial on the public list', async (t) => {
  const out = mesh.folder('listed');
  t.equal((await mesh.ca('issue', 'listed', '--role', 'viewer', '--out', out)).code, 0);
  const serial = (await mesh.ca('inspect', join(out, 'listed.crt'), '--json')).json<{
    certificates: { serial: string }[];
  }>().certificates[0]?.serial as string;
  t.equal((await revokeAtLeader('listed')).code, 0);
  const answer = await get(leader.ready.address, '/crl', certificateFiles(out));
  t.match(answer, { status: 200, type: 'application/pkix-crl' });
  const asked = await mesh.ca('crl', '--json', '--coordinator', leader.ready.address);
  const { crl } = asked.json<{ crl: string }>();
  const der = Buffer.from(crl.split('\n').slice(1, -2).join(''), 'base64');
  t.ok(der.includes(Buffer.from(serial, 'hex')), 'asked for by a command');
  const elsewhere = (await mesh.ca('crl', '--json', '--coordinator', standby.ready.address)).json<{ crl: string }>();
  t.not(elsewhere.crl, crl, 'each coordinator signs what it has issued');
  const offline = await mesh.ca('crl', '--json', '--dir', join(leader.dataDir, 'ca'));
  const merged = Buffer.from(offline.json<{ crl: string }>().crl.split('\n').slice(1, -2).join(''), 'base64');
  t.ok(merged.includes(Buffer.from(serial, 'hex')), 'and the directory knows what was revoked through the coordinator');
});

test('A13: a resumed session skips the revocation list of a plain server, and does not exist here', async (t) => {
  const forger = new Forger('lab', Date.now());
  const leaf = forger.leaf('operator');
  const credential = forger.credential(leaf);
  const crlOf = (issuer: Forger['root'], serials: string[], number: number): string => {
    const nowMs = Date.now();
    const revoked = serials.map((serial) => ({ serial, revokedAtMs: nowMs }));
    const issuerDer = fieldsOf(issuer.certificate).subjectDer;
    const template = { number, issuerDer, thisUpdateMs: nowMs - 60_000, nextUpdateMs: nowMs + 60_000, revoked };
    const text = buildCrl(template, issuer.privateKey).toString('base64');
    return `-----BEGIN X509 CRL-----\n${text.match(/.{1,64}/g)?.join('\n')}\n-----END X509 CRL-----\n`;
  };
  const listed = (serials: string[], number: number) => ({
    ...plainFiles(forger.credential(forger.leaf('coordinator'))),
    crl: [crlOf(forger.root, [], number), crlOf(forger.issuer, serials, number)],
  });
  const plain = createServer({ ...listed([], 1), requestCert: true, ticketKeys: randomBytes(48) }, (socket) => {
    socket.on('error', () => undefined);
    socket.end('welcome');
  });
  plain.on('tlsClientError', () => undefined);
  plain.listen(0, '127.0.0.1');
  await once(plain, 'listening');
  t.teardown(() => plain.close());
  const { port } = plain.address() as { port: number };
  const ask = async (session?: Buffer) => {
    const socket = connect({
      host: '127.0.0.1',
      port,
      rejectUnauthorized: false,
      ...plainFiles(credential),
      ...(session ? { session } : {}),
    });
    let ticket: Buffer | undefined;
    let text = '';
    let resumed = false;
    socket.on('secureConnect', () => (resumed = socket.isSessionReused()));
    socket.on('session', (bytes: Buffer) => (ticket = bytes));
    socket.on('data', (bytes: Buffer) => (text += String(bytes)));
    socket.on('error', () => undefined);
    await once(socket, 'close');
    return { text, ticket, resumed };
  };
  const first = await ask();
  t.match(first, { text: 'welcome', resumed: false });
  plain.setSecureContext(listed([fieldsOf(leaf.der).serial], 2));
  t.match(await ask(), { text: '' }, 'revoked: a full handshake is refused');
  t.match(await ask(first.ticket), { text: 'welcome', resumed: true }, 'but the session of before lets it in');

  const out = mesh.folder('resuming');
  t.equal((await mesh.ca('issue', 'resuming', '--role', 'metrics', '--out', out)).code, 0);
  const [host, meshPort] = leader.ready.address.split(':');
  const files = certificateFiles(out, 'resuming');
  const visit = async (session?: Buffer) => {
    const socket = connect({ host, port: Number(meshPort), ...files, ...(session ? { session } : {}) });
    let ticket: Buffer | undefined;
    socket.on('session', (bytes: Buffer) => (ticket = bytes));
    await once(socket, 'secureConnect');
    const resumed = socket.isSessionReused();
    socket.write('GET /metrics HTTP/1.0\r\n\r\n');
    let text = '';
    socket.on('data', (bytes: Buffer) => (text += String(bytes)));
    await once(socket, 'close');
    return { status: text.slice(9, 12), ticket, resumed };
  };
  const before = await visit();
  t.match(before, { status: '200', resumed: false });
  t.match(await visit(before.ticket), { status: '200', resumed: false }, 'nobody comes back without being judged anew');
  t.equal((await revokeAtLeader('resuming')).code, 0);
  t.match(await visit(before.ticket), { status: '401', resumed: false });
});
