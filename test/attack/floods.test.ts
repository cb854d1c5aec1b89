/**
 * Peers that take what they can get: messages that grow when they are unpacked, connections that say nothing or very
 * little. A real coordinator, with an agent whose heartbeats must go on being heard.
 */
import { once } from 'node:events';
import { connect as http2Connect } from 'node:http2';
import { type AddressInfo, connect as netConnect } from 'node:net';
import { createServer as createTlsServer } from 'node:tls';
import { gzipSync } from 'node:zlib';
import { Server, ServerCredentials } from '@grpc/grpc-js';
import t, { before, test } from 'tap';
import type { Credential } from '../../link/credentials.js';
import { closed, credentialIn, dial, endures, pour, secure, times } from '../support/attacker.js';
import { eventually } from '../support/eventually.js';
import { END_HEADERS, END_STREAM, FRAME, frame, grpcHead, PREFACE, STREAM_PATH } from '../support/http2-frames.js';
import { type Mesh, startMesh } from '../support/mesh.js';

let mesh: Mesh;
let operator: Credential;

before(async () => {
  mesh = await startMesh(t, { coordinator: ['--handshake-timeout', '3s'], agents: ['a1'] });
  operator = credentialIn(mesh.profile, 'client');
});

const refusals = () => mesh.coordinator.program.events.filter(({ event }) => event === 'door.crowded');

/** A message of gRPC: compressed or not, the length that is said, and what follows. */
function message(compressed: 0 | 1, length: number, body: Uint8Array): Buffer {
  const prefix = Buffer.alloc(5, compressed);
  prefix.writeUInt32BE(length, 1);
  return Buffer.concat([prefix, body]);
}

/** The gRPC status of a unary call made by hand, or that the connection was cut. */
async function call(session: ReturnType<typeof http2Connect>, path: string, bytes: Iterable<Buffer>): Promise<string> {
  const stream = session.request({
    ':method': 'POST',
    ':path': path,
    'content-type': 'application/grpc',
    'grpc-encoding': 'gzip',
    te: 'trailers',
  });
  stream.resume();
  const status = new Promise<string>((resolve) => {
    const heard = (headers: Record<string, unknown>) => {
      const code = headers['grpc-status'];
      if (typeof code === 'string') resolve(code);
    };
    stream.on('response', heard).on('trailers', heard);
    for (const end of ['error', 'close']) stream.on(end, () => setImmediate(() => resolve('cut')));
    session.on('error', () => resolve('cut'));
  });
  let over = false;
  void status.then(() => (over = true));
  for (const piece of bytes) {
    if (over || stream.destroyed) break;
    if (!stream.write(piece)) await Promise.race([once(stream, 'drain').catch(() => undefined), status]);
  }
  stream.end();
  return status;
}

const ZEROS = Buffer.alloc(2 ** 20);
const BOMB_BYTES = 300 * 2 ** 20;

test('A16: a message of 300 MiB, and one that unpacks to as much', async (t) => {
  const bomb = gzipSync(Buffer.alloc(BOMB_BYTES));
  await t.test('the library, left alone, unpacks it whole', async (t) => {
    const server = new Server({ 'grpc.max_receive_message_length': -1 });
    const seen = new Promise<number>((resolve) => {
      const plain = (value: Buffer) => value;
      const echo = { path: '/x.X/Y', requestStream: false, responseStream: false } as const;
      const codec = { requestSerialize: plain, requestDeserialize: plain };
      server.addService(
        { y: { ...echo, ...codec, responseSerialize: plain, responseDeserialize: plain } },
        {
          y: (request: { request: Buffer }, answer: (error: null, value: Buffer) => void) => {
            resolve(request.request.length);
            answer(null, Buffer.alloc(0));
          },
        },
      );
    });
    const port = await new Promise<number>((resolve, reject) => {
      const bound = (error: Error | null, got: number) => (error ? reject(error) : resolve(got));
      server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), bound);
    });
    t.teardown(() => server.forceShutdown());
    const session = http2Connect(`http://127.0.0.1:${port}`);
    t.teardown(() => session.destroy());
    await call(session, '/x.X/Y', [message(1, bomb.length, bomb)]);
    t.equal(await seen, BOMB_BYTES);
  });
  await endures(t, mesh, 150, async () => {
    const attacks: [string, string, () => Iterable<Buffer>][] = [
      ['packed', '/mesh.v1.MeshService/GetJob', () => [message(1, bomb.length, bomb)]],
      ['packed, on a stream', STREAM_PATH, () => [message(1, bomb.length, bomb)]],
      ['plain', STREAM_PATH, () => [message(0, BOMB_BYTES, ZEROS), ...times(300, () => ZEROS)]],
      ['a length that lies', '/mesh.v1.MeshService/GetJob', () => [message(0, 2 ** 32 - 1, ZEROS)]],
    ];
    for (const [what, path, bytes] of attacks) {
      const socket = await secure(t, mesh, '127.0.0.16', { credential: operator, ALPNProtocols: ['h2'] });
      const session = http2Connect('https://coordinator', { createConnection: () => socket });
      session.on('error', () => undefined);
      t.match(await call(session, path, bytes()), /^(?:8|cut)$/, `${what}: refused as too large, or cut`);
      session.destroy();
    }
  });
});

test('A16: bodies over HTTP, packed and plain', async (t) => {
  await endures(t, mesh, 100, async () => {
    for (const encoding of ['gzip', 'identity']) {
      const socket = await secure(t, mesh, '127.0.0.17', { credential: operator, ALPNProtocols: ['http/1.1'] });
      const answer = once(socket, 'data').then(
        ([bytes]) => String(bytes),
        () => 'cut',
      );
      const lines = [
        'POST /metrics HTTP/1.1',
        'Host: x',
        'Content-Type: application/json',
        `Content-Encoding: ${encoding}`,
      ];
      socket.write(`${[...lines, 'Transfer-Encoding: chunked'].join('\r\n')}\r\n\r\n`);
      const chunk = Buffer.concat([Buffer.from('100000\r\n'), ZEROS, Buffer.from('\r\n')]);
      const poured = pour(
        socket,
        times(300, () => chunk),
      );
      t.match(await answer, /^(?:HTTP\/1\.1 4\d\d |cut$)/, `${encoding} is refused`);
      socket.destroy();
      await poured;
    }
  });
});

test('A17: a thousand connections that say nothing', async (t) => {
  const count = 1000;
  await t.test('a plain TLS server keeps them all', async (t) => {
    const server = createTlsServer({});
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const sockets = Array.from({ length: count }, () => netConnect(port, '127.0.0.1').on('error', () => undefined));
    t.teardown(() => {
      for (const socket of sockets) socket.destroy();
      server.close();
    });
    const held = () => new Promise<number>((resolve) => server.getConnections((_, number) => resolve(number)));
    await eventually('all to be held', async () => (await held()) === count);
    t.pass('for two minutes, by default');
  });
  await endures(t, mesh, 100, async () => {
    const sockets = Array.from({ length: count }, () => dial(mesh, '127.0.0.66'));
    let open = count;
    for (const socket of sockets) socket.resume().once('close', () => open--);
    await eventually('all but the share of one address to be closed', () => open <= 64);
    const other = await secure(t, mesh, '127.0.0.67', { credential: operator, ALPNProtocols: ['h2'] });
    t.ok(other.encrypted, 'another address gets in meanwhile');
    await eventually('the rest to be closed at the deadline', () => open === 0);
  });
  const reasons = refusals().filter(({ address }) => address === '127.0.0.66');
  t.match(
    reasons.map(({ reason }) => String(reason)).sort(),
    [/--max-(?:handshakes-per-address|connection)/],
    'said why',
  );
});

test('A17: after the handshake: heads that drip, a preface and nothing else, half-open, a closed window', async (t) => {
  await endures(t, mesh, 100, async () => {
    const drips = await Promise.all(
      Array.from({ length: 20 }, () =>
        secure(t, mesh, '127.0.0.68', { credential: operator, ALPNProtocols: ['http/1.1'] }),
      ),
    );
    for (const socket of drips) socket.resume().write('GET /metrics HTTP/1.1\r\nX: ');
    const dripping = setInterval(() => drips.forEach((socket) => socket.writable && socket.write('x')), 500);
    t.teardown(() => clearInterval(dripping));
    const prefaces = await Promise.all(
      Array.from({ length: 20 }, () => secure(t, mesh, '127.0.0.69', { credential: operator, ALPNProtocols: ['h2'] })),
    );
    for (const socket of prefaces) socket.resume().write(PREFACE);
    const halves = await Promise.all(
      Array.from({ length: 20 }, () => secure(t, mesh, '127.0.0.70', { credential: operator })),
    );
    for (const socket of halves) socket.resume().end();
    // Asks for as much as it may, and gives no window for any answer: what is asked again and again piles up nowhere.
    const window = Buffer.alloc(6);
    window.writeUInt16BE(4, 0);
    const closedWindow = await secure(t, mesh, '127.0.0.71', { credential: operator, ALPNProtocols: ['h2'] });
    closedWindow.write(Buffer.concat([PREFACE, frame(FRAME.settings, 0, 0, window)]));
    const ask = Buffer.concat([grpcHead('/mesh.v1.MeshService/ListNodes')]);
    await pour(
      closedWindow,
      times(128, (i) =>
        Buffer.concat([
          frame(FRAME.headers, END_HEADERS, 2 * i + 1, ask),
          frame(FRAME.data, END_STREAM, 2 * i + 1, message(0, 0, Buffer.alloc(0))),
        ]),
      ),
    );
    await Promise.all([...drips, ...prefaces, ...halves].map(closed));
  });
});
