import { once } from 'node:events';
import { createServer as createHttpServer } from 'node:http';
import { connect as http2Connect } from 'node:http2';
import { connect as netConnect } from 'node:net';
import { connect as tlsConnect, type ConnectionOptions } from 'node:tls';
import { gzipSync } from 'node:zlib';
import { test } from 'tap';
import { systemClock } from '../../common/clock.js';
import type { MeshError } from '../../common/errors.js';
import { silentLogger } from '../../common/log.js';
import { ManualClock } from '../../test/support/manual-clock.js';
import { testDoorLimits } from '../../test/support/limits.js';
import { makeTestMesh } from '../../test/support/test-mesh.js';
import {
  agent,
  certified,
  closed,
  coordinator,
  grpcClient,
  handshake,
  hold,
  mesh,
  openDoor,
  tlsOptions,
  until,
  who,
} from '../../test/support/who-door.js';
import { Door, type DoorOptions } from './door.js';

const other = makeTestMesh('other-mesh');

test('a connection that does not finish its handshake in time is cut', async (t) => {
  const clock = new ManualClock();
  const door = await openDoor(t, { clock });
  const silent = netConnect(door.port, '127.0.0.1');
  const dripping = netConnect(door.port, '127.0.0.1');
  const gone = Promise.all([closed(silent), closed(dripping)]);
  await until(() => door.connectionCount === 2);
  dripping.write(Buffer.from([22, 3, 1]));
  clock.advance(4999);
  t.equal(door.connectionCount, 2);
  dripping.write(Buffer.from([2]));
  clock.advance(1);
  await gone;
  await until(() => door.connectionCount === 0);
  t.pass('both are gone');
});

test('a peer without an identity lives ten seconds', async (t) => {
  const clock = new ManualClock();
  const door = await openDoor(t, { clock });
  const nobody = await handshake(t, tlsOptions(door));
  const known = await handshake(t, tlsOptions(door, certified(agent)));
  await until(() => clock.waiting.length === 1);
  const gone = closed(nobody);
  clock.advance(10_000);
  await gone;
  t.notOk(known.destroyed, 'an identity stays');
});

test('one address takes only its share', async (t) => {
  const door = await openDoor(t, {
    limits: { handshakesPerAddressMax: 3, nobodiesPerAddressMax: 2, perAddressMax: 6 },
  });
  const idle = [1, 2, 3].map(() => netConnect(door.port, '127.0.0.1'));
  t.teardown(() => idle.forEach((socket) => socket.destroy()));
  await until(() => door.connectionCount === 3);
  await closed(netConnect(door.port, '127.0.0.1'));
  t.equal(door.connectionCount, 3, 'a fourth handshake is cut');
  const elsewhere = await handshake(t, {
    ...tlsOptions(door),
    socket: netConnect({ host: '127.0.0.1', port: door.port, localAddress: '127.0.0.9' }),
  });
  t.ok(elsewhere.encrypted, 'another address is not concerned');
  for (const socket of idle) socket.destroy();
  await until(() => door.connectionCount === 1);

  await handshake(t, tlsOptions(door));
  await handshake(t, tlsOptions(door));
  await closed(tlsConnect(tlsOptions(door)));
  await until(() => door.connectionCount === 3);
  for (let i = 0; i < 4; i++) t.match(await who(grpcClient(t, door, agent)), { kind: 'identity' }, 'identities get in');
  await closed(tlsConnect(tlsOptions(door, certified(agent))));
  t.equal(door.connectionCount, 7, 'up to the cap of the address');
});

test('streams and messages are bounded by who asks', async (t) => {
  const door = await openDoor(t);
  const streams = async (more: ConnectionOptions) => {
    const socket = await handshake(t, tlsOptions(door, { ALPNProtocols: ['h2'], ...more }));
    const session = http2Connect('https://coordinator', { createConnection: () => socket });
    t.teardown(() => session.destroy());
    const [settings] = (await once(session, 'remoteSettings')) as [{ maxConcurrentStreams: number }];
    return settings.maxConcurrentStreams;
  };
  t.equal(await streams({}), 1);
  t.equal(await streams(certified(agent)), 128);
  const large = 'x'.repeat(64 * 1024);
  t.match(await who(grpcClient(t, door, agent), large), { kind: 'identity' });
  await t.rejects(who(grpcClient(t, door, { root: agent.root }), large), { code: 8 }, 'too large for nobody');
  const refused = { ...other.credential('agent', 'box'), root: agent.root };
  await t.rejects(who(grpcClient(t, door, refused), large), { code: 8 }, 'and for a refused one');
});

test('a message that unpacks beyond the bound is cut off', async (t) => {
  const door = await openDoor(t, { limits: { messageBytesMax: 1024 * 1024 } });
  const socket = await handshake(t, tlsOptions(door, { ALPNProtocols: ['h2'], ...certified(agent) }));
  const session = http2Connect('https://coordinator', { createConnection: () => socket });
  t.teardown(() => session.destroy());
  // The refusal may reach us, or the cut that follows it overtakes it; which one is the transport's affair.
  const cut = new Promise<string>((resolve) => {
    for (const end of [session, socket]) end.on('error', () => resolve('cut'));
    session.on('close', () => resolve('cut'));
  });
  const bomb = gzipSync(Buffer.alloc(300 * 1024 * 1024));
  t.ok(bomb.length < 1024 * 1024);
  const header = Buffer.alloc(5, 1);
  header.writeUInt32BE(bomb.length, 1);
  const memoryBefore = process.memoryUsage.rss();
  const stream = session.request({
    ':method': 'POST',
    ':path': '/test.Who/Who',
    'content-type': 'application/grpc',
    'grpc-encoding': 'gzip',
    te: 'trailers',
  });
  const answered = new Promise<string>((resolve) => {
    stream.on('response', (headers) => resolve(String(headers['grpc-status'])));
    stream.on('error', () => resolve('cut'));
  });
  stream.end(Buffer.concat([header, bomb]));
  t.ok(['8', 'cut'].includes(await Promise.race([answered, cut])), 'refused as too large, or cut');
  t.ok(process.memoryUsage.rss() - memoryBefore < 100 * 1024 * 1024, 'it was never unpacked whole');
  t.match(await who(grpcClient(t, door, agent)), { kind: 'identity' });
});

test('HTTP connections that are not listened for themselves have their timeouts', async (t) => {
  const http = createHttpServer({ headersTimeout: 20, requestTimeout: 20, connectionsCheckingInterval: 10 });
  const door = await openDoor(t, { http });
  const slow = await handshake(t, tlsOptions(door, certified(agent)));
  slow.write('GET / HTTP/1.1\r\n');
  t.match(String(await once(slow, 'data')), '408');
  await closed(slow);
});

test('a port that is taken, an address that is not ours', async (t) => {
  const door = await openDoor(t);
  const failing = async (options: Partial<DoorOptions>) => {
    const second = new Door({
      meshId: mesh.meshId,
      credential: coordinator,
      clock: systemClock,
      log: silentLogger,
      http: createHttpServer(),
      register: () => undefined,
      limits: testDoorLimits(),
      port: 0,
      ...options,
    });
    const error: unknown = await second.start().catch((failure: unknown) => failure);
    await second.stop();
    return error as MeshError;
  };
  const taken = await failing({ port: door.port });
  t.match(taken, { code: 'IN_USE', message: `port ${door.port} is in use by another process`, hint: /--port/ });
  t.match(await failing({ host: '203.0.113.9' }), { code: 'USAGE', message: /203\.0\.113\.9/, hint: /--listen/ });
});

test('garbage, resets and half-open peers end their own connection and nothing else', async (t) => {
  const door = await openDoor(t);
  const plain = netConnect(door.port, '127.0.0.1');
  plain.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n');
  await closed(plain);
  const reset = netConnect(door.port, '127.0.0.1');
  await once(reset, 'connect');
  reset.resetAndDestroy();
  for (const ALPNProtocols of [['h2'], ['http/1.1']]) {
    const socket = await handshake(t, tlsOptions(door, { ALPNProtocols, ...certified(agent) }));
    socket.write(Buffer.alloc(100_000, 0xff));
    await closed(socket);
    const cut = await handshake(t, tlsOptions(door, { ALPNProtocols, ...certified(agent) }));
    cut.destroy();
  }
  t.match(await who(grpcClient(t, door, agent)), { kind: 'identity' });
});

test('the door closes although somebody holds it open', async (t) => {
  const door = await openDoor(t);
  const { ended } = await hold(grpcClient(t, door, agent));
  const idle = netConnect(door.port, '127.0.0.1');
  await until(() => door.connectionCount === 2);
  const gone = closed(idle);
  await door.stop();
  t.equal((await ended).code, 14);
  await gone;
  t.equal(door.connectionCount, 0);
  await door.stop();
});
