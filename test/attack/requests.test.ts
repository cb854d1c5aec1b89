/** Certificate requests that ask for more than a token grants. */
import { spawnSync } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Metadata, type ServiceError } from '@grpc/grpc-js';
import t, { before, test } from 'tap';
import { chainFromPem, checkPresented } from '../../common/identity/chain.js';
import { fieldsOf } from '../../common/identity/check.js';
import { channelCredentials, channelOptions } from '../../link/credentials.js';
import { EnrollServiceClient, type JoinResponse } from '../../proto/gen/mesh/v1/enroll.js';
import { type Mesh, startMesh } from '../support/mesh.js';

const skip = spawnSync('openssl', ['version']).error ? 'openssl is not installed' : false;

let mesh: Mesh;
before(async () => {
  if (!skip) mesh = await startMesh(t);
});

function openssl(...args: string[]): void {
  const { status, stderr } = spawnSync('openssl', args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(stderr);
}

/** For an operator who is an authority and a server too. */
function greedyRequest(folder: string): { csr: Buffer; path: string } {
  const path = join(folder, 'greedy.csr');
  const wishes = [
    'subjectAltName=URI:spiffe://mesh/operator/root',
    'basicConstraints=critical,CA:TRUE',
    'keyUsage=critical,keyCertSign,cRLSign',
    'extendedKeyUsage=serverAuth,clientAuth',
  ].flatMap((extension) => ['-addext', extension]);
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', join(folder, 'greedy.key')];
  openssl('req', '-new', ...key, '-subj', '/O=mesh/CN=operator root', ...wishes, '-outform', 'DER', '-out', path);
  return { csr: readFileSync(path), path };
}

function enroll(token: string, csr: Buffer, name = 'root'): Promise<JoinResponse | ServiceError> {
  const { address, adminProfile, meshId } = mesh.coordinator.ready;
  const root = readFileSync(join(adminProfile, 'ca.crt'), 'utf8');
  const client = new EnrollServiceClient(address, channelCredentials({ root }, meshId), channelOptions);
  return new Promise<JoinResponse | ServiceError>((resolve) =>
    client.join({ token, csr, name, issuerCsr: Buffer.alloc(0), roles: [] }, new Metadata(), (error, answer) =>
      resolve(error ?? answer),
    ),
  ).finally(() => client.close());
}

test('A11: a CA that copies what a request asks for makes another CA of it; ours takes the key alone', {
  skip,
}, async (t) => {
  const folder = mesh.folder('greedy');
  const { csr, path } = greedyRequest(folder);
  const [crt, key, copied] = ['ca.crt', 'ca.key', 'copied.crt'].map((name) => join(folder, name)) as [
    string,
    string,
    string,
  ];
  openssl(
    'req',
    '-x509',
    '-newkey',
    'ec',
    '-pkeyopt',
    'ec_paramgen_curve:P-256',
    '-nodes',
    '-keyout',
    key,
    '-subj',
    '/CN=a CA',
    '-out',
    crt,
  );
  openssl(
    'x509',
    '-req',
    '-in',
    path,
    '-inform',
    'DER',
    '-CA',
    crt,
    '-CAkey',
    key,
    '-copy_extensions',
    'copyall',
    '-out',
    copied,
  );
  t.ok(new X509Certificate(readFileSync(copied)).ca, 'openssl x509 -copy_extensions');

  const { adminProfile, meshId } = mesh.coordinator.ready;
  const roots = chainFromPem(readFileSync(join(adminProfile, 'ca.crt'), 'utf8'));
  const named = (await enroll(await mesh.token('--name', 'meek'), csr)) as JoinResponse;
  const wished = (await enroll(await mesh.token(), greedyRequest(folder).csr)) as JoinResponse;
  for (const [answer, name] of [
    [named, 'meek'],
    [wished, 'root'],
  ] as const) {
    const chain = chainFromPem(answer.certificateChain);
    const rules = { meshId, purpose: 'client', nowMs: Date.now() } as const;
    t.match(checkPresented(chain, roots, rules), { role: 'agent', name });
    const { basicConstraints, keyUsage, extendedKeyUsage, alternativeNames } = fieldsOf(chain[0] as X509Certificate);
    t.match(
      { basicConstraints, keyUsage, extendedKeyUsage },
      {
        ...{ basicConstraints: { ca: false }, keyUsage: ['digitalSignature'], extendedKeyUsage: ['1.3.6.1.5.5.7.3.2'] },
      },
    );
    t.equal(alternativeNames.length, 1);
  }
});

test('A11: possession of the key is proven, or nothing is issued and the token is not spent', { skip }, async (t) => {
  const { program } = mesh.coordinator;
  const { csr } = greedyRequest(mesh.folder('greedy'));
  const token = await mesh.token();
  const before = (await mesh.ca('list', '--json')).json<{ items: unknown[] }>().items.length;
  const mark = program.mark();
  const flipped = Buffer.from(csr);
  // The last byte of the signature.
  flipped[flipped.length - 1] = (flipped.at(-1) as number) ^ 1;
  for (const [what, request] of [
    ['signed by another', flipped],
    ['cut off', csr.subarray(0, -1)],
    ['empty', Buffer.alloc(0)],
    ['too large', Buffer.concat([csr, Buffer.alloc(20_000)])],
  ] as const)
    t.match(await enroll(token, request), { code: 16, details: /request/ }, what);
  await program.logged('enroll.refused', () => true, mark);
  t.equal((await mesh.ca('list', '--json')).json<{ items: unknown[] }>().items.length, before);
  t.match(await enroll(token, csr), { role: 'agent' }, 'the token still buys one');
});
