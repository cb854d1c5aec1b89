/**
 * Peers that take what HTTP/2 gives them: more streams than anybody needs, frames that cost the sender nothing. A real
 * coordinator, with an agent whose heartbeats must go on being heard.
 */
import { once } from 'node:events';
import { createServer as createHttp2Server } from 'node:http2';
import { type AddressInfo, connect as netConnect } from 'node:net';
import t, { before, test } from 'tap';
import type { Credential } from '../../link/credentials.js';
import { closed, credentialIn, endures, pour, secure, times } from '../support/attacker.js';
import { eventually } from '../support/eventually.js';
import { END_HEADERS, FRAME, frame, framesIn, grpcHead, head, PREFACE, STREAM_PATH } from '../support/http2-frames.js';
import { type Mesh, startMesh } from '../support/mesh.js';

let mesh: Mesh;
let operator: Credential;

before(async () => {
  mesh = await startMesh(t, { coordinator: ['--handshake-timeout', '3s'], agents: ['a1'] });
  operator = credentialIn(mesh.profile, 'client');
});

const OPEN = Buffer.concat([PREFACE, frame(FRAME.settings, 0, 0)]);

test('A18: 20,000 streams on one connection', async (t) => {
  const count = 20_000;
  const opening = (i: number) => frame(FRAME.headers, END_HEADERS, 2 * i + 1, grpcHead(STREAM_PATH));
  await t.test('a plain HTTP/2 server, with the memory that grpc-js gives it, opens them all', async (t) => {
    const server = createHttp2Server({ maxSessionMemory: Number.MAX_SAFE_INTEGER });
    let opened = 0;
    server.on('stream', (stream) => stream.on('error', () => undefined) && opened++);
    server.on('sessionError', () => undefined).on('session', (session) => session.on('error', () => undefined));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const socket = netConnect((server.address() as AddressInfo).port, '127.0.0.1').on('error', () => undefined);
    t.teardown(() => {
      socket.destroy();
      server.close();
    });
    socket.resume().write(OPEN);
    await pour(socket, times(count, opening));
    await eventually('all to be opened', () => opened === count);
    t.pass('each with a handler of its own');
  });
  await endures(t, mesh, 150, async () => {
    const socket = await secure(t, mesh, '127.0.0.18', { credential: operator, ALPNProtocols: ['h2'] });
    const heard: Buffer[] = [];
    socket.on('data', (bytes: Buffer) => heard.push(bytes));
    socket.write(OPEN);
    const written = await pour(socket, times(count, opening));
    await closed(socket);
    const refused = framesIn(Buffer.concat(heard)).filter(({ type }) => type === FRAME.reset);
    t.comment(`${written} asked for, ${refused.length} refused before the connection was cut`);
    t.ok(refused.length > 0, 'those beyond the limit are refused, and the one that goes on is cut off');
  });
});

test('A18: frames that cost nothing: streams taken back at once, pings, settings, heads without end, huge heads', async (t) => {
  const floods: [string, (i: number) => Buffer, number, boolean][] = [
    [
      'rapid reset (CVE-2023-44487)',
      (i) =>
        Buffer.concat([
          frame(FRAME.headers, END_HEADERS, 2 * i + 1, grpcHead(STREAM_PATH)),
          frame(FRAME.reset, 0, 2 * i + 1, Buffer.from([0, 0, 0, 8])),
        ]),
      50_000,
      true,
    ],
    ['pings whose answers nobody reads', () => frame(FRAME.ping, 0, 0, Buffer.alloc(8)), 400_000, false],
    ['settings whose answers nobody reads', () => frame(FRAME.settings, 0, 0), 400_000, false],
    [
      'a head without end (CVE-2024-27316)',
      (i) => frame(i === 0 ? FRAME.headers : FRAME.continuation, 0, 1, head([[`x-${i}`, 'y'.repeat(8000)]])),
      10_000,
      true,
    ],
    [
      'a head of 4 MB',
      (i) =>
        frame(
          i === 0 ? FRAME.headers : FRAME.continuation,
          i === 499 ? END_HEADERS : 0,
          1,
          head([[`x-${i}`, 'y'.repeat(8000)]]),
        ),
      500,
      true,
    ],
  ];
  for (const [what, piece, count, reads] of floods) {
    await endures(t, mesh, 100, async () => {
      const socket = await secure(t, mesh, '127.0.0.19', { credential: operator, ALPNProtocols: ['h2'] });
      if (reads) socket.resume();
      socket.write(OPEN);
      const poured = pour(socket, times(count, piece));
      // One that is not read may be stopped by the window of TCP instead: then nothing of it costs anything any more.
      const stuck = reads
        ? new Promise<never>(() => undefined)
        : eventually('the flood to stand still', () => socket.writableNeedDrain);
      const end = await Promise.race([
        closed(socket).then(() => 'cut off'),
        poured.then(() => 'poured'),
        stuck.then(() => 'stopped'),
      ]);
      if (end === 'poured' && reads) await closed(socket);
      t.pass(`${what}: ${end}`);
      socket.destroy();
      await poured;
    });
  }
});
