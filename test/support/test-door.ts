/** Coordinators for tests of the side that connects: the real door, and impostors that note every byte they get. */
import { once } from 'node:events';
import { createServer as createHttpServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { createServer as createTlsServer, type TlsOptions } from 'node:tls';
import type { Server } from '@grpc/grpc-js';
import type { Test } from 'tap';
import { systemClock } from '../../common/clock.js';
import { silentLogger } from '../../common/log.js';
import { Door } from '../../coordinator/door/door.js';
import type { Credential } from '../../link/credentials.js';
import type { Endpoint } from '../../link/endpoints.js';
import { testDoorLimits } from './limits.js';
import type { TestMesh } from './test-mesh.js';

/** A coordinator of the mesh with the given services. Another credential makes it a crooked one. */
export async function openTestDoor(
  t: Test,
  mesh: TestMesh,
  register: (server: Server, door: () => Door) => void = () => undefined,
  credential: Credential = mesh.credential('coordinator', 'one'),
): Promise<Endpoint> {
  const door: Door = new Door({
    meshId: mesh.meshId,
    credential,
    clock: systemClock,
    log: silentLogger,
    port: 0,
    http: createHttpServer(),
    register: (server) => register(server, () => door),
    limits: testDoorLimits(),
    drainMs: 50,
  });
  await door.start();
  t.teardown(() => door.stop());
  return { host: '127.0.0.1', port: door.port };
}

/** A TLS server of one's own making. Resolves with its endpoint and everything that clients have sent inside TLS. */
export async function openRogue(
  t: Test,
  options: TlsOptions,
): Promise<{ endpoint: Endpoint; heard: Buffer[]; seen: () => number }> {
  const heard: Buffer[] = [];
  let connections = 0;
  const server = createTlsServer({ ALPNProtocols: ['h2'], ...options }, (socket) => {
    socket.on('error', () => undefined);
    socket.on('data', (bytes: Buffer) => heard.push(bytes));
  });
  server.on('tlsClientError', () => undefined);
  server.on('connection', () => connections++);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => server.close());
  const { port } = server.address() as AddressInfo;
  return { endpoint: { host: '127.0.0.1', port }, heard, seen: () => connections };
}

/** A port on which nothing listens. */
export async function closedPort(): Promise<Endpoint> {
  const server = createHttpServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return { host: '127.0.0.1', port };
}
