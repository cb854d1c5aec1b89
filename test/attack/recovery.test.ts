/**
 * Coming back with an expired certificate: what it takes, and everything that is tried instead. The library's own TLS
 * would let an expired client do whatever its handlers allow (`rejectUnauthorized: false`) or nothing at all; the door
 * lets it make one call.
 */
import { createPrivateKey } from 'node:crypto';
import { Client, Metadata, type ServiceError } from '@grpc/grpc-js';
import { test, type Test } from 'tap';
import { fromServiceError } from '../../common/grpc-errors.js';
import { chainFromPem } from '../../common/identity/chain.js';
import { fieldsOf, fingerprintOf } from '../../common/identity/check.js';
import { makeCsr } from '../../common/identity/csr.js';
import { makeKeyPair, publicKeyDigest } from '../../common/identity/keys.js';
import { METHOD_ROLES } from '../../coordinator/rpc/roles.js';
import { type Credential, channelCredentials, channelOptions } from '../../link/credentials.js';
import { EnrollServiceClient, type RecoverResponse } from '../../proto/gen/mesh/v1/enroll.js';
import { type Front, openFront } from '../support/front.js';
import { OPERATOR } from '../support/plane.js';
import { makeTestMesh, type TestMesh } from '../support/test-mesh.js';
import { until } from '../support/who-door.js';

/** An agent that was known here, and whose certificate has ended. */
async function expiredAgent(front: Front, name: string, mesh: TestMesh = front.mesh): Promise<Credential> {
  const credential = mesh.credential('agent', name, { lifetimeMs: 1000 });
  await remember(front, credential, name);
  const [leaf] = chainFromPem(credential.certificateChain);
  const endMs = fieldsOf(leaf as never).notAfterMs;
  await until(() => Date.now() > endMs);
  front.clock.jumpWall(endMs + 1000 - front.clock.wallMs());
  return credential;
}

async function remember({ store }: Front, credential: Credential, name: string): Promise<string> {
  const [leaf] = chainFromPem(credential.certificateChain);
  if (!leaf) throw new Error('a chain has a leaf');
  const { serial, notBeforeMs, notAfterMs, publicKeyDer } = fieldsOf(leaf);
  const row = { serial, role: 'agent', name, fingerprint: fingerprintOf(leaf), notBeforeMs, notAfterMs } as const;
  const rest = { revokedAtMs: undefined, tokenId: undefined, pem: credential.certificateChain };
  await store.certificates.record(
    { ...row, ...rest, publicKeyDigest: publicKeyDigest(publicKeyDer) },
    { sameHolder: true },
  );
  return serial;
}

function recover(t: Test, { mesh, port }: Front, credential: Credential, key = makeKeyPair().privateKeyPem) {
  const trust = { ...credential, root: mesh.authority.rootPem };
  const client = new EnrollServiceClient(
    `ipv4:127.0.0.1:${port}`,
    channelCredentials(trust, mesh.meshId),
    channelOptions,
  );
  t.teardown(() => client.close());
  const csr = makeCsr(createPrivateKey(key), 'recovery');
  return new Promise<RecoverResponse>((resolve, reject) => {
    client.recover({ csr }, new Metadata(), { deadline: Date.now() + 20_000 }, (error, answer) =>
      error ? reject(fromServiceError(error)) : resolve(answer),
    );
  });
}

const issuedTo = async ({ store }: Front, name: string): Promise<number> =>
  (await store.certificates.list()).filter((row) => row.name === name).length;

const refusals = async ({ plane, store }: Front, name: string) => {
  await plane.audit.stop();
  return store.audit.find({ action: 'recovery.refused', target: `agent/${name}`, limit: 10 });
};

const serialOf = ({ certificateChain }: { certificateChain: string }): string => {
  const [leaf] = chainFromPem(certificateChain);
  return leaf ? fieldsOf(leaf).serial : '';
};

test('A5: an expired agent gets one new certificate; asking again with the same key brings the same one', async (t) => {
  const front = await openFront(t);
  const expired = await expiredAgent(front, 'attic');
  const { privateKeyPem } = makeKeyPair();
  const first = await recover(t, front, expired, privateKeyPem);
  t.not(serialOf(first), serialOf(expired));
  t.equal(serialOf(await recover(t, front, expired, privateKeyPem)), serialOf(first), 'the answer was lost');
  t.equal(await issuedTo(front, 'attic'), 2);
});

test('A15: a recovery is replayed with another key by who has a copy of the expired one: refused', async (t) => {
  const front = await openFront(t);
  const expired = await expiredAgent(front, 'attic');
  await recover(t, front, expired);
  await t.rejects(recover(t, front, expired), { code: 'EXPIRED', message: /not the latest one of this name/ });
  t.equal(await issuedTo(front, 'attic'), 2);
  t.match(await refusals(front, 'attic'), [{ actor: 'agent/attic', certificate: serialOf(expired) }]);
});

test('A15: a dozen recoveries at once with different keys: exactly one certificate', async (t) => {
  const front = await openFront(t);
  const expired = await expiredAgent(front, 'attic');
  const tries = await Promise.allSettled(Array.from({ length: 12 }, () => recover(t, front, expired)));
  t.equal(tries.filter(({ status }) => status === 'fulfilled').length, 1);
  t.equal(await issuedTo(front, 'attic'), 2);
});

test('A12: revoked and expired: refused, and nothing is issued', async (t) => {
  const front = await openFront(t);
  const expired = await expiredAgent(front, 'attic');
  await front.store.certificates.revoke(serialOf(expired));
  await t.rejects(recover(t, front, expired), { code: 'REVOKED', message: /was revoked at/, hint: /token create/ });
  t.equal(await issuedTo(front, 'attic'), 1);
  t.equal((await refusals(front, 'attic')).length, 1);
});

test('A12: whoever shuts out or removes a node that was off past the end of its certificate shuts it out of recovery too', async (t) => {
  const front = await openFront(t);
  const stolen = await expiredAgent(front, 'attic');
  t.match(
    await front.plane.issuance.revokeHolder(OPERATOR, 'agent', 'attic'),
    [{ serial: serialOf(stolen) }],
    'as mesh revoke and mesh remove do',
  );
  await t.rejects(recover(t, front, stolen), { code: 'REVOKED', message: /was revoked at/ });
  t.equal(await issuedTo(front, 'attic'), 1);
});

test('A12: a revocation that races a recovery covers the recovered certificate', async (t) => {
  const front = await openFront(t);
  const expired = await expiredAgent(front, 'attic');
  const { certificates } = front.store;
  const record = certificates.record.bind(certificates);
  t.teardown(() => Object.assign(certificates, { record }));
  // All of the revocation falls between what recovery asks and what it writes.
  certificates.record = async (...given) => {
    certificates.record = record;
    await front.plane.issuance.revoke(OPERATOR, 'attic');
    await record(...given);
  };
  await t.rejects(recover(t, front, expired), { code: 'REVOKED', message: /is revoked/ });
  t.same(await certificates.holders('agent', 'attic'), []);
});

test('A5: an older certificate of the name, its successor being in use: refused', async (t) => {
  const front = await openFront(t);
  const expired = await expiredAgent(front, 'attic');
  await remember(front, front.mesh.credential('agent', 'attic'), 'attic');
  await t.rejects(recover(t, front, expired), { code: 'EXPIRED', message: /not the latest one/ });
  t.equal(await issuedTo(front, 'attic'), 2);
});

test('A5: expired, of another CA with the same mesh id: it is nobody, and told so', async (t) => {
  const front = await openFront(t);
  const foreign = await expiredAgent(front, 'attic', makeTestMesh('test-mesh'));
  await t.rejects(recover(t, front, foreign), { code: 'UNAUTHENTICATED', message: /has expired/ });
  t.equal(await issuedTo(front, 'attic'), 1);
});

test('A5: expired, but never issued here: refused', async (t) => {
  const front = await openFront(t);
  const unknown = front.mesh.credential('agent', 'cellar', { lifetimeMs: 1000 });
  await until(() => Date.now() > fieldsOf(chainFromPem(unknown.certificateChain)[0] as never).notAfterMs);
  await t.rejects(recover(t, front, unknown), { code: 'EXPIRED', message: /is not known here/ });
});

test('A5: the policy of the mesh forbids it, or it was too long ago', async (t) => {
  for (const [recoverWithin, message] of [
    [0, /takes nobody back/],
    [1, /longer ago than --recover-within/],
  ] as const) {
    const front = await openFront(t, undefined, undefined, { recoverWithin });
    const expired = await expiredAgent(front, 'attic');
    await t.rejects(recover(t, front, expired), { code: 'EXPIRED', message, hint: /token create --name attic/ });
    t.equal(await issuedTo(front, 'attic'), 1);
  }
});

test('A10: an expired client may call nothing else, of no role', async (t) => {
  const front = await openFront(t);
  const expired = await expiredAgent(front, 'attic');
  const client = new Client(`ipv4:127.0.0.1:${front.port}`, channelCredentials(expired, 'test-mesh'), channelOptions);
  t.teardown(() => client.close());
  const same = (bytes: Buffer) => bytes;
  const codeOf = (path: string) =>
    new Promise<string>((resolve) => {
      const call = client.makeBidiStreamRequest(path, same, same);
      call.on('error', (error: ServiceError) => resolve(fromServiceError(error).code));
      call.on('data', () => resolve('ok'));
      call.on('end', () => resolve('ok'));
      call.end(Buffer.alloc(0));
    });
  for (const [path, allowed] of Object.entries(METHOD_ROLES))
    if (!allowed.includes('expired')) t.equal(await codeOf(path), 'EXPIRED', path);
});
