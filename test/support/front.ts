/** The whole surface of a coordinator over a real door, and the words a session is spoken in. */
import { once } from 'node:events';
import { Client, type ClientDuplexStream } from '@grpc/grpc-js';
import { type Test } from 'tap';
import { MeshError } from '../../common/errors.js';
import { fromServiceError } from '../../common/grpc-errors.js';
import { silentLogger } from '../../common/log.js';
import { systemClock } from '../../common/clock.js';
import { type Credential, channelCredentials, channelOptions } from '../../link/credentials.js';
import { AgentServiceClient, type SessionRequest, SessionResponse } from '../../proto/gen/mesh/v1/agent.js';
import { Capabilities } from '../../proto/gen/mesh/v1/common.js';
import { MeshServiceService } from '../../proto/gen/mesh/v1/mesh.js';
import { type Api, makeApi } from '../../sdk/api.js';
import { testDoorLimits, testLimits, testThrottle } from './limits.js';
import { startPlane, type TestPlane } from './plane.js';
import { Door } from '../../coordinator/door/door.js';
import { makeHttp } from '../../coordinator/http/server.js';
import type { CoordinatorConfig } from '../../coordinator/coordinator.js';
import type { Store } from '../../coordinator/ports.js';
import { registerServices } from '../../coordinator/rpc/register.js';

export interface Front extends TestPlane {
  port: number;
  door: Door;
  agent(credential: Credential): AgentServiceClient;
  api(role: 'operator' | 'submitter' | 'viewer', name?: string): Api<typeof MeshServiceService>;
}

/** The CA of a test mesh is not the coordinator's. */
const noRotation = { status: refuseRotation, begin: refuseRotation, finish: refuseRotation, wants: () => 0 };

function refuseRotation(): never {
  throw new MeshError('CONFLICT', 'the root of a test mesh stays');
}

/** The whole surface of a coordinator: its control plane behind a real door. */
export async function openFront(
  t: Test,
  store?: Store,
  notReady?: () => string | undefined,
  config: Partial<CoordinatorConfig> = {},
): Promise<Front> {
  const parts = await startPlane(t, { ...(store ? { store } : {}), config });
  const { plane, mesh } = parts;
  const limits = testLimits();
  const throttle = testThrottle();
  const http = await makeHttp({
    peerOf: (socket) => door.peerOf(socket),
    ...{ denylist: plane.denylist, audit: plane.audit, throttle, metrics: plane.metrics, log: silentLogger },
    crl: () => plane.revocationList.current(),
    notReady: async () => notReady?.() ?? plane.notReady(),
  });
  const door: Door = new Door({
    ...{ meshId: mesh.meshId, credential: mesh.credential('coordinator', 'one'), clock: systemClock },
    ...{ log: silentLogger, port: 0, http: http.server, limits: testDoorLimits(), drainMs: 50 },
    register: (server) =>
      registerServices(server, plane, {
        ...{ meshId: mesh.meshId, throttle, limits, clock: systemClock, log: silentLogger },
        peerOf: (call) => door.peerOf(call),
        rotation: noRotation,
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

export const hello = (bootId = 'boot'): SessionRequest => ({
  body: {
    $case: 'hello',
    value: {
      ...{ protocol: { min: 1, max: 1 }, bootId, version: '0.1.0', epoch: 0, runningAgeMs: [] },
      capabilities: Capabilities.fromPartial({ cpus: 2, slots: 2, memoryBytes: 2 ** 30, executors: ['process'] }),
      ...{ prefilled: undefined, running: undefined, unacknowledged: undefined },
    },
  },
});

export const heartbeat = (over: object = {}): SessionRequest => ({
  body: {
    $case: 'heartbeat',
    value: {
      ...{ sequence: 1, load: 0, running: 0, queued: 0, memoryFreeBytes: 0, echoUs: 0, echoHeldUs: 0, stopping: false },
      ...over,
    },
  },
});

export type Session = ClientDuplexStream<SessionRequest, SessionResponse>;

/** The next message of this kind. */
export async function next<K extends string>(stream: Session, kind: K) {
  for (;;) {
    const [{ body }] = (await once(stream, 'data')) as [SessionResponse];
    if (body?.$case === kind) return body.value as Extract<NonNullable<typeof body>, { $case: K }>['value'];
  }
}

export const failure = (stream: Session): Promise<MeshError> =>
  new Promise((resolve) => stream.on('error', (error) => resolve(fromServiceError(error))));

export const until = async (predicate: () => unknown): Promise<void> => {
  while (!predicate()) await new Promise((resolve) => setImmediate(resolve));
};
