import type { ServerDuplexStream } from '@grpc/grpc-js';
import { test, type Test } from 'tap';
import { systemClock } from '../../common/clock.js';
import { MeshError } from '../../common/errors.js';
import { toStatus } from '../../common/grpc-errors.js';
import { PROTOCOL } from '../../common/package.js';
import { silentLogger } from '../../common/log.js';
import type { Credential } from '../../link/credentials.js';
import type { Endpoint } from '../../link/endpoints.js';
import {
  AgentServiceService,
  type AgentHello,
  type SessionRequest,
  type SessionResponse,
} from '../../proto/gen/mesh/v1/agent.js';
import { Capabilities } from '../../proto/gen/mesh/v1/common.js';
import { assignOf, endOf, makeWork, processBody, refsOf } from '../../test/support/agent-work.js';
import { closedPort, openTestDoor } from '../../test/support/test-door.js';
import { makeTestMesh } from '../../test/support/test-mesh.js';
import type { Door } from '../../coordinator/door/door.js';
import { emptyRefs } from '../core/refs.js';
import { Connection } from './connection.js';
import { LoadMeter } from './load.js';
import { NetworkDialer } from './network-dialer.js';

const mesh = makeTestMesh();

/** A coordinator's side of sessions, over a real door with mutual TLS. */
class Sessions {
  readonly hellos: AgentHello[] = [];
  readonly serials: string[] = [];
  readonly kinds: string[] = [];
  readonly results: string[] = [];
  readonly ends: string[] = [];
  refusal: MeshError | undefined;
  epoch = 3;
  #stream: ServerDuplexStream<SessionRequest, SessionResponse> | undefined;
  #changed: () => void = () => undefined;
  /** Sent together with the welcome, in one write to the socket. */
  withWelcome: NonNullable<SessionResponse['body']>[] = [];

  session = (stream: ServerDuplexStream<SessionRequest, SessionResponse>, door: Door): void => {
    if (this.refusal) {
      stream.emit('error', toStatus(this.refusal));
      return;
    }
    this.#stream = stream;
    const peer = door.peerOf(stream);
    if (peer.kind === 'identity') this.serials.push(peer.identity.serial);
    stream.on('error', () => undefined);
    stream.on('data', ({ body }: SessionRequest) => {
      this.kinds.push(body?.$case ?? '');
      if (body?.$case === 'hello') this.#welcome(body.value);
      if (body?.$case === 'finished') this.results.push(...body.value.items.map(({ job, index }) => `${job}.${index}`));
      this.#changed();
    });
    stream.on('end', () => {
      this.ends.push('end');
      stream.end();
      this.#changed();
    });
    stream.on('cancelled', () => {
      this.ends.push('cancelled');
      this.#changed();
    });
  };

  #welcome(hello: AgentHello): void {
    this.hellos.push(hello);
    this.say(
      {
        $case: 'welcome',
        value: {
          ...{ protocol: 1, epoch: this.epoch, nodeId: 'id', name: 'attic', leaseMs: 15_000, heartbeatMs: 2000 },
          ...{ superseded: emptyRefs(), coordinators: ['192.0.2.9:7443'], draining: false, readopted: undefined },
        },
      },
      ...this.withWelcome,
    );
  }

  say(...bodies: NonNullable<SessionResponse['body']>[]): void {
    for (const body of bodies) this.#stream?.write({ body });
  }

  hangUp(): void {
    this.#stream?.end();
  }

  async until(predicate: () => boolean): Promise<void> {
    while (!predicate()) await new Promise<void>((resolve) => (this.#changed = resolve));
  }
}

async function start(
  t: Test,
  sessions: Sessions,
  over: { coordinator?: Endpoint; remembered?: string[]; credential?: () => Credential } = {},
) {
  const endpoint = await openTestDoor(t, mesh, (server, door) => {
    const unused = () => undefined;
    server.addService(AgentServiceService, {
      session: (stream: ServerDuplexStream<SessionRequest, SessionResponse>) => sessions.session(stream, door()),
      ...{ streamLogs: unused, fetchBlob: unused },
    });
  });
  const parts = makeWork(t, 1);
  const credential = mesh.credential('agent', 'attic');
  const remembered: string[][] = [];
  let registered = 0;
  let fatal: (error: MeshError) => void = () => undefined;
  const failed = new Promise<MeshError>((resolve) => (fatal = resolve));
  const connection = new Connection({
    ...{ capabilities: Capabilities.fromPartial({ cpus: 1 }), bootId: 'boot', load: new LoadMeter() },
    dialer: new NetworkDialer({
      ...{ meshId: mesh.meshId, discover: false, clock: systemClock, log: silentLogger },
      credential: over.credential ?? (() => credential),
      recover: async () => undefined,
    }),
    ...{ lease: parts.lease, time: parts.time, fence: parts.fence },
    coordinator: over.remembered ? undefined : (over.coordinator ?? endpoint),
    remembered: over.remembered?.map((address) => address.replace('DOOR', String(endpoint.port))) ?? [],
    remember: (addresses) => remembered.push(addresses),
    ...{ work: parts.work, clock: systemClock, log: silentLogger, random: () => 0 },
    onRegistered: () => registered++,
    onFatal: fatal,
  });
  connection.attach(parts.logs);
  await connection.start();
  t.teardown(() => connection.stop());
  return { ...parts, connection, endpoint, remembered, failed, registered: () => registered };
}

test('hello, welcome, heartbeat; the addresses are remembered, the right one first', async (t) => {
  const sessions = new Sessions();
  const dead = await closedPort();
  const { remembered, endpoint, connection, registered } = await start(t, sessions, {
    remembered: [`127.0.0.1:${dead.port}`, '127.0.0.1:DOOR'],
  });
  await sessions.until(() => sessions.kinds.includes('heartbeat'));
  t.same(sessions.kinds.slice(0, 2), ['hello', 'heartbeat']);
  t.match(sessions.hellos, [{ bootId: 'boot', epoch: 0, protocol: PROTOCOL }]);
  t.same(remembered, [[`127.0.0.1:${endpoint.port}`, '192.0.2.9:7443', `127.0.0.1:${dead.port}`]]);
  t.equal(registered(), 1);
  t.ok(connection.bulk());
  await connection.stop();
  t.equal(sessions.ends[0], 'end', 'a goodbye, not a broken stream');
  t.equal(connection.bulk(), undefined);
  t.throws(() => connection.authority(), { code: 'UNREACHABLE' });
});

test('a session that ends is opened again; what runs and what is not acknowledged is in the hello, results come again', async (t) => {
  const sessions = new Sessions();
  const { executor, registered } = await start(t, sessions);
  await sessions.until(() => sessions.kinds.includes('heartbeat'));
  sessions.say({ $case: 'assign', value: assignOf(7, [0, 1], [processBody(7)], 1, 3) });
  while (executor.launches.length < 1) await new Promise((resolve) => setImmediate(resolve));
  executor.launch(0).observer.started(0, 0);
  executor.launch(0).observer.ended(0, endOf());
  await sessions.until(() => sessions.results.length === 1);
  sessions.hangUp();
  await sessions.until(() => sessions.hellos.length === 2);
  t.match(sessions.hellos[1], { epoch: 3, unacknowledged: { indexes: [0] }, running: { indexes: [1] } });
  await sessions.until(() => sessions.results.length === 2);
  t.same(sessions.results, ['7.0', '7.0'], 'again, until it is acknowledged');
  sessions.say({ $case: 'finishedAck', value: refsOf([7, 0, 1]) });
  sessions.say({
    $case: 'heartbeatReply',
    value: { sequence: 1, pingUs: 1, epoch: 3, draining: false, coordinators: [], renew: 0 },
  });
  sessions.hangUp();
  await sessions.until(() => sessions.hellos.length === 3);
  t.match(sessions.hellos[2], { unacknowledged: { indexes: [] }, running: { indexes: [1] } });
  while (registered() < 3) await new Promise((resolve) => setImmediate(resolve));
});

test('work that comes in one breath with the welcome is taken like any other', async (t) => {
  const sessions = new Sessions();
  sessions.withWelcome = [{ $case: 'assign', value: assignOf(7, [0], [processBody(7)], 1, 3) }];
  const { executor } = await start(t, sessions);
  await sessions.until(() => sessions.kinds.includes('heartbeat'));
  while (executor.launches.length < 1) await new Promise((resolve) => setImmediate(resolve));
  executor.launch(0).observer.ended(0, endOf());
  await sessions.until(() => sessions.results.length === 1);
  sessions.say({ $case: 'finishedAck', value: refsOf([7, 0, 1]) });
  // The coordinator knows that the body was sent in this session.
  sessions.say({ $case: 'assign', value: assignOf(7, [1], [], 1, 3) });
  while (executor.launches.length < 2) await new Promise((resolve) => setImmediate(resolve));
  t.same(executor.launch(1).refs, ['7.1.1']);
});

test('a renewed certificate opens a new session with it', async (t) => {
  const sessions = new Sessions();
  let credential = mesh.credential('agent', 'attic');
  const { connection } = await start(t, sessions, { credential: () => credential });
  await sessions.until(() => sessions.kinds.includes('heartbeat'));
  credential = mesh.credential('agent', 'attic');
  connection.renewed();
  await sessions.until(() => sessions.hellos.length === 2);
  t.equal(new Set(sessions.serials).size, 2);
});

test('a refusal that no retry can mend ends the agent; one that may pass does not', async (t) => {
  const revoked = new Sessions();
  revoked.refusal = new MeshError('REVOKED', 'the certificate is revoked');
  const first = await start(t, revoked);
  t.match(await first.failed, { code: 'REVOKED' });
  const passing = new Sessions();
  passing.refusal = new MeshError('NOT_READY', 'this coordinator does not lead yet');
  const second = await start(t, passing, { remembered: ['127.0.0.1:DOOR'] });
  let failed = false;
  void second.failed.then(() => (failed = true));
  for (let turns = 0; turns < 50; turns++) await new Promise((resolve) => setImmediate(resolve));
  passing.refusal = undefined;
  await passing.until(() => passing.hellos.length === 1);
  t.notOk(failed);
});

test('stopped while nobody answers, it stops', async (t) => {
  const { connection } = await start(t, new Sessions(), { coordinator: await closedPort() });
  await connection.stop();
  t.equal(connection.bulk(), undefined);
});
