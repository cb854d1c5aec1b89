import { randomBytes, X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { connect } from 'node:tls';
import type { Server, ServiceError } from '@grpc/grpc-js';
import { test } from 'tap';
import { Authority, makeIssuer, makeRoot } from '../ca/authority.js';
import { systemClock } from '../common/clock.js';
import { MeshError } from '../common/errors.js';
import { toStatus } from '../common/grpc-errors.js';
import { makeKeyPair } from '../common/identity/keys.js';
import { encodeToken } from '../common/identity/token.js';
import { silentLogger } from '../common/log.js';
import { EnrollServiceService, type EnrollServiceServer, type JoinRequest } from '../proto/gen/mesh/v1/enroll.js';
import { closedPort, openRogue, openTestDoor } from '../test/support/test-door.js';
import { makeTestMesh, type TestMesh } from '../test/support/test-mesh.js';
import type { Endpoint } from './endpoints.js';
import { join, type JoinOptions } from './join.js';

const mesh = makeTestMesh();
const tokenOf = ({ rootDigest }: TestMesh) =>
  encodeToken({ id: randomBytes(6).toString('hex'), secret: randomBytes(16).toString('hex'), rootDigest });
const token = tokenOf(mesh);

const common = { token, name: 'box', roles: ['agent'] as const, clock: systemClock, log: silentLogger };
const enter = (addresses: Endpoint[], more: Partial<JoinOptions> = {}) =>
  join({ ...common, addresses, discover: false, ...more });

/** Enrols whoever asks, or answers as `refuse` says; keeps what was asked. */
function enrolling(refuse?: () => MeshError) {
  const asked: JoinRequest[] = [];
  const service: EnrollServiceServer = {
    recover: (_, answer) => answer(toStatus(new MeshError('DENIED', 'nobody recovers here')) as ServiceError),
    join: ({ request }, answer) => {
      asked.push(request);
      if (refuse) return answer(toStatus(refuse()) as ServiceError);
      const { pem } = mesh.authority.issue({
        csrDer: request.csr,
        role: 'agent',
        name: request.name,
        nowMs: Date.now(),
      });
      answer(null, {
        certificateChain: pem,
        root: mesh.authority.rootPem,
        name: request.name,
        role: 'agent',
        meshId: mesh.meshId,
        coordinators: ['10.0.0.1:7443'],
        issuer: '',
      });
    },
  };
  return { asked, register: (server: Server) => server.addService(EnrollServiceService, service) };
}

test('joining: key made here, chain checked, certificate for it brought back', async (t) => {
  const { asked, register } = enrolling();
  const endpoint = await openTestDoor(t, mesh, register);
  const wrong = await openTestDoor(t, makeTestMesh('other-mesh'));
  const joined = await enter([await closedPort(), wrong, endpoint]);
  t.match(joined, { meshId: 'test-mesh', role: 'agent', name: 'box', coordinators: ['10.0.0.1:7443'], endpoint });
  t.equal(asked.length, 1);
  t.equal(asked[0]?.token, token);
  const leaf = new X509Certificate(joined.credential.certificateChain);
  t.equal(leaf.subjectAltName, 'URI:spiffe://test-mesh/agent/box');
  t.equal(new X509Certificate(joined.credential.root).fingerprint256, mesh.authority.root.fingerprint256);
  const { privateKeyPem } = makeKeyPair();
  const again = await enter([endpoint], { privateKey: privateKeyPem });
  t.equal(again.credential.privateKey, privateKeyPem, 'a key that waited is used');
});

test('what an impostor would hear, it would note', async (t) => {
  const own = makeTestMesh('test-mesh').credential('coordinator', 'one');
  const rogue = await openRogue(t, { cert: own.certificateChain, key: own.privateKey });
  const careless = connect({ ...rogue.endpoint, rejectUnauthorized: false });
  await once(careless, 'secureConnect');
  careless.end(token);
  await once(careless, 'close');
  t.equal(Buffer.concat(rogue.heard).toString(), token);
});

test('no impostor hears a byte of the token', async (t) => {
  const stranger = makeTestMesh('test-mesh');
  const own = stranger.credential('coordinator', 'one');
  const borrowed = mesh.authority.rootPem;
  // Same names everywhere, so that only signatures tell: an issuer that claims the real root, and one signed by no one.
  const fakeRoot = makeRoot('test-mesh', Date.now());
  const fakeIssuer = makeIssuer(fakeRoot.certificate, fakeRoot.privateKey, Date.now());
  const fake = new Authority({
    root: fakeRoot.certificate,
    issuer: fakeIssuer.certificate,
    issuerKey: fakeIssuer.privateKey,
  });
  const pair = makeKeyPair();
  const { pem } = fake.issue({ publicKeyDer: pair.publicKeyDer, role: 'coordinator', name: 'one', nowMs: Date.now() });
  const agent = mesh.credential('agent', 'thief');
  const impostors: [string, string, string][] = [
    ['its own root', `${own.certificateChain}${own.root}`, own.privateKey],
    ['no root', own.certificateChain, own.privateKey],
    ['the real root behind a foreign chain', `${pem}${borrowed}`, pair.privateKeyPem],
    [
      'the real root behind a bare leaf',
      `${pem.split(/(?<=-----END CERTIFICATE-----\n)/)[0]}${borrowed}`,
      pair.privateKeyPem,
    ],
    ['the certificate of an agent of the mesh', `${agent.certificateChain}${borrowed}`, agent.privateKey],
  ];
  for (const [what, cert, key] of impostors) {
    const rogue = await openRogue(t, { cert, key });
    await t.rejects(enter([rogue.endpoint]), { code: 'UNREACHABLE' }, what);
    t.ok(rogue.seen() > 0, 'it was looked at');
    t.equal(Buffer.concat(rogue.heard).length, 0, `${what}: nothing was said to it`);
  }
  const { asked, register } = enrolling();
  const honest = await openTestDoor(t, mesh, register);
  const rogue = await openRogue(t, { cert: `${own.certificateChain}${own.root}`, key: own.privateKey });
  t.match(await enter([rogue.endpoint, honest]), { endpoint: honest }, 'beside an impostor the real one is found');
  t.equal(asked.length, 1);
  t.equal(rogue.heard.length, 0);
});

test('a refused token is final, a coordinator in trouble is not', async (t) => {
  const refusing = enrolling(() => new MeshError('TOKEN_REFUSED', 'the join token has expired'));
  const doors = [await openTestDoor(t, mesh, refusing.register), await openTestDoor(t, mesh, refusing.register)];
  await t.rejects(enter(doors), { code: 'TOKEN_REFUSED', message: 'the join token has expired' });
  t.equal(refusing.asked.length, 1);
  const standby = enrolling(() => new MeshError('NOT_READY', 'this coordinator stands by'));
  const leader = enrolling();
  const addresses = [await openTestDoor(t, mesh, standby.register), await openTestDoor(t, mesh, leader.register)];
  t.match(await enter(addresses), { endpoint: addresses[1] });
  await t.rejects(enter([await closedPort()]), { code: 'UNREACHABLE', message: /the mesh this token is for/ });
  await t.rejects(enter(addresses, { token: `${token.slice(0, -1)}!` }), { code: 'BAD_TOKEN' });
});

test('an answer that does not fit is refused', async (t) => {
  const { pem } = mesh.authority.issue({
    publicKeyDer: makeKeyPair().publicKeyDer,
    role: 'agent',
    name: 'box',
    nowMs: Date.now(),
  });
  for (const [certificateChain, reason] of [
    [pem, /for another key/],
    [makeTestMesh('test-mesh').credential('agent', 'box').certificateChain, /does not lead to the root/],
    ['', /0 certificates/],
  ] as const) {
    const answer = {
      certificateChain,
      root: mesh.authority.rootPem,
      name: 'box',
      role: 'agent',
      meshId: 'test-mesh',
      coordinators: [],
    };
    const endpoint = await openTestDoor(t, mesh, (server) =>
      server.addService(EnrollServiceService, {
        join: (_call: unknown, done: (error: null, value: typeof answer) => void) => done(null, answer),
      }),
    );
    await t.rejects(enter([endpoint]), { code: 'BAD_CERTIFICATE', message: reason });
  }
});
