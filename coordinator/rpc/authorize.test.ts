import { test, type Test } from 'tap';
import { Client, credentials, type Metadata, Server, type ServiceError } from '@grpc/grpc-js';
import { MeshError } from '../../common/errors.js';
import { fromServiceError } from '../../common/grpc-errors.js';
import { type Identity, ROLES, type Role } from '../../common/identity/identity.js';
import { silentLogger } from '../../common/log.js';
import { AgentServiceService } from '../../proto/gen/mesh/v1/agent.js';
import { AuditServiceService } from '../../proto/gen/mesh/v1/audit.js';
import { CaServiceService } from '../../proto/gen/mesh/v1/ca.js';
import { DoctorServiceService } from '../../proto/gen/mesh/v1/doctor.js';
import { EnrollServiceService } from '../../proto/gen/mesh/v1/enroll.js';
import { MeshServiceService } from '../../proto/gen/mesh/v1/mesh.js';
import { NamespaceServiceService } from '../../proto/gen/mesh/v1/namespace.js';
import { NodeServiceService } from '../../proto/gen/mesh/v1/node.js';
import { testThrottle } from '../../test/support/limits.js';
import { RotationServiceService } from '../../proto/gen/mesh/v1/rotation.js';
import { SecretServiceService } from '../../proto/gen/mesh/v1/secret.js';
import { identityOf } from '../../test/support/plane.js';
import type { CallLike } from '../door/door.js';
import type { Peer } from '../door/peer.js';
import type { Actor } from '../services/audit.js';
import type { Denylist } from '../services/denylist.js';
import { assertCovered, Gate } from './authorize.js';
import { type Caller, METHOD_ROLES } from './roles.js';
import { serveHere } from '../../test/support/serve-here.js';

const DEFINITIONS = [
  AgentServiceService,
  CaServiceService,
  DoctorServiceService,
  EnrollServiceService,
  MeshServiceService,
  NamespaceServiceService,
  NodeServiceService,
  AuditServiceService,
  RotationServiceService,
  SecretServiceService,
];
const ALL_METHODS = DEFINITIONS.flatMap((definition) => Object.values(definition).map(({ path }) => path));

/** Who may call what, as the design says it; the code's own table is what is tested. */
const ALLOWED: Record<string, readonly Caller[]> = {
  'EnrollService/Join': ['nobody'],
  // Nothing else is open to who comes with an expired certificate.
  'EnrollService/Recover': ['expired'],
  'AgentService/Session': ['agent'],
  'AgentService/StreamLogs': ['agent'],
  'AgentService/FetchBlob': ['agent'],
  'CaService/Renew': ROLES,
  'CaService/GetCrl': ROLES,
  'CaService/RenewIssuer': ['coordinator'],
  ...each(['CaService/Issue', 'CaService/Revoke', 'CaService/ListCertificates'], ['operator']),
  ...each(['SubmitJob', 'SubmitJobs', 'MissingBlobs', 'PutBlob', 'CancelJob', 'RetryJob'], ['operator', 'submitter']),
  // Logs and results may hold secrets: not for viewers.
  ...each(['ReadLogs', 'ReadResults', 'RunJob', 'RunJobs'], ['operator', 'submitter']),
  ...each(
    ['GetJob', 'ListJobs', 'ListTasks', 'WatchJob', 'Explain', 'ListNodes', 'GetNode'],
    ['operator', 'submitter', 'viewer'],
  ),
  ...each(
    ['ListWaiting', 'ApproveNode', 'RefuseNode', 'RevokeNode', 'RemoveNode'].map((method) => `NodeService/${method}`),
    ['operator'],
  ),
  ...each(['NamespaceService/SetNamespace', 'NamespaceService/RemoveNamespace'], ['operator']),
  'NamespaceService/ListNamespaces': ['operator', 'submitter', 'viewer'],
  ...each(['DrainNode', 'CreateToken', 'ListTokens', 'RevokeToken'], ['operator']),
  ...each(
    ['SetSecret', 'ListSecrets', 'RemoveSecret'].map((method) => `SecretService/${method}`),
    ['operator', 'submitter'],
  ),
  'SecretService/ShareKey': ['coordinator'],
  ...each(
    ['StartRotation', 'GetRotation', 'FinishRotation'].map((method) => `RotationService/${method}`),
    ['operator'],
  ),
  ...each(['AuditService/ListAudit', 'AuditService/ReadAudit', 'DoctorService/Examine'], ['operator']),
};

function each(methods: string[], roles: readonly Role[]): Record<string, readonly Role[]> {
  return Object.fromEntries(methods.map((name) => [name.includes('/') ? name : `MeshService/${name}`, roles]));
}

const call: CallLike = { getPeer: () => '10.0.0.7:4711' } as unknown as CallLike;

/** What the gates of this file told the audit. */
const denied: string[][] = [];

function gateFor(peer: Peer | (() => Peer), refused?: MeshError): Gate {
  const denylist = {
    check: () => {
      if (refused) throw refused;
    },
  } as unknown as Denylist;
  const audit = {
    tally: (actor: Actor, action: string, target: string) => void denied.push([actor.name, action, target]),
  };
  return new Gate({
    peerOf: () => (typeof peer === 'function' ? peer() : peer),
    ...{ denylist, audit, throttle: testThrottle(), log: silentLogger },
  });
}

const holder = (role: Role): Peer => ({ kind: 'identity', identity: identityOf(role, 'someone') });

test('every method of every service is in the table, and nothing else is', (t) => {
  const paths = ALL_METHODS.map(String).sort();
  t.same(Object.keys(METHOD_ROLES).sort(), paths);
  t.same(
    Object.keys(ALLOWED)
      .map((name) => `/mesh.v1.${name}`)
      .sort(),
    paths,
    'this test knows them all',
  );
  t.throws(() => assertCovered({ steal: { path: '/mesh.v1.MeshService/Steal' } }, {}), /not in the table of roles/);
  t.throws(() => assertCovered(EnrollServiceService, {}), /has no handler/);
  t.end();
});

test('each role gets through each method exactly where the design says so', (t) => {
  for (const path of ALL_METHODS) {
    const allowed = ALLOWED[path.replace('/mesh.v1.', '')] ?? [];
    for (const role of ROLES) {
      const admit = () => gateFor(holder(role)).admit(path, call);
      if (allowed.includes(role))
        t.match(admit(), { role, address: '10.0.0.7', identity: { role } }, `${role} ${path}`);
      else t.throws(admit, { code: 'DENIED', message: `${role}/someone may not call ${path}` });
    }
    const nobody = () => gateFor({ kind: 'nobody' }).admit(path, call);
    if (allowed.includes('nobody')) t.match(nobody(), { role: 'nobody', identity: undefined });
    else t.throws(nobody, { code: 'UNAUTHENTICATED' });
    const refused = () => gateFor({ kind: 'refused', reason: 'the certificate has two names' }).admit(path, call);
    t.throws(refused, { code: 'UNAUTHENTICATED', message: 'the certificate has two names' }, `refused ${path}`);
  }
  denied.length = 0;
  t.throws(() => gateFor(holder('operator')).admit('/mesh.v1.MeshService/Unheard', call), { code: 'DENIED' });
  t.same(denied, [['operator/someone', 'call.denied', '/mesh.v1.MeshService/Unheard']]);
  t.throws(() => gateFor(holder('operator')).admit('__proto__', call), { code: 'DENIED' });
  t.end();
});

test('an identity that holds no more is refused on every call, whatever its role', (t) => {
  const gate = gateFor(holder('operator'), new MeshError('REVOKED', 'the certificate 4d is revoked'));
  for (const path of ALL_METHODS) t.throws(() => gate.admit(path, call), { code: 'REVOKED' });
  t.end();
});

const json = {
  to: (value: unknown) => Buffer.from(JSON.stringify(value)),
  from: (b: Buffer) => JSON.parse(b.toString()),
};
const PATHS = {
  unary: '/mesh.v1.MeshService/GetJob',
  down: '/mesh.v1.MeshService/WatchJob',
  up: '/mesh.v1.MeshService/PutBlob',
  both: '/mesh.v1.AgentService/Session',
};

const method = (path: string, requestStream: boolean, responseStream: boolean) => ({
  ...{ path, requestStream, responseStream },
  ...{ requestSerialize: json.to, responseSerialize: json.to },
  ...{ requestDeserialize: json.from, responseDeserialize: json.from },
});

interface Handlers {
  unary: (request: { text: string }) => Promise<unknown>;
  down: (request: { text: string }, gone: AbortSignal) => AsyncIterable<unknown>;
  up: (requests: AsyncIterable<unknown>) => Promise<unknown>;
}

/** A real server with one method of each kind behind a gate, and a client of it. */
async function serve(t: Test, handlers: Partial<Handlers>, peer: () => Peer = () => holder('submitter')) {
  const gate = gateFor(peer);
  const nothing = async () => ({});
  const server = new Server();
  server.addService(
    {
      unary: method(PATHS.unary, false, false),
      down: method(PATHS.down, false, true),
      up: method(PATHS.up, true, false),
      both: method(PATHS.both, true, true),
    },
    {
      unary: gate.unary<{ text: string }, unknown>(PATHS.unary, handlers.unary ?? nothing),
      down: gate.serverStream<{ text: string }, unknown>(PATHS.down, (request, _, gone) =>
        (handlers.down ?? async function* () {})(request, gone),
      ),
      up: gate.clientStream<unknown, unknown>(PATHS.up, handlers.up ?? nothing),
      both: gate.duplex<unknown, unknown>(PATHS.both, async () => {
        throw new MeshError('PROTOCOL', 'the first message must be a hello');
      }),
    },
  );
  const address = await serveHere(server);
  const client = new Client(address, credentials.createInsecure());
  t.teardown(() => {
    client.close();
    server.forceShutdown();
  });
  return client;
}

const unary = (client: Client, text = 'x'): Promise<unknown> =>
  new Promise((resolve, reject) => {
    client.makeUnaryRequest(PATHS.unary, json.to, json.from, { text }, (error, value) =>
      error ? reject(fromServiceError(error)) : resolve(value),
    );
  });

const fails = (stream: { on(event: 'error', listener: (error: ServiceError) => void): unknown }): Promise<MeshError> =>
  new Promise((resolve) => stream.on('error', (error) => resolve(fromServiceError(error))));

test('what a handler throws crosses the wire with its code, its sentence and its hint', async (t) => {
  const error = new MeshError('CONFLICT', 'the name Ünïcode “x” is taken\nby two', { hint: 'wähle\neinen anderen' });
  const client = await serve(t, {
    unary: async () => {
      throw error;
    },
    down: async function* () {
      yield { n: 1 };
      throw error;
    },
    up: async () => {
      throw error;
    },
  });
  const expected = { code: 'CONFLICT', message: error.message, hint: error.hint, exitCode: 1 };
  t.match(await unary(client).catch((failure: unknown) => failure), expected);
  const down = client.makeServerStreamRequest(PATHS.down, json.to, json.from, { text: '' });
  const seen: unknown[] = [];
  down.on('data', (value) => seen.push(value));
  t.match(await fails(down), expected);
  t.same(seen, [{ n: 1 }], 'what came before it arrived');
  t.match(
    await new Promise((resolve) => {
      client
        .makeClientStreamRequest(PATHS.up, json.to, json.from, (failure) => resolve(fromServiceError(failure)))
        .on('error', () => undefined);
    }),
    expected,
  );
});

test('a defect tells the caller nothing of its insides', async (t) => {
  const client = await serve(t, {
    unary: async () => {
      throw new Error('password=hunter2 at /srv/secret.ts:1');
    },
  });
  const failure = (await unary(client).catch((error: unknown) => error)) as MeshError & {
    cause: { metadata: Metadata };
  };
  t.match(failure, { code: 'INTERNAL', message: 'internal error; the coordinator log says more' });
  t.notMatch(JSON.stringify([failure.message, failure.hint, failure.cause.metadata.getMap()]), /hunter2|secret/);
});

test('refused before the handler runs, in every kind of call', async (t) => {
  let ran = 0;
  const count = () => {
    ran++;
    throw new Error('it ran');
  };
  let peer: Peer = { kind: 'nobody' };
  const client = await serve(t, { unary: count, down: count, up: count }, () => peer);
  const outcomes = async () => [
    ((await unary(client).catch((error: unknown) => error)) as MeshError).code,
    (await fails(client.makeServerStreamRequest(PATHS.down, json.to, json.from, { text: '' }).resume())).code,
    await new Promise((resolve) => {
      client
        .makeClientStreamRequest(PATHS.up, json.to, json.from, (error) => resolve(fromServiceError(error).code))
        .on('error', () => undefined);
    }),
    (await fails(client.makeBidiStreamRequest(PATHS.both, json.to, json.from).resume())).code,
  ];
  t.same(await outcomes(), Array(4).fill('UNAUTHENTICATED'));
  peer = holder('metrics');
  t.same(await outcomes(), Array(4).fill('DENIED'));
  peer = { kind: 'refused', reason: 'two names' };
  t.same(await outcomes(), Array(4).fill('UNAUTHENTICATED'));
  t.equal(ran, 0);
});

test('a reader that leaves ends the handler; a slow one is waited for', async (t) => {
  let made = 0;
  let ended: () => void = () => undefined;
  const over = new Promise<void>((resolve) => (ended = resolve));
  const client = await serve(t, {
    down: async function* () {
      try {
        for (;;) {
          made++;
          yield { text: 'x'.repeat(64 * 1024) };
        }
      } finally {
        ended();
      }
    },
  });
  const stream = client.makeServerStreamRequest(PATHS.down, json.to, json.from, { text: '' });
  stream.on('error', () => undefined);
  await new Promise((resolve) => stream.once('data', resolve));
  stream.pause();
  const before = made;
  for (let turns = 0; turns < 200; turns++) await new Promise((resolve) => setImmediate(resolve));
  const held = made;
  for (let turns = 0; turns < 200; turns++) await new Promise((resolve) => setImmediate(resolve));
  t.equal(made, held, `it stands still after ${held - before} messages that nobody reads`);
  stream.cancel();
  await over;
});

test('an upload that is broken off ends the handler’s reading with an error', async (t) => {
  let outcome: (text: string) => void = () => undefined;
  const ended = new Promise<string>((resolve) => (outcome = resolve));
  let first: () => void = () => undefined;
  const began = new Promise<void>((resolve) => (first = resolve));
  const client = await serve(t, {
    up: async (requests) => {
      try {
        for await (const _ of requests) first();
        outcome('it looked complete');
      } catch (error) {
        outcome(`error: ${(error as Error).message}`);
        throw error;
      }
      return {};
    },
  });
  const stream = client.makeClientStreamRequest(PATHS.up, json.to, json.from, () => undefined);
  stream.on('error', () => undefined);
  stream.write({ n: 1 });
  await began;
  stream.cancel();
  t.match(await ended, /^error/, 'half an upload must never pass for a whole one');
});

test('the caller is who the connection says, never who the message says', async (t) => {
  const seen: (Identity | undefined)[] = [];
  const gate = gateFor(holder('submitter'));
  const handler = gate.unary<{ submitter: string }, object>(PATHS.unary, async (_, context) => {
    seen.push(context.identity);
    return {};
  });
  await new Promise<void>((resolve) => {
    handler({ ...call, request: { submitter: 'root' } } as never, () => resolve());
  });
  t.match(seen, [{ name: 'someone', role: 'submitter' }]);
});
