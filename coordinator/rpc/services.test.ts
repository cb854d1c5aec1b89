import { once } from 'node:events';
import { request as httpsRequest } from 'node:https';
import { randomBytes, X509Certificate } from 'node:crypto';
import { connect as connectHttp2, type ClientHttp2Session } from 'node:http2';
import { connect as connectTls, type TLSSocket } from 'node:tls';
import { Client, type ClientDuplexStream } from '@grpc/grpc-js';
import { test, type Test } from 'tap';
import { MeshError } from '../../common/errors.js';
import { fromServiceError } from '../../common/grpc-errors.js';
import { silentLogger } from '../../common/log.js';
import { systemClock } from '../../common/clock.js';
import { type Credential, channelCredentials, channelOptions } from '../../link/credentials.js';
import {
  AgentServiceClient,
  Finished,
  Outcome,
  type SessionRequest,
  SessionResponse,
} from '../../proto/gen/mesh/v1/agent.js';
import { Capabilities, Stream } from '../../proto/gen/mesh/v1/common.js';
import { MeshServiceService } from '../../proto/gen/mesh/v1/mesh.js';
import { type Api, makeApi } from '../../sdk/api.js';
import { startPlane, submission, submit, type TestPlane } from '../../test/support/plane.js';
import { withStore } from '../../test/support/postgres.js';
import { Door } from '../door/door.js';
import { makeHttp } from '../http/server.js';
import type { Store } from '../ports.js';
import { registerServices } from './register.js';

interface Front extends TestPlane {
  port: number;
  door: Door;
  agent(credential: Credential): AgentServiceClient;
  api(role: 'operator' | 'submitter' | 'viewer', name?: string): Api<typeof MeshServiceService>;
}

/** The whole surface of a coordinator: its control plane behind a real door. */
async function open(t: Test, store?: Store, notReady?: () => string | undefined): Promise<Front> {
  const parts = await startPlane(t, store ? { store } : {});
  const { plane, mesh } = parts;
  const http = await makeHttp({
    peerOf: (socket) => door.peerOf(socket),
    ...{ denylist: plane.denylist, metrics: plane.metrics, log: silentLogger },
    notReady: async () => notReady?.() ?? plane.notReady(),
  });
  const door: Door = new Door({
    ...{ meshId: mesh.meshId, credential: mesh.credential('coordinator', 'one'), clock: systemClock },
    ...{ log: silentLogger, port: 0, http: http.server, limits: { drainMs: 50 } },
    register: (server) =>
      registerServices(server, plane, {
        ...{ meshId: mesh.meshId, log: silentLogger },
        peerOf: (call) => door.peerOf(call),
      }),
  });
  await door.start();
  const target = `ipv4:127.0.0.1:${door.port}`;
  const credentialsOf = (credential: Credential) => channelCredentials(credential, mesh.meshId);
  t.teardown(async () => {
    await door.stop();
    await http.app.close();
  });
  return {
    ...parts,
    ...{ door, port: door.port },
    agent(credential) {
      const client = new AgentServiceClient(target, credentialsOf(credential), channelOptions);
      t.teardown(() => client.close());
      return client;
    },
    api(role, name = 'anna') {
      const client = new Client(target, credentialsOf(mesh.credential(role, name)), channelOptions);
      t.teardown(() => client.close());
      return makeApi(client, MeshServiceService);
    },
  };
}

const hello = (bootId = 'boot'): SessionRequest => ({
  body: {
    $case: 'hello',
    value: {
      ...{ protocol: { min: 1, max: 1 }, bootId, version: '0.1.0', epoch: 0, runningAgeMs: [] },
      capabilities: Capabilities.fromPartial({ cpus: 2, slots: 2, memoryBytes: 2 ** 30, executors: ['process'] }),
      ...{ prefilled: undefined, running: undefined, unacknowledged: undefined },
    },
  },
});

const heartbeat = (over: object = {}): SessionRequest => ({
  body: {
    $case: 'heartbeat',
    value: {
      ...{ sequence: 1, load: 0, running: 0, queued: 0, memoryFreeBytes: 0, echoUs: 0, echoHeldUs: 0, stopping: false },
      ...over,
    },
  },
});

type Session = ClientDuplexStream<SessionRequest, SessionResponse>;

/** The next message of this kind. */
async function next<K extends string>(stream: Session, kind: K) {
  for (;;) {
    const [{ body }] = (await once(stream, 'data')) as [SessionResponse];
    if (body?.$case === kind) return body.value as Extract<NonNullable<typeof body>, { $case: K }>['value'];
  }
}

const failure = (stream: Session): Promise<MeshError> =>
  new Promise((resolve) => stream.on('error', (error) => resolve(fromServiceError(error))));

const until = async (predicate: () => unknown): Promise<void> => {
  while (!predicate()) await new Promise((resolve) => setImmediate(resolve));
};

test('a session over mutual TLS: hello, work, result, goodbye', async (t) => {
  const front = await open(t);
  const client = front.agent(front.mesh.credential('agent', 'attic'));
  const stream = client.session();
  stream.write(hello());
  t.match(await next(stream, 'welcome'), { name: 'attic', protocol: 1, epoch: 1 });
  const job = await submit(front.plane, 1);
  const { groups, bodies } = await next(stream, 'assign');
  t.match(bodies, [{ job: job.seq, work: { $case: 'process' } }]);
  const [group] = groups;
  const task = { job: job.seq, index: group?.indexes[0] ?? -1, generation: group?.generations[0] ?? -1 };
  stream.write(heartbeat());
  t.match(await next(stream, 'heartbeatReply'), { sequence: 1, epoch: 1 });
  const finished = Finished.fromPartial({ ...task, outcome: Outcome.SUCCEEDED, runUs: 5 });
  stream.write({ body: { $case: 'finished', value: { items: [finished] } } });
  t.match(await next(stream, 'finishedAck'), { indexes: [task.index] });
  stream.write(heartbeat({ stopping: true }));
  await next(stream, 'heartbeatReply');
  stream.end();
  await once(stream, 'end');
  await until(() => front.plane.fleet.byName('attic')?.liveness.state === 'OFFLINE');
  t.equal((await front.store.jobs.get(job.id))?.status, 'COMPLETED');
});

test('a stream that does not begin with a hello, or says hello twice, is ended with the reason', async (t) => {
  const front = await open(t);
  const client = front.agent(front.mesh.credential('agent', 'attic'));
  const rude = client.session();
  const refused = failure(rude);
  rude.write(heartbeat());
  t.match(await refused, { code: 'PROTOCOL', message: /began with "heartbeat", not with a hello/ });
  const twice = client.session();
  const ended = failure(twice);
  twice.write(hello());
  await next(twice, 'welcome');
  twice.write(hello());
  t.match(await ended, { code: 'PROTOCOL', message: /said hello a second time/ });
  await until(() => !front.plane.fleet.byName('attic')?.session?.open);
  t.equal(front.plane.fleet.byName('attic')?.liveness.state, 'HEALTHY', 'a broken stream is no goodbye');
});

test('a message that breaks a rule closes the session with the reason and changes nothing', async (t) => {
  const front = await open(t);
  const { plane, store } = front;
  const client = front.agent(front.mesh.credential('agent', 'attic'));
  const stream = client.session();
  const refused = failure(stream);
  stream.write(hello());
  await next(stream, 'welcome');
  const job = await submit(plane, 2);
  const { groups } = await next(stream, 'assign');
  const generation = groups[0]?.generations[0] ?? 0;
  const good = Finished.fromPartial({ job: job.seq, index: 0, generation, outcome: Outcome.SUCCEEDED });
  const bad = { ...good, index: 1, outcome: 99 as Outcome };
  stream.write({ body: { $case: 'finished', value: { items: [good, bad] } } });
  stream.write({ body: { $case: 'finished', value: { items: [good] } } });
  t.match(await refused, { code: 'PROTOCOL', message: /broke the rules of the session.*outcome 99/ });
  await until(() => !plane.lead().fleet.byName('attic')?.session?.open);
  await plane.lead().results.settled();
  t.match((await store.jobs.get(job.id))?.counts, { completed: 0 }, 'neither the rest of it nor what followed');
  const again = client.session();
  again.on('error', () => undefined);
  again.write(hello());
  t.match(await next(again, 'welcome'), { name: 'attic' }, 'and it may come back');
  again.write({ body: { $case: 'finished', value: { items: [good, good] } } });
  again.write({ body: { $case: 'finished', value: { items: [good] } } });
  await next(again, 'finishedAck');
  again.write(heartbeat());
  t.match(await next(again, 'heartbeatReply'), { sequence: 1 }, 'a repeated message breaks no rule');
  t.match((await store.jobs.get(job.id))?.counts, { completed: 1 });
  again.cancel();
});

test('bytes that are no message, no call and no HTTP/2 end that connection and nothing else', async (t) => {
  const front = await open(t);
  const credential = front.mesh.credential('agent', 'mallory');
  const secure = {
    ...{ host: '127.0.0.1', port: front.port, ca: front.mesh.authority.rootPem, checkServerIdentity: () => undefined },
    ...{ cert: credential.certificateChain, key: credential.privateKey, ALPNProtocols: ['h2'] },
  };
  const dial = async (): Promise<TLSSocket> => {
    const socket = connectTls(secure);
    await once(socket, 'secureConnect');
    return socket.on('error', () => undefined);
  };
  const noise = await dial();
  noise.resume().write(randomBytes(4096));
  await once(noise, 'close');
  const half = await dial();
  half.resume().write('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
  half.write(randomBytes(512));
  await once(half, 'close');
  const frame = (declared: number, bytes: Buffer) => {
    const head = Buffer.alloc(5);
    head.writeUInt32BE(declared, 1);
    return Buffer.concat([head, bytes]);
  };
  const beyond = Buffer.from([0x12, 0x0b, 0x08, ...new Array<number>(9).fill(0xff), 0x01]);
  const bodies: [string, Buffer][] = [
    ['noise for a message', frame(64, randomBytes(64))],
    ['a frame cut short', frame(1000, randomBytes(10))],
    ['a frame beyond every limit', frame(0xffffffff, randomBytes(64))],
    ['a number that no double holds', frame(beyond.length, beyond)],
    ['a compressed message that is none', Buffer.concat([Buffer.from([1, 0, 0, 0, 4]), randomBytes(4)])],
  ];
  const session: ClientHttp2Session = connectHttp2(`https://127.0.0.1:${front.port}`, {
    createConnection: () => connectTls(secure),
  });
  session.on('error', () => undefined);
  t.teardown(() => session.destroy());
  for (const [what, body] of bodies) {
    const stream = session.request({
      ':method': 'POST',
      ':path': '/mesh.v1.AgentService/Session',
      ...{ 'content-type': 'application/grpc', te: 'trailers' },
    });
    stream.on('error', () => undefined);
    stream.resume().end(body);
    await once(stream, 'close');
    t.pass(`${what}: the stream is closed`);
  }
  const honest = front.agent(front.mesh.credential('agent', 'attic')).session();
  honest.on('error', () => undefined);
  honest.write(hello());
  t.match(await next(honest, 'welcome'), { name: 'attic' }, 'the others are served');
  t.equal(front.plane.lead().fleet.byName('mallory'), undefined, 'who never said hello is no node');
  honest.cancel();
});

test('an agent that is cut off while it is being admitted leaves no open session behind', async (t) => {
  const store = await withStore(t);
  let admitting: () => void = () => undefined;
  let release: () => void = () => undefined;
  const asked = new Promise<void>((resolve) => (admitting = resolve));
  const gate = new Promise<void>((resolve) => (release = resolve));
  const front = await open(t, {
    ...store,
    nodes: {
      ...store.nodes,
      upsert: async (node) => {
        admitting();
        await gate;
        return store.nodes.upsert(node);
      },
    },
  });
  const client = front.agent(front.mesh.credential('agent', 'attic'));
  const stream = client.session();
  const ended = failure(stream);
  stream.write(hello());
  await asked;
  stream.cancel();
  await ended;
  // The server has heard of it before the store answers.
  const probe = front.agent(front.mesh.credential('agent', 'attic')).session();
  probe.on('error', () => undefined);
  probe.write(heartbeat());
  await once(probe, 'close').catch(() => undefined);
  release();
  await until(() => front.plane.fleet.byName('attic')?.session);
  await until(() => !front.plane.fleet.byName('attic')?.session?.open);
  t.pass();
});

test('logs: what was taken is acknowledged, also when the agent ends the stream at once', async (t) => {
  const front = await open(t);
  const client = front.agent(front.mesh.credential('agent', 'attic'));
  const early = client.streamLogs();
  const refused = new Promise<MeshError>((resolve) => early.on('error', (error) => resolve(fromServiceError(error))));
  t.match(await refused, { code: 'NOT_READY' });
  const session = client.session();
  session.on('error', () => undefined);
  session.write(hello());
  await next(session, 'welcome');
  const job = await submit(front.plane, 1);
  const { groups } = await next(session, 'assign');
  const ref = { job: job.seq, index: 0, generation: groups[0]?.generations[0] ?? 0 };
  const logs = client.streamLogs();
  const offsets: number[] = [];
  logs.on('data', ({ storedOffset }: { storedOffset: number }) => offsets.push(storedOffset));
  for (let i = 0; i < 30; i++)
    logs.write({
      ...ref,
      chunks: [{ stream: Stream.STDOUT, offset: i * 1000, atMs: 1, data: Buffer.alloc(1000, 'x') }],
    });
  logs.end();
  await once(logs, 'end');
  t.equal(offsets.length, 30);
  t.equal(offsets.at(-1), 30_000);
  session.cancel();
});

test('roles over the wire: submitters their own, viewers no results, agents nothing of it', async (t) => {
  const front = await open(t);
  const anna = front.api('submitter', 'anna');
  const bert = front.api('submitter', 'bert');
  const viewer = front.api('viewer', 'wall');
  const operator = front.api('operator', 'admin');
  const job = await submit(front.plane, 1);
  t.match(await anna.getJob({ id: job.id }), { job: { id: job.id, submitter: 'anna' } });
  await t.rejects(bert.getJob({ id: job.id }), { code: 'NOT_FOUND' });
  await t.rejects(bert.cancelJob({ id: job.id }), { code: 'NOT_FOUND' });
  t.match(await viewer.getJob({ id: job.id }), { job: { id: job.id } });
  await t.rejects(viewer.cancelJob({ id: job.id }), { code: 'DENIED' });
  await t.rejects(viewer.createToken({ role: 'agent', name: '', ttlMs: 5000, uses: 1, replace: false }), {
    code: 'DENIED',
  });
  const session = front.agent(front.mesh.credential('agent', 'attic')).session();
  session.on('error', () => undefined);
  session.write(hello());
  const { groups } = await next(session, 'assign');
  const finished = Finished.fromPartial({
    ...{ job: job.seq, index: 0, generation: groups[0]?.generations[0] ?? 0 },
    ...{ outcome: Outcome.SUCCEEDED, resultJson: '"the secret"' },
  });
  session.write({ body: { $case: 'finished', value: { items: [finished] } } });
  await next(session, 'finishedAck');
  const tasks = { job: job.id, status: '', limit: 0, cursor: '', index: undefined };
  t.match((await anna.listTasks(tasks)).items, [{ resultJson: '"the secret"', node: 'attic' }]);
  t.match((await viewer.listTasks(tasks)).items, [{ resultJson: '', status: 'COMPLETED' }]);
  t.match((await operator.listNodes({})).items, [{ name: 'attic', state: 'HEALTHY', running: 0 }]);
  await t.rejects(operator.getNode({ name: 'nowhere' }), { code: 'NOT_FOUND' });
  session.cancel();
});

test('a submission that is broken off makes no job', async (t) => {
  const front = await open(t);
  const anna = front.api('submitter', 'anna');
  const { spec } = submission(1, { taskCount: 2, array: undefined });
  async function* broken() {
    yield { body: { $case: 'start' as const, value: { spec, idempotencyKey: 'k' } } };
    throw new Error('the list could not be read');
  }
  await t.rejects(anna.submitJob(broken()));
  await t.rejects(anna.submitJob((async function* () {})()), { code: 'BAD_SPEC' });
  t.same(await front.store.jobs.list({ limit: 10 }), []);
});

test('A12, A13: a revoked identity is refused on its open connection', async (t) => {
  const front = await open(t);
  const { mesh, plane, store } = front;
  const credential = mesh.credential('operator', 'eve');
  const leaf = new X509Certificate(credential.certificateChain);
  await store.certificates.record(
    {
      ...{ serial: leaf.serialNumber.toLowerCase().replace(/^0+/, ''), role: 'operator', name: 'eve' },
      ...{ fingerprint: 'ab'.repeat(32), publicKeyDigest: 'cd'.repeat(32), pem: credential.certificateChain },
      ...{ notBeforeMs: Date.parse(leaf.validFrom), notAfterMs: Date.parse(leaf.validTo) },
      ...{ revokedAtMs: undefined, tokenId: undefined },
    },
    { sameHolder: false },
  );
  const client = new Client(
    `ipv4:127.0.0.1:${front.port}`,
    channelCredentials(credential, mesh.meshId),
    channelOptions,
  );
  t.teardown(() => client.close());
  const eve = makeApi(client, MeshServiceService);
  await eve.listNodes({});
  await plane.issuance.revoke('admin', 'eve');
  await t.rejects(eve.listNodes({}), { code: 'REVOKED' });
});

test('HTTPS on the same port: health for anyone, metrics for those who may, problems as documents', async (t) => {
  const trouble: { reason?: string } = {};
  const front = await open(t, undefined, () => trouble.reason);
  const { mesh, port } = front;
  const get = (path: string, credential?: Credential) =>
    new Promise<{ status: number; type: string; body: string }>((resolve, reject) => {
      const call = httpsRequest(
        {
          ...{
            host: '127.0.0.1',
            port,
            path,
            ca: mesh.authority.rootPem,
            agent: false,
            checkServerIdentity: () => undefined,
          },
          ...(credential ? { cert: credential.certificateChain, key: credential.privateKey } : {}),
        },
        (response) => {
          let body = '';
          response.setEncoding('utf8').on('data', (text: string) => (body += text));
          response.on('end', () =>
            resolve({ status: response.statusCode ?? 0, type: response.headers['content-type'] ?? '', body }),
          );
        },
      );
      call.on('error', reject).end();
    });
  t.match(await get('/healthz'), { status: 200, body: '{"status":"ok"}' });
  t.match(await get('/readyz'), { status: 200, body: '{"status":"ready"}' });
  trouble.reason = 'the database does not answer';
  const notReady = await get('/readyz');
  t.match(notReady, { status: 503, type: /^application\/problem\+json/ });
  t.match(JSON.parse(notReady.body), { title: 'not ready', status: 503, detail: trouble.reason });
  for (const role of ['metrics', 'operator', 'viewer'] as const)
    t.match(await get('/metrics', mesh.credential(role, 'x')), { status: 200, body: /mesh_leader 1/ }, role);
  for (const role of ['agent', 'submitter', 'coordinator'] as const)
    t.equal((await get('/metrics', mesh.credential(role, 'x')).catch(() => ({ status: 403 }))).status, 403, role);
  t.match(await get('/metrics'), { status: 401, body: /client certificate/ });
  t.match(await get('/nowhere'), { status: 404, body: /there is nothing at/ });
});
