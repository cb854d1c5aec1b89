/** A door whose services, over gRPC and HTTPS alike, answer with who they take the caller for. */
import { once } from 'node:events';
import { createServer as createHttpServer } from 'node:http';
import { request as httpsRequest } from 'node:https';
import type { Socket } from 'node:net';
import { connect as tlsConnect, type ConnectionOptions, type TLSSocket } from 'node:tls';
import { Client, type ServiceError } from '@grpc/grpc-js';
import type { Test } from 'tap';
import { systemClock } from '../../common/clock.js';
import { silentLogger } from '../../common/log.js';
import { Door, type DoorOptions } from '../../coordinator/door/door.js';
import type { DoorLimits } from '../../coordinator/door/limits.js';
import type { Peer } from '../../coordinator/door/peer.js';
import { type Credential, channelCredentials, channelOptions } from '../../link/credentials.js';
import { testDoorLimits } from './limits.js';
import { makeTestMesh } from './test-mesh.js';

export const json = {
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

export const mesh = makeTestMesh();
export const coordinator = mesh.credential('coordinator', 'one', { ipAddresses: ['127.0.0.1'] });
export const agent = mesh.credential('agent', 'box');

type Options = Partial<Omit<DoorOptions, 'limits'>> & { limits?: Partial<DoorLimits> };

export async function openDoor(t: Test, options: Options = {}): Promise<Door> {
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
    limits: testDoorLimits(options.limits),
    drainMs: 50,
  });
  await door.start();
  t.teardown(() => door.stop());
  return door;
}

export function grpcClient(t: Test, door: Door, trust: { root: string } & Partial<Credential>): Client {
  const client = new Client(`ipv4:127.0.0.1:${door.port}`, channelCredentials(trust, mesh.meshId), channelOptions);
  t.teardown(() => client.close());
  return client;
}

export const who = (client: Client, payload: unknown = {}): Promise<Peer> =>
  new Promise((resolve, reject) => {
    client.makeUnaryRequest('/test.Who/Who', json.serialize, json.deserialize, payload, (error, value) =>
      error ? reject(error) : resolve(value as Peer),
    );
  });

/** Opens a stream that stays; resolves when the server has answered on it. */
export async function hold(client: Client) {
  const stream = client.makeBidiStreamRequest('/test.Who/Hold', json.serialize, json.deserialize);
  const ended = new Promise<ServiceError>((resolve) => stream.on('error', (error) => resolve(error as ServiceError)));
  await once(stream, 'data');
  return { stream, ended };
}

export const tlsOptions = (door: Door, more: ConnectionOptions = {}): ConnectionOptions => ({
  host: '127.0.0.1',
  port: door.port,
  rejectUnauthorized: false,
  servername: 'coordinator',
  ...more,
});

export const certified = (credential: Credential): ConnectionOptions => ({
  cert: credential.certificateChain,
  key: credential.privateKey,
});

export async function handshake(t: Test, options: ConnectionOptions): Promise<TLSSocket> {
  const socket = tlsConnect(options);
  t.teardown(() => socket.destroy());
  await once(socket, 'secureConnect');
  socket.on('error', () => undefined);
  return socket;
}

export const closed = (socket: Socket): Promise<unknown> =>
  new Promise((resolve) => {
    socket.on('error', () => undefined);
    socket.resume();
    socket.once('close', resolve);
  });

export const fetchPeer = (door: Door, more: ConnectionOptions = {}): Promise<Peer> =>
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

export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setImmediate(resolve));
}
