/**
 * Certificates that are none, in both directions: presented to a running coordinator over gRPC and HTTPS, and by what
 * pretends to be one to agents and commands. First what Node's TLS and grpc-js let pass by themselves.
 */
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { connect, createSecureContext, createServer, type TLSSocket } from 'node:tls';
import { Client, Server, ServerCredentials, type ServiceError } from '@grpc/grpc-js';
import t, { before, type Test, test } from 'tap';
import { nameDer } from '../../ca/x509/certificate.js';
import { systemCode } from '../../common/errors.js';
import { EXTENSION_OIDS } from '../../common/identity/profile.js';
import { channelCredentials, channelOptions, type Credential } from '../../link/credentials.js';
import { probeCoordinator } from '../../link/probe.js';
import { CreateTokenRequest, MeshServiceService } from '../../proto/gen/mesh/v1/mesh.js';
import { type Change, Forger, withoutExtension } from '../support/forger.js';
import { CHAINS } from '../support/forgeries/chains.js';
import { FORGERIES } from '../support/forgeries/index.js';
import { get } from '../support/https.js';
import { type Mesh, startMesh } from '../support/mesh.js';
import type { LogEvent } from '../support/program.js';
import { openRogue } from '../support/test-door.js';

let mesh: Mesh;
let forger: Forger;

before(async () => {
  // Hundreds of strangers from one address: here it is said what is wrong with each, not that there are many.
  mesh = await startMesh(t, { coordinator: ['--max-stranger-rate', '10000', '--max-connection-rate', '10000'] });
  forger = Forger.of(join(mesh.coordinator.dataDir, 'ca'));
});

interface Case {
  name: string;
  credential: Credential;
  reason: RegExp;
}

/** Every forged certificate and chain for this role that OpenSSL can be made to present at all. */
function cases(role: 'operator' | 'coordinator'): Case[] {
  const isHeld = role === 'coordinator' ? 'coordinator' : 'agent';
  const single = FORGERIES.flatMap(({ what, change, reason, only, threat }) =>
    reason === undefined || (only !== undefined && only !== isHeld)
      ? []
      : [{ name: title(threat, what), credential: forger.credential(forger.leaf(role, change)), reason }],
  );
  // Node strings a chain together as far as one certificate issued the next, so where it breaks is not always told.
  const reason = /was not issued by this mesh/;
  const chains = CHAINS.map(({ what, build, threat }) => {
    const { leaf, above } = build(forger, role);
    return { name: title(threat, what), credential: forger.credential(leaf, above), reason };
  });
  return [...single, ...chains].filter(({ credential: { certificateChain, privateKey } }) => {
    try {
      createSecureContext({ cert: certificateChain, key: privateKey });
      return true;
    } catch {
      return false;
    }
  });
}

const title = (threat: string | undefined, what: string): string => (threat ? `${threat}: ${what}` : what);

const files = ({ certificateChain, privateKey, root }: Credential) => ({
  ca: root,
  cert: certificateChain,
  key: privateKey,
});

const either = (...reasons: RegExp[]): RegExp => new RegExp(reasons.map(({ source }) => source).join('|'));

const HANDSHAKE = 'the handshake failed';

/** OpenSSL presents nothing in place of a key that TLS 1.3 has no word for. */
const UNSENT = /without a certificate|needs a client certificate/;

const { path, requestSerialize } = MeshServiceService.createToken;
const wish = CreateTokenRequest.fromPartial({ role: 'operator', ttlMs: 60_000, uses: 1 });

/** Asks for a token of an operator, which would change a row; what came of it. */
function createToken(t: Test, address: string, credential: Credential): Promise<ServiceError | 'done'> {
  const client = new Client(address, channelCredentials(credential, forger.meshId), channelOptions);
  t.teardown(() => client.close());
  return new Promise((resolve) => {
    const raw = (bytes: Buffer) => bytes;
    client.makeUnaryRequest(path, requestSerialize, raw, wish, (error) => {
      client.close();
      resolve(error ?? 'done');
    });
  });
}

const tokens = async (): Promise<number> =>
  (await mesh.cli('token', 'list', '--json')).json<{ items: unknown[] }>().items.length;

test('A6, A7, A9: what Node and grpc-js let pass when they are told to verify clients', async (t) => {
  const ca = forger.authority.rootPem;
  const own = files(forger.credential(forger.leaf('coordinator')));
  const plain = createServer({ ...own, requestCert: true, rejectUnauthorized: true });
  plain.listen(0, '127.0.0.1');
  await once(plain, 'listening');
  const grpc = new Server();
  let handled = 0;
  const raw = (bytes: Buffer) => bytes;
  const method = { path, requestStream: false, responseStream: false };
  grpc.addService(
    {
      createToken: {
        ...method,
        ...{ requestSerialize: raw, requestDeserialize: raw, responseSerialize: raw, responseDeserialize: raw },
      },
    },
    {
      createToken: (_: unknown, answer: (error: null, value: Buffer) => void) => {
        handled++;
        answer(null, Buffer.alloc(0));
      },
    },
  );
  const pair = { cert_chain: Buffer.from(own.cert), private_key: Buffer.from(own.key) };
  const credentials = ServerCredentials.createSsl(Buffer.from(ca), [pair], true);
  const port = await new Promise<number>((resolve, reject) =>
    grpc.bindAsync('127.0.0.1:0', credentials, (error, bound) => (error ? reject(error) : resolve(bound))),
  );
  t.teardown(() => {
    grpc.forceShutdown();
    plain.close();
  });
  const { port: plainPort } = plain.address() as { port: number };
  const wanted = ['no extended key usage', 'CA:TRUE', 'keyCertSign', 'two URIs, one of them another identity'];
  for (const { what, change, threat } of FORGERIES.filter((row) => wanted.includes(row.what))) {
    const credential = forger.credential(forger.leaf('operator', change));
    const socket = connect({
      host: '127.0.0.1',
      port: plainPort,
      servername: 'coordinator',
      rejectUnauthorized: false,
      ...files(credential),
    });
    const [accepted] = (await once(plain, 'secureConnection')) as [TLSSocket];
    t.ok(accepted.authorized, `${threat}: ${what}: tls.createServer calls it authorized`);
    accepted.destroy();
    socket.destroy();
    const before = handled;
    t.equal(await createToken(t, `127.0.0.1:${port}`, credential), 'done');
    t.equal(handled, before + 1, `${threat}: ${what}: the handler of a grpc-js server runs`);
  }
});

test('A5 to A10: no forged certificate of a client gets anything from a coordinator, over gRPC and HTTPS', async (t) => {
  const { program, ready } = mesh.coordinator;
  const before = await tokens();
  const forged = cases('operator');
  t.ok(forged.length > 120, `${forged.length} can be presented`);
  for (const { name, credential, reason } of forged) {
    const outcome = await createToken(t, ready.address, credential);
    if (outcome === 'done') t.fail(`${name}: the call was answered`);
    else if (outcome.code === 16) t.match(outcome.details, either(reason, UNSENT), `${name}: gRPC says why`);
    else t.equal(outcome.code, 14, `${name}: the handshake failed`);
    const answer = await get(ready.address, '/metrics', files(credential)).catch(() => undefined);
    const why = either(reason, UNSENT);
    if (answer) t.match(answer, { status: 401, type: /problem\+json/, body: why }, `${name}: HTTPS says why`);
    const said = ({ event, reason: refusal, why: denial }: LogEvent) =>
      event === 'door.handshake_failed' || why.test(String(refusal)) || why.test(String(denial));
    t.ok(program.events.some(said), `${name}: the log says why`);
  }
  t.equal(await tokens(), before, 'and no row has changed');
  const good = forger.credential(forger.leaf('operator'));
  t.equal(await createToken(t, ready.address, good), 'done', 'while a good one, made the same way, does');
  t.equal(await tokens(), before + 1);
});

test('A10: an agent does not do what people do, and the log and the audit name it', async (t) => {
  const { program, ready } = mesh.coordinator;
  const before = await tokens();
  const outcome = await createToken(t, ready.address, forger.credential(forger.leaf('agent')));
  t.match(outcome, { code: 7, details: /agent\/box may not call/ });
  await program.logged('rpc.denied', (line) => line.caller === 'agent/box' && line.method === path);
  t.equal(await tokens(), before);
});

test('A8: a matching common name satisfies Node, and nobody here', async (t) => {
  const named: Change = (draft, ...rest) => ({
    ...withoutExtension(EXTENSION_OIDS.subjectAltName)(draft, ...rest),
    subject: nameDer(forger.meshId, 'coordinator'),
  });
  const credential = forger.credential(forger.leaf('coordinator', named));
  const { certificateChain: cert, privateKey: key } = credential;
  const rogue = await openRogue(t, { cert, key });
  const { host, port } = rogue.endpoint;
  const fooled = connect({ host, port, servername: 'coordinator', ca: credential.root, ALPNProtocols: ['h2'] });
  await once(fooled, 'secureConnect');
  t.ok(fooled.authorized, 'Node verifies it by its common name');
  fooled.destroy();
  const outcome = await createToken(t, `${host}:${port}`, forger.credential(forger.leaf('operator')));
  t.match(outcome, { code: 14 });
  t.same(rogue.heard, [], 'nothing was said to it');
});

test('A5 to A10: nothing that poses as a coordinator hears a word of a client', async (t) => {
  const expected = { roots: [forger.root.certificate], meshId: forger.meshId };
  const client = forger.credential(forger.leaf('operator'));
  const forged = cases('coordinator');
  t.ok(forged.length > 120, `${forged.length} can be presented`);
  for (const { name, credential, reason } of forged) {
    const rogue = await openRogue(t, { cert: credential.certificateChain, key: credential.privateKey });
    const { host, port } = rogue.endpoint;
    const { signal } = new AbortController();
    const refusal = await probeCoordinator(rogue.endpoint, expected, Date.now(), signal).then(
      () => 'accepted',
      (error: unknown) => (systemCode(error) === undefined ? (error as Error).message : HANDSHAKE),
    );
    t.match(refusal, either(reason, /^belongs to another mesh$/, new RegExp(`^${HANDSHAKE}$`)), `${name}: the probe`);
    t.match(await createToken(t, `${host}:${port}`, client), { code: 14 }, `${name}: the channel`);
    t.same(rogue.heard, [], `${name}: it heard nothing`);
  }
});

test('A5, A8, A9, A10: agents and commands refuse it in one line that says why', async (t) => {
  const token = await mesh.token();
  const other = new Forger(forger.meshId, Date.now());
  const wanted = ['expired', 'no alternative name', 'two URIs, one of them another identity', "an agent's usages"];
  const rows = FORGERIES.filter(({ what }) => wanted.includes(what)).map(({ what, change, reason }) => ({
    what,
    credential: forger.credential(forger.leaf('coordinator', change)),
    reason: reason as RegExp,
  }));
  const posing = forger.credential(forger.leaf('agent'));
  rows.push(
    {
      what: 'another mesh of the same name',
      credential: other.credential(other.leaf('coordinator')),
      reason: /belongs to another mesh/,
    },
    { what: 'an agent', credential: posing, reason: /role that may not stand here/ },
  );
  for (const { what, credential, reason } of rows) {
    const chain = `${credential.certificateChain}${credential.root}`;
    const rogue = await openRogue(t, { cert: chain, key: credential.privateKey });
    const address = `127.0.0.1:${rogue.endpoint.port}`;
    const command = await mesh.ca('list', '--coordinator', address);
    t.equal(command.code, 3, `${what}: a command`);
    t.match(command.stderr, /^mesh-ca: [^\n]+\n$/);
    t.match(command.stderr, reason);
    const data = mesh.folder(`agent-${rogue.endpoint.port}`);
    const agent = await mesh.run('agent', ['--data', data, '--join', token, '--coordinator', address, '--no-mdns']);
    t.equal(agent.code, 3, `${what}: mesh-agent`);
    t.match(agent.stderr, reason);
    t.notOk(existsSync(join(data, 'agent.crt')));
    t.same(rogue.heard, [], `${what}: it heard nothing, the token least of all`);
  }
});

test('A14: TLS 1.2 is what Node accepts by default, and is refused', async (t) => {
  const credential = forger.credential(forger.leaf('operator'));
  const plain = createServer({ ...files(forger.credential(forger.leaf('coordinator'))) });
  plain.listen(0, '127.0.0.1');
  await once(plain, 'listening');
  t.teardown(() => plain.close());
  const old = { host: '127.0.0.1', maxVersion: 'TLSv1.2', rejectUnauthorized: false, ...files(credential) } as const;
  const fine = connect({ ...old, port: (plain.address() as { port: number }).port });
  await once(fine, 'secureConnect');
  t.equal(fine.getProtocol(), 'TLSv1.2');
  fine.destroy();

  const { program, ready } = mesh.coordinator;
  const mark = program.mark();
  for (const maxVersion of ['TLSv1.2', 'TLSv1.1'] as const) {
    const port = Number(ready.address.split(':').at(-1));
    const refused = connect({ ...old, port, minVersion: 'TLSv1', maxVersion });
    t.ok((await once(refused, 'error'))[0], maxVersion);
  }
  await program.logged('door.handshake_failed', () => true, mark);
  // The other direction: what only speaks 1.2 is no coordinator.
  const { certificateChain: cert, privateKey: key } = forger.credential(forger.leaf('coordinator'));
  const rogue = await openRogue(t, { cert, key, maxVersion: 'TLSv1.2' });
  t.match(await createToken(t, `127.0.0.1:${rogue.endpoint.port}`, credential), { code: 14 });
  t.same(rogue.heard, []);
});
