import { once } from 'node:events';
import { createServer as createNetServer, type AddressInfo } from 'node:net';
import { networkInterfaces } from 'node:os';
import { Client } from '@grpc/grpc-js';
import { test } from 'tap';
import { basicConstraints, dnsName, subjectAltName, uriName } from '../ca/x509/certificate.js';
import { systemClock } from '../common/clock.js';
import { MeshError } from '../common/errors.js';
import { silentLogger } from '../common/log.js';
import { Advertiser } from '../coordinator/services/advertise.js';
import { ManualClock } from '../test/support/manual-clock.js';
import { closedPort, openRogue, openTestDoor } from '../test/support/test-door.js';
import { makeTestMesh } from '../test/support/test-mesh.js';
import { channelCredentials, channelOptions, type Credential } from './credentials.js';
import { type Endpoint, formatEndpoint, grpcTarget } from './endpoints.js';
import { Discovery } from './discovery.js';
import { multicastInterfaces } from './mdns.js';
import { reach, type ReachOptions } from './reach.js';

const mesh = makeTestMesh();
const other = makeTestMesh('other-mesh');
const credential = mesh.credential('agent', 'box');

const find = (addresses: Endpoint[], more: Partial<ReachOptions<Endpoint>> = {}): Promise<Endpoint> =>
  reach({
    meshId: mesh.meshId,
    credential,
    addresses,
    discover: false,
    clock: systemClock,
    timeoutMs: 20_000,
    try: async (endpoint) => endpoint,
    ...more,
  });

const failure = async (outcome: Promise<unknown>): Promise<MeshError> => {
  const error: unknown = await outcome.then(
    () => new Error('it succeeded'),
    (reason: unknown) => reason,
  );
  if (!(error instanceof MeshError)) throw error;
  return error;
};

test('the coordinator of this mesh is found among others', async (t) => {
  const right = await openTestDoor(t, mesh);
  const wrong = await openTestDoor(t, other);
  t.same(await find([await closedPort(), wrong, right]), right);
});

test('when none is found, one line says why each was not', async (t) => {
  const nothing = await closedPort();
  const wrong = await openTestDoor(t, other);
  const plain = createNetServer((socket) => socket.on('error', () => undefined).end('hello\n')).listen(0, '127.0.0.1');
  await once(plain, 'listening');
  t.teardown(() => plain.close());
  const deaf = { host: '127.0.0.1', port: (plain.address() as AddressInfo).port };
  const error = await failure(find([nothing, wrong, deaf]));
  t.equal(error.code, 'UNREACHABLE');
  t.equal(error.exitCode, 3);
  t.match(error.message, /^no coordinator of mesh test-mesh answered: /);
  t.match(error.message, `${formatEndpoint(nothing)} refuses connections`);
  t.match(error.message, `${formatEndpoint(wrong)} belongs to another mesh`);
  t.match(error.message, `${formatEndpoint(deaf)} does not speak TLS 1.3`);
  t.notMatch(error.message, /\n/);
  const many = await failure(find([nothing, wrong, deaf, await closedPort(), await closedPort()]));
  t.match(many.message, /, 2 more failed$/);
  t.match((await failure(find([]))).message, 'no address was given');
  t.match((await failure(find([{ host: 'no-such-host.invalid', port: 1 }]))).message, /is a name that/);
});

test('a server that is no coordinator of this mesh is refused, by the probe and by the channel', async (t) => {
  const nowMs = Date.now();
  const crooked: [string, Credential, RegExp][] = [
    ["an agent's certificate", credential, /role that may not stand here|no serverAuth/],
    [
      'the right common name and host names, no URI',
      mesh.forge('coordinator', 'one', ({ extensions }) => ({
        extensions: [...extensions.slice(0, 3), subjectAltName([dnsName('coordinator'), dnsName('localhost')])],
      })),
      /0 URI/,
    ],
    [
      'an identity of another mesh, signed by this one',
      mesh.forge('coordinator', 'one', ({ extensions }) => ({
        extensions: [...extensions.slice(0, 3), subjectAltName([uriName('spiffe://else/coordinator/one')])],
      })),
      /mesh else/,
    ],
    [
      'an authority',
      mesh.forge('coordinator', 'one', ({ extensions }) => ({
        extensions: [basicConstraints(true), ...extensions.slice(1)],
      })),
      /itself an authority|CA bit/,
    ],
    [
      'expired',
      mesh.forge('coordinator', 'one', () => ({ notBeforeMs: nowMs - 7200_000, notAfterMs: nowMs - 3600_000 })),
      /has expired: it is valid from/,
    ],
    ['the same mesh id under another root', makeTestMesh(mesh.meshId).credential('coordinator', 'one'), /another mesh/],
  ];
  for (const [what, presented, reason] of crooked) {
    const { endpoint, heard, seen } = await openRogue(t, {
      cert: `${presented.certificateChain}${presented.root}`,
      key: presented.privateKey,
    });
    t.match((await failure(find([endpoint]))).message, reason, what);
    const client = new Client(grpcTarget(endpoint), channelCredentials(credential, mesh.meshId), channelOptions);
    t.teardown(() => client.close());
    const outcome = await new Promise<{ code?: number } | null>((resolve) => {
      const echo = (bytes: Buffer) => bytes;
      client.makeUnaryRequest('/x/Y', echo, echo, Buffer.from('secret'), (error) => resolve(error));
    });
    t.equal(outcome?.code, 14, `${what}: the channel does not open`);
    t.ok(seen() >= 1, 'although it answered');
    t.equal(heard.length, 0, `${what}: not a byte was said to it`);
  }
});

test('TLS 1.2 is not spoken to', async (t) => {
  const own = mesh.credential('coordinator', 'one');
  const { endpoint } = await openRogue(t, { cert: own.certificateChain, key: own.privateKey, maxVersion: 'TLSv1.2' });
  t.match((await failure(find([endpoint]))).message, 'does not speak TLS 1.3');
});

test('what a proven coordinator says decides: passing trouble goes on to the next, a refusal ends it', async (t) => {
  const doors = [await openTestDoor(t, mesh), await openTestDoor(t, mesh), await openTestDoor(t, mesh)];
  const tried: Endpoint[] = [];
  const found = await find(doors, {
    try: async (endpoint) => {
      tried.push(endpoint);
      if (tried.length < 3) throw new MeshError('NOT_READY', 'this one stands by');
      return endpoint;
    },
  });
  t.equal(tried.length, 3);
  t.same(found, tried[2]);
  const standby = await failure(
    find([doors[0] as Endpoint], { try: () => Promise.reject(new MeshError('NOT_READY', 'standing by')) }),
  );
  t.match(standby, { code: 'UNREACHABLE', message: /was refused \(standing by\)/ });
  let refusals = 0;
  const refused = await failure(
    find(doors, {
      try: async () => {
        refusals++;
        throw new MeshError('REVOKED', 'the certificate is revoked');
      },
    }),
  );
  t.equal(refused.code, 'REVOKED');
  t.equal(refusals, 1);
});

test('it stops at the deadline and when it is told to', async (t) => {
  // It accepts and says nothing.
  const silent = createNetServer((socket) => socket.on('error', () => undefined)).listen(0, '127.0.0.1');
  await once(silent, 'listening');
  t.teardown(() => silent.close());
  const endpoint = { host: '127.0.0.1', port: (silent.address() as AddressInfo).port };
  const clock = new ManualClock();
  const late = failure(find([endpoint], { clock, timeoutMs: 3000 }));
  await once(silent, 'connection');
  clock.advance(3000);
  t.match(await late, { code: 'UNREACHABLE', message: /answered within 3 s: .*did not answer$/ });
  const slow = failure(find([endpoint], { clock }));
  await once(silent, 'connection');
  clock.advance(4000);
  t.match(await slow, { code: 'UNREACHABLE' }, 'one candidate does not get all the time there is');
  const controller = new AbortController();
  const stopped = failure(find([endpoint], { signal: controller.signal }));
  await once(silent, 'connection');
  controller.abort();
  t.equal((await stopped).code, 'INTERRUPTED');
  t.equal((await failure(find([endpoint], { signal: controller.signal }))).code, 'INTERRUPTED');
});

const hasIpv6 = Object.values(networkInterfaces()).some((list) => list?.some(({ address }) => address === '::1'));

test('every kind of address works, and a proxy in the environment has no say', async (t) => {
  const proxy = await openRogue(t, {});
  process.env.http_proxy =
    process.env.https_proxy =
    process.env.grpc_proxy =
      `http://${formatEndpoint(proxy.endpoint)}`;
  t.teardown(() => {
    delete process.env.http_proxy;
    delete process.env.https_proxy;
    delete process.env.grpc_proxy;
  });
  const { port } = await openTestDoor(t, mesh);
  for (const host of ['127.0.0.1', 'localhost', ...(hasIpv6 ? ['::1'] : [])]) {
    const endpoint = { host, port };
    t.same(await find([endpoint]), endpoint);
    const client = new Client(grpcTarget(endpoint), channelCredentials(credential, mesh.meshId), channelOptions);
    t.teardown(() => client.close());
    await new Promise<void>((resolve, reject) =>
      client.waitForReady(Date.now() + 20_000, (error) => (error ? reject(error) : resolve())),
    );
  }
  t.equal(proxy.seen(), 0);
});

/** mDNS on this machine only, so that the test says nothing to the network it runs on. */
const loopback = () => multicastInterfaces(true).filter((entry) => entry.loopback);
const quiet = { clock: systemClock, log: silentLogger, interfaces: loopback };

test('found over mDNS among other meshes and claims that are false', async (t) => {
  const own = makeTestMesh();
  const right = await openTestDoor(t, own);
  const wrong = await openTestDoor(t, other);
  const nothing = await closedPort();
  for (const [port, rootDigest] of [
    [nothing.port, own.rootDigest],
    [wrong.port, own.rootDigest],
    [wrong.port, other.rootDigest],
    [right.port, own.rootDigest],
  ] as const) {
    const advertiser = new Advertiser({ ...quiet, name: 'one', port, rootDigest: () => rootDigest });
    await advertiser.start();
    t.teardown(() => advertiser.stop());
  }
  const discovery = new Discovery({ ...quiet, rootDigests: [own.rootDigest] });
  await discovery.start();
  t.teardown(() => discovery.stop());
  const found = await find([], { credential: own.credential('agent', 'box'), discover: discovery });
  t.equal(found.port, right.port);
});

test('nothing found over mDNS: where it looked is said', async (t) => {
  const clock = new ManualClock();
  const discovery = new Discovery({ ...quiet, rootDigests: ['c'.repeat(64)] });
  await discovery.start();
  t.teardown(() => discovery.stop());
  const outcome = failure(find([], { discover: discovery, clock, timeoutMs: 5000 }));
  await Promise.resolve();
  clock.advance(5000);
  t.match(await outcome, {
    message: /^no coordinator of mesh test-mesh answered within 5 s: none found over mDNS on lo/,
    hint: /--coordinator/,
  });
});
