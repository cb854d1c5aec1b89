import { execFile, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { createServer as createHttpServer } from 'node:http';
import { type ClientHttp2Session, connect as http2Connect } from 'node:http2';
import { request as httpsRequest } from 'node:https';
import { connect as netConnect, createServer as createNetServer, type Socket } from 'node:net';
import { connect as tlsConnect, type ConnectionOptions, type TLSSocket } from 'node:tls';
import { promisify } from 'node:util';
import { Client, type ServiceError } from '@grpc/grpc-js';
import { type Test, test } from 'tap';
import { basicConstraints, extendedKeyUsage, subjectAltName, uriName } from '../../ca/x509/certificate.js';
import { systemClock } from '../../common/clock.js';
import type { MeshError } from '../../common/errors.js';
import { silentLogger } from '../../common/log.js';
import { type Credential, channelCredentials, channelOptions } from '../../link/credentials.js';
import { ManualClock } from '../../test/support/manual-clock.js';
import { makeTestMesh } from '../../test/support/test-mesh.js';
import { Door, type DoorOptions } from './door.js';
import type { Peer } from './peer.js';

const json = {
  serialize: (value: unknown) => Buffer.from(JSON.stringify(value)),
  deserialize: (bytes: Buffer) => JSON.parse(bytes.toString()) as unknown,
};
const method = (path: string, streams: boolean) => ({
  path,
  requestStream: streams,
  responseStream: streams,
  requestSerialize: json.serialize,
  requestDeserialize: json.deserialize,
  responseSerialize: json.serialize,
  responseDeserialize: json.deserialize,
});

const mesh = makeTestMesh();
const other = makeTestMesh('other-mesh');
const coordinator = mesh.credential('coordinator', 'one', { ipAddresses: ['127.0.0.1'] });
const agent = mesh.credential('agent', 'box');

async function openDoor(t: Test, options: Partial<DoorOptions> = {}): Promise<Door> {
  const door: Door = new Door({
    meshId: mesh.meshId,
    credential: coordinator,
    clock: systemClock,
    log: silentLogger,
    port: 0,
    http: createHttpServer((request, response) => response.end(JSON.stringify(door.peerOf(request.socket)))),
    register: (server) => {
      server.addService(
        { who: method('/test.Who/Who', false), hold: method('/test.Who/Hold', true) },
        {
          who: (call: Parameters<Door['peerOf']>[0], answer: (error: null, value: unknown) => void) =>
            answer(null, door.peerOf(call)),
          hold: (call: { write(value: unknown): void; on(event: 'error', listener: () => void): void }) => {
            call.on('error', () => undefined);
            call.write('held');
          },
        },
      );
    },
    ...options,
    limits: { drainMs: 50, ...options.limits },
  });
  await door.start();
  t.teardown(() => door.stop());
  return door;
}

function grpcClient(t: Test, door: Door, trust: { root: string } & Partial<Credential>): Client {
  const client = new Client(`ipv4:127.0.0.1:${door.port}`, channelCredentials(trust, mesh.meshId), channelOptions);
  t.teardown(() => client.close());
  return client;
}

const who = (client: Client, payload: unknown = {}): Promise<Peer> =>
  new Promise((resolve, reject) => {
    client.makeUnaryRequest('/test.Who/Who', json.serialize, json.deserialize, payload, (error, value) =>
      error ? reject(error) : resolve(value as Peer),
    );
  });

/** Opens a stream that stays; resolves when the server has answered on it. */
async function hold(client: Client) {
  const stream = client.makeBidiStreamRequest('/test.Who/Hold', json.serialize, json.deserialize);
  const ended = new Promise<ServiceError>((resolve) => stream.on('error', (error) => resolve(error as ServiceError)));
  await once(stream, 'data');
  return { stream, ended };
}

const tlsOptions = (door: Door, more: ConnectionOptions = {}): ConnectionOptions => ({
  host: '127.0.0.1',
  port: door.port,
  rejectUnauthorized: false,
  servername: 'coordinator',
  ...more,
});

const certified = (credential: Credential): ConnectionOptions => ({
  cert: credential.certificateChain,
  key: credential.privateKey,
});

async function handshake(t: Test, options: ConnectionOptions): Promise<TLSSocket> {
  const socket = tlsConnect(options);
  t.teardown(() => socket.destroy());
  await once(socket, 'secureConnect');
  socket.on('error', () => undefined);
  return socket;
}

const closed = (socket: Socket): Promise<unknown> =>
  new Promise((resolve) => {
    socket.on('error', () => undefined);
    socket.resume();
    socket.once('close', resolve);
  });

const fetchPeer = (door: Door, more: ConnectionOptions = {}): Promise<Peer> =>
  new Promise((resolve, reject) => {
    const request = httpsRequest({ ...tlsOptions(door, more), path: '/', agent: false }, (response) => {
      let body = '';
      response.on('data', (chunk) => {
        body += String(chunk);
      });
      response.on('end', () => resolve(JSON.parse(body) as Peer));
    });
    request.on('error', reject);
    request.end();
  });

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setImmediate(resolve));
}

test('gRPC and HTTPS on one port, each with the peer that its certificate makes it', async (t) => {
  const door = await openDoor(t);
  const identity = { meshId: mesh.meshId, role: 'agent', name: 'box' };
  t.match(await who(grpcClient(t, door, agent)), { kind: 'identity', identity });
  t.same(await who(grpcClient(t, door, { root: agent.root })), { kind: 'nobody' });
  t.match(await fetchPeer(door, certified(agent)), { kind: 'identity', identity });
  t.same(await fetchPeer(door), { kind: 'nobody' });
  const bare = await handshake(t, tlsOptions(door));
  bare.write('GET / HTTP/1.0\r\n\r\n');
  t.match(String(await once(bare, 'data')), '200 OK', 'without ALPN it is HTTP');
  const strange = tlsConnect(tlsOptions(door, { ALPNProtocols: ['smtp'] }));
  t.match(await once(strange, 'error'), [{ code: /ALERT|ECONNRESET/ }], 'an unknown protocol is refused');
});

const noCurl = spawnSync('curl', ['--version']).error ? 'curl is not installed' : false;

test('curl, which offers both protocols, gets HTTPS', { skip: noCurl }, async (t) => {
  const door = await openDoor(t);
  const folder = t.testdir({ crt: agent.certificateChain, key: agent.privateKey, ca: agent.root });
  const args = ['-sS', '--noproxy', '*', '--cacert', 'ca', '--cert', 'crt', '--key', 'key'];
  const outcome = await promisify(execFile)('curl', [...args, `https://127.0.0.1:${door.port}/`], { cwd: folder });
  t.match(outcome.stdout, /"name":"box"/, 'the chain and the address satisfy curl too');
});

test('a certificate that will not do makes nobody, with the reason', async (t) => {
  const door = await openDoor(t, {
    refuse: (identity) => (identity.name === 'revoked' ? 'the certificate is revoked' : undefined),
  });
  const nowMs = Date.now();
  const crooked: [string, Credential, RegExp][] = [
    ['another mesh', other.credential('agent', 'box'), /belongs to the mesh other-mesh/],
    [
      'CA:TRUE',
      mesh.forge('agent', 'box', (usual) => ({
        extensions: [basicConstraints(true), ...usual.extensions.slice(1)],
      })),
      /CA bit is true/,
    ],
    [
      'no extended key usage',
      mesh.forge('agent', 'box', ({ extensions }) => ({ extensions: extensions.filter((_, index) => index !== 2) })),
      /extended key usage is nothing/,
    ],
    [
      'a server only',
      mesh.forge('agent', 'box', ({ extensions }) => ({
        extensions: extensions.map((entry, index) => (index === 2 ? extendedKeyUsage(['1.3.6.1.5.5.7.3.1']) : entry)),
      })),
      /extended key usage is serverAuth/,
    ],
    [
      'two identities',
      mesh.forge('agent', 'box', ({ extensions }) => ({
        extensions: [
          ...extensions.slice(0, 3),
          subjectAltName([uriName('spiffe://test-mesh/agent/box'), uriName('spiffe://test-mesh/operator/me')]),
        ],
      })),
      /2 URI/,
    ],
    [
      'expired',
      mesh.forge('agent', 'box', () => ({ notBeforeMs: nowMs - 7200_000, notAfterMs: nowMs - 3600_000 })),
      /has expired: it is valid from .+ to .+, and here it is/,
    ],
    [
      'not valid yet',
      mesh.forge('agent', 'box', () => ({ notBeforeMs: nowMs + 3600_000, notAfterMs: nowMs + 7200_000 })),
      /is not valid yet/,
    ],
    ['refused by the caller', mesh.credential('agent', 'revoked'), /is revoked/],
  ];
  // Same names, same mesh id, another root: only the chain tells.
  const impostor = { ...makeTestMesh(mesh.meshId).credential('operator', 'me'), root: agent.root };
  crooked.push(['an impostor of the mesh', impostor, /was not issued by this mesh/]);
  for (const [what, credential, reason] of crooked) {
    const trust = { ...credential, root: agent.root };
    t.match(await who(grpcClient(t, door, trust)), { kind: 'refused', reason }, `${what}, over gRPC`);
    t.match(await fetchPeer(door, certified(credential)), { kind: 'refused', reason }, `${what}, over HTTPS`);
  }
});

test('older TLS is refused', async (t) => {
  const door = await openDoor(t);
  for (const maxVersion of ['TLSv1.2', 'TLSv1.1'] as const) {
    const socket = tlsConnect(tlsOptions(door, { maxVersion, minVersion: 'TLSv1', ...certified(agent) }));
    const [error] = (await once(socket, 'error')) as [NodeJS.ErrnoException];
    t.match(error.code, /^(?:ERR_SSL_|ECONNRESET|EPROTO)/, maxVersion);
  }
  t.match(await who(grpcClient(t, door, agent)), { kind: 'identity' }, 'and 1.3 still works');
});

/** One unary gRPC call over a connection whose local port we choose, which grpc-js does not let us. */
async function whoFromPort(t: Test, door: Door, host: string, localPort: number, credential: Credential) {
  const raw = netConnect({ host, port: door.port, localPort, localAddress: '127.0.0.1' });
  await once(raw, 'connect');
  const socket = await handshake(t, {
    socket: raw,
    rejectUnauthorized: false,
    ALPNProtocols: ['h2'],
    ...certified(credential),
  });
  const session: ClientHttp2Session = http2Connect('https://coordinator', { createConnection: () => socket });
  t.teardown(() => session.destroy());
  return async (): Promise<Peer> => {
    const stream = session.request({
      ':method': 'POST',
      ':path': '/test.Who/Who',
      'content-type': 'application/grpc',
      te: 'trailers',
    });
    stream.end(Buffer.from([0, 0, 0, 0, 2, 0x7b, 0x7d]));
    const chunks: Buffer[] = [];
    for await (const chunk of stream) chunks.push(chunk as Buffer);
    return json.deserialize(Buffer.concat(chunks).subarray(5)) as Peer;
  };
}

test('two connections from one address and port are two peers', async (t) => {
  const door = await openDoor(t);
  const spare = createNetServer().listen(0, '127.0.0.1');
  await once(spare, 'listening');
  const { port } = spare.address() as { port: number };
  await new Promise((resolve) => spare.close(resolve));
  const operator = mesh.credential('operator', 'me');
  const first = await whoFromPort(t, door, '127.0.0.1', port, agent);
  const second = await whoFromPort(t, door, '127.0.0.2', port, operator);
  const third = await whoFromPort(t, door, '127.0.0.3', port, other.credential('agent', 'x'));
  t.match(await first(), { kind: 'identity', identity: { role: 'agent', name: 'box' } });
  t.match(await second(), { kind: 'identity', identity: { role: 'operator', name: 'me' } });
  t.match(await third(), { kind: 'refused' });
  t.match(await first(), { kind: 'identity', identity: { role: 'agent', name: 'box' } }, 'and stays so');
});

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

test('the certificate is swapped while connections live', async (t) => {
  const door = await openDoor(t);
  const early = grpcClient(t, door, agent);
  t.match(await who(early), { kind: 'identity' });
  const next = mesh.credential('coordinator', 'one');
  const before = (await handshake(t, tlsOptions(door))).getPeerCertificate().serialNumber;
  door.swapCertificate(next);
  const socket = await handshake(t, tlsOptions(door));
  t.not(socket.getPeerCertificate().serialNumber, before, 'new connections see the new one');
  t.equal(
    socket.getPeerCertificate(true).issuerCertificate.issuerCertificate.fingerprint256,
    mesh.authority.root.fingerprint256,
  );
  t.match(await who(early), { kind: 'identity' }, 'old connections go on');
  t.match(await who(grpcClient(t, door, agent)), { kind: 'identity' }, 'and client certificates are still asked for');
  const old = tlsConnect(tlsOptions(door, { maxVersion: 'TLSv1.2' }));
  t.ok((await once(old, 'error'))[0], 'and TLS 1.2 is still refused');
});

test('the live connections of an identity are cut on demand', async (t) => {
  const door = await openDoor(t);
  const operator = mesh.credential('operator', 'me');
  const cut = await hold(grpcClient(t, door, agent));
  const kept = await hold(grpcClient(t, door, operator));
  t.equal(
    door.destroyWhere((identity) => identity.name === 'box'),
    1,
  );
  t.equal((await cut.ended).code, 14, 'the stream ends as unavailable');
  t.notOk(kept.stream.destroyed);
  await until(() => door.connectionCount === 1);
  kept.stream.cancel();
  t.equal((await kept.ended).code, 1);
});

test('no session is resumed', async (t) => {
  const door = await openDoor(t);
  const first = tlsConnect(tlsOptions(door, certified(agent)));
  let session: Buffer | undefined;
  first.on('session', (ticket: Buffer) => {
    session = ticket;
  });
  await once(first, 'secureConnect');
  first.write('GET / HTTP/1.0\r\n\r\n');
  await closed(first);
  const second = await handshake(t, tlsOptions(door, { ...certified(agent), ...(session ? { session } : {}) }));
  t.notOk(second.isSessionReused());
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
