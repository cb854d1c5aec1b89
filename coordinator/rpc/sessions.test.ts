import { once } from 'node:events';
import { randomBytes } from 'node:crypto';
import { connect as connectHttp2, type ClientHttp2Session } from 'node:http2';
import { connect as connectTls, type TLSSocket } from 'node:tls';
import { test } from 'tap';
import { MeshError } from '../../common/errors.js';
import { fromServiceError } from '../../common/grpc-errors.js';
import { Finished, Outcome } from '../../proto/gen/mesh/v1/agent.js';
import { Stream } from '../../proto/gen/mesh/v1/common.js';
import { submit } from '../../test/support/plane.js';
import { withStore } from '../../test/support/postgres.js';
import { failure, heartbeat, hello, next, openFront, until } from '../../test/support/front.js';

test('a session over mutual TLS: hello, work, result, goodbye', async (t) => {
  const front = await openFront(t);
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
  stream.write({ body: { $case: 'finished', value: { items: [finished], runs: [] } } });
  t.match(await next(stream, 'finishedAck'), { indexes: [task.index] });
  stream.write(heartbeat({ stopping: true }));
  await next(stream, 'heartbeatReply');
  stream.end();
  await once(stream, 'end');
  await until(() => front.plane.fleet.byName('attic')?.liveness.state === 'OFFLINE');
  t.equal((await front.store.jobs.get(job.id))?.status, 'COMPLETED');
});

test('a stream that does not begin with a hello, or says hello twice, is ended with the reason', async (t) => {
  const front = await openFront(t);
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
  const front = await openFront(t);
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
  stream.write({ body: { $case: 'finished', value: { items: [good, bad], runs: [] } } });
  stream.write({ body: { $case: 'finished', value: { items: [good], runs: [] } } });
  t.match(await refused, { code: 'PROTOCOL', message: /broke the rules of the session.*outcome 99/ });
  await until(() => !plane.lead().fleet.byName('attic')?.session?.open);
  await plane.lead().results.settled();
  t.match((await store.jobs.get(job.id))?.counts, { completed: 0 }, 'neither the rest of it nor what followed');
  const again = client.session();
  again.on('error', () => undefined);
  again.write(hello());
  t.match(await next(again, 'welcome'), { name: 'attic' }, 'and it may come back');
  again.write({ body: { $case: 'finished', value: { items: [good, good], runs: [] } } });
  again.write({ body: { $case: 'finished', value: { items: [good], runs: [] } } });
  await next(again, 'finishedAck');
  again.write(heartbeat());
  t.match(await next(again, 'heartbeatReply'), { sequence: 1 }, 'a repeated message breaks no rule');
  t.match((await store.jobs.get(job.id))?.counts, { completed: 1 });
  again.cancel();
});

test('bytes that are no message, no call and no HTTP/2 end that connection and nothing else', async (t) => {
  const front = await openFront(t);
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
  const front = await openFront(t, {
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
  const front = await openFront(t);
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
