import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test, type Test } from 'tap';
import { MeshError } from '../common/errors.js';
import { toStatus } from '../common/grpc-errors.js';
import { readCsr } from '../common/identity/csr.js';
import { approvalPhrase } from '../common/identity/phrase.js';
import { encodeToken } from '../common/identity/token.js';
import { silentLogger } from '../common/log.js';
import { type Clock, systemClock } from '../common/clock.js';
import { EnrollServiceService, type JoinRequest } from '../proto/gen/mesh/v1/enroll.js';
import { ManualClock } from '../test/support/manual-clock.js';
import { openTestDoor } from '../test/support/test-door.js';
import { makeTestMesh } from '../test/support/test-mesh.js';
import type { Credential } from '../link/credentials.js';
import {
  enrol,
  type EnrolmentOptions,
  rememberCoordinators,
  rememberedCoordinators,
  type WaitingForApproval,
} from './enrolment.js';

const mesh = makeTestMesh();
const token = encodeToken({ id: 'ab'.repeat(6), secret: 'cd'.repeat(16), rootDigest: mesh.rootDigest });

const options = (dataDir: string, over: Partial<EnrolmentOptions> = {}): EnrolmentOptions => ({
  ...{ dataDir, token: undefined, files: { cert: undefined, key: undefined, ca: undefined } },
  ...{ name: 'attic', coordinator: undefined, discover: false, clock: systemClock, log: silentLogger },
  signal: new AbortController().signal,
  onWaiting: () => undefined,
  ...over,
});

/** The first questions follow each other at once; a probe has its four seconds. */
const impatient: Clock = {
  ...systemClock,
  after: (delayMs, fire, more) => systemClock.after(delayMs < 4000 ? 0 : delayMs, fire, more),
};

/** A coordinator that lets everybody in with this token, or answers with an error. */
async function coordinator(t: Test, refusal: () => MeshError | undefined = () => undefined) {
  const asked: JoinRequest[] = [];
  const endpoint = await openTestDoor(t, mesh, (server) => {
    server.addService(EnrollServiceService, {
      join: (call: { request: JoinRequest }, done: (error: object | null, value?: unknown) => void) => {
        asked.push(call.request);
        const refused = refusal();
        if (refused) return done(toStatus(refused));
        const { pem } = mesh.authority.issue({
          ...{ csrDer: call.request.csr, role: 'agent', name: call.request.name, nowMs: Date.now() },
        });
        const root = mesh.authority.rootPem;
        done(null, {
          ...{ certificateChain: pem, root, name: call.request.name, role: 'agent', meshId: mesh.meshId },
          coordinators: ['10.0.0.9:7443'],
        });
      },
    });
  });
  return { endpoint, asked };
}

const write = (folder: string, credential: Credential) => {
  const files = { cert: join(folder, 'a.crt'), key: join(folder, 'a.key'), ca: join(folder, 'ca.crt') };
  writeFileSync(files.cert, credential.certificateChain);
  writeFileSync(files.key, credential.privateKey);
  writeFileSync(files.ca, credential.root);
  return files;
};

test('the first start joins with the token; the next needs none; the key is private and the token nowhere', async (t) => {
  const { endpoint, asked } = await coordinator(t);
  const dataDir = t.testdir();
  const first = await enrol(options(dataDir, { token, coordinator: endpoint }));
  t.match(first.identity, { role: 'agent', name: 'attic', meshId: mesh.meshId });
  const again = await enrol(options(dataDir));
  t.equal(again.credential.certificateChain, first.credential.certificateChain);
  await enrol(options(dataDir, { token, coordinator: endpoint }));
  t.equal(asked.length, 1, 'a token that is given again is not spent again');
  t.equal(statSync(join(dataDir, 'agent.key')).mode & 0o777, 0o600);
  t.same(rememberedCoordinators(dataDir), [`127.0.0.1:${endpoint.port}`, '10.0.0.9:7443']);
  for (const name of readdirSync(dataDir)) t.notMatch(readFileSync(join(dataDir, name), 'utf8'), token, name);
});

test('a join that is interrupted is repeated with the same key, so that it costs one use', async (t) => {
  const dataDir = t.testdir();
  const failing = await coordinator(t, () => new MeshError('TOKEN_REFUSED', 'the token is spent'));
  await t.rejects(enrol(options(dataDir, { token, coordinator: failing.endpoint })), { code: 'TOKEN_REFUSED' });
  const { endpoint, asked } = await coordinator(t);
  await enrol(options(dataDir, { token, coordinator: endpoint }));
  const keyOf = ([request]: JoinRequest[]) => readCsr(request?.csr ?? new Uint8Array()).publicKeyDer;
  t.same(keyOf(asked), keyOf(failing.asked));
});

test('where an operator approves it says its words once and asks, with one key, until it is decided', async (t) => {
  const answers: (MeshError | undefined)[] = [
    new MeshError('NOT_APPROVED', 'attic waits for approval', { hint: 'mesh nodes approve attic' }),
    new MeshError('OVERLOADED', 'too much at once'),
  ];
  const { endpoint, asked } = await coordinator(t, () => answers[asked.length - 1]);
  const said: WaitingForApproval[] = [];
  const enrolled = await enrol(
    options(t.testdir(), {
      ...{ token, coordinator: endpoint, clock: impatient },
      onWaiting: (waiting) => said.push(waiting),
    }),
  );
  t.equal(asked.length, 3);
  const keys = new Set(asked.map(({ csr }) => readCsr(csr).digest));
  t.equal(keys.size, 1);
  const { publicKeyDer } = readCsr(asked[0]?.csr ?? Buffer.alloc(0));
  t.same(said, [{ phrase: approvalPhrase(mesh.rootDigest, publicKeyDer), hint: 'mesh nodes approve attic' }]);
  t.equal(enrolled.identity.name, 'attic');
});

test('trouble before it was told to wait, and a refusal after, end it', async (t) => {
  const busy = await coordinator(t, () => new MeshError('OVERLOADED', 'too much at once'));
  await t.rejects(enrol(options(t.testdir(), { token, coordinator: busy.endpoint })), { code: 'UNREACHABLE' });
  const answers = [new MeshError('NOT_APPROVED', 'waits'), new MeshError('DENIED', 'an operator has refused')];
  const refusing = await coordinator(t, () => answers[refusing.asked.length - 1]);
  const around = { token, coordinator: refusing.endpoint, clock: impatient };
  await t.rejects(enrol(options(t.testdir(), around)), { code: 'DENIED' });
});

test('files of mesh-ca serve instead of a token; what was renewed since stays; all three belong together', async (t) => {
  const folder = t.testdir({ files: {}, data: {} });
  const dataDir = join(folder, 'data');
  const short = mesh.credential('agent', 'attic', { lifetimeMs: 3_600_000 });
  const files = write(join(folder, 'files'), short);
  t.equal((await enrol(options(dataDir, { files }))).identity.name, 'attic');
  const renewed = mesh.credential('agent', 'attic', { lifetimeMs: 86_400_000 });
  (await enrol(options(dataDir))).store.save(renewed);
  t.equal((await enrol(options(dataDir, { files }))).credential.certificateChain, renewed.certificateChain);
  await t.rejects(enrol(options(dataDir, { files: { ...files, key: undefined } })), {
    code: 'USAGE',
    message: /go together/,
  });
  await t.rejects(enrol(options(dataDir, { files: { ...files, key: '/nowhere' } })), {
    code: 'USAGE',
    message: /cannot read \/nowhere \(ENOENT\)/,
  });
});

test('a certificate that will not do is refused here, with the reason, before anybody is asked', async (t) => {
  const folder = t.testdir({ files: {} });
  const wrong = write(join(folder, 'files'), mesh.credential('operator', 'anna'));
  await t.rejects(enrol(options(join(folder, 'data'), { files: wrong })), { code: 'BAD_CERTIFICATE' });
});

test('no way in without a token; a certificate that has ended is kept, for the first dial to mend', async (t) => {
  const dataDir = t.testdir();
  await t.rejects(enrol(options(dataDir)), { code: 'USAGE', hint: /mesh token create/ });
  const { endpoint } = await coordinator(t);
  await enrol(options(dataDir, { token, coordinator: endpoint }));
  const later = new ManualClock(Date.now() + 400 * 86_400_000);
  const { identity } = await enrol(options(dataDir, { clock: later }));
  t.match(identity, { name: 'attic' });
});

test('a token of another mesh does not get this data directory', async (t) => {
  const dataDir = t.testdir();
  const { endpoint } = await coordinator(t);
  await enrol(options(dataDir, { token, coordinator: endpoint }));
  const foreign = makeTestMesh('other-mesh');
  const { rootDigest } = foreign;
  const other = encodeToken({ id: 'ab'.repeat(6), secret: 'cd'.repeat(16), rootDigest });
  const there = await openTestDoor(t, foreign);
  await t.rejects(enrol(options(dataDir, { token: other, coordinator: there })), {
    code: 'CONFLICT',
    message: /belongs to the mesh test-mesh, the token to other-mesh/,
  });
});

test('remembered addresses are a hint: a damaged file is none', async (t) => {
  const dataDir = t.testdir();
  t.same(rememberedCoordinators(dataDir), []);
  rememberCoordinators(dataDir, ['a:1', 'b:2']);
  t.same(rememberedCoordinators(dataDir), ['a:1', 'b:2']);
  for (const damaged of ['{', '{"a":1}', '[1, null, "c:3"]']) {
    writeFileSync(join(dataDir, 'coordinators.json'), damaged);
    t.same(rememberedCoordinators(dataDir), damaged.startsWith('[') ? ['c:3'] : []);
  }
});
