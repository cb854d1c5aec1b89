import { execFile, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { type ClientHttp2Session, connect as http2Connect } from 'node:http2';
import { connect as netConnect, createServer as createNetServer } from 'node:net';
import { connect as tlsConnect } from 'node:tls';
import { promisify } from 'node:util';
import { type Test, test } from 'tap';
import { basicConstraints } from '../../ca/x509/certificate.js';
import type { Credential } from '../../link/credentials.js';
import { makeTestMesh } from '../../test/support/test-mesh.js';
import {
  agent,
  certified,
  closed,
  fetchPeer,
  grpcClient,
  handshake,
  hold,
  json,
  mesh,
  openDoor,
  tlsOptions,
  until,
  who,
} from '../../test/support/who-door.js';
import type { Door } from './door.js';
import type { Peer } from './peer.js';

const other = makeTestMesh('other-mesh');

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
  const crooked: [string, Credential, RegExp][] = [
    ['another mesh', other.credential('agent', 'box'), /belongs to the mesh other-mesh/],
    [
      'CA:TRUE',
      mesh.forge('agent', 'box', (usual) => ({
        extensions: [basicConstraints(true), ...usual.extensions.slice(1)],
      })),
      /CA bit is true/,
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
