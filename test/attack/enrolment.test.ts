/** What somebody can do with a join token that is not theirs, or with a good one before an operator has looked. */
import { existsSync } from 'node:fs';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer } from 'node:net';
import { join } from 'node:path';
import { Client, type ServiceError } from '@grpc/grpc-js';
import t, { before, type Test, test } from 'tap';
import { systemClock } from '../../common/clock.js';
import { fromServiceError } from '../../common/grpc-errors.js';
import { makeCsr } from '../../common/identity/csr.js';
import { makeKeyPair } from '../../common/identity/keys.js';
import { approvalPhrase } from '../../common/identity/phrase.js';
import { decodeToken, encodeToken } from '../../common/identity/token.js';
import { CredentialStore } from '../../link/credential-store.js';
import { channelCredentials, channelOptions } from '../../link/credentials.js';
import { AgentServiceService } from '../../proto/gen/mesh/v1/agent.js';
import { EnrollServiceClient, type JoinResponse } from '../../proto/gen/mesh/v1/enroll.js';
import type { WaitingShape } from '../../sdk/shapes.js';
import { eventually } from '../support/eventually.js';
import { type Mesh, type Page, startMesh } from '../support/mesh.js';
import type { Program } from '../support/program.js';

/** A coordinator that lets in whoever has a token, and one where operators approve. */
let open: Mesh;
let guarded: Mesh;

before(async () => {
  [open, guarded] = await Promise.all([startMesh(t), startMesh(t, { coordinator: ['--approve-nodes'] })]);
});

const trust = (mesh: Mesh) => {
  const root = new CredentialStore(mesh.profile, 'client').load()?.root ?? '';
  return channelCredentials({ root }, mesh.coordinator.ready.meshId, systemClock);
};

class Machine {
  readonly #pair = makeKeyPair();
  readonly csr = makeCsr(this.#pair.privateKey, 'whatever');

  constructor(
    private readonly mesh: Mesh,
    private readonly address = mesh.coordinator.ready.address,
  ) {}

  get phrase(): string {
    return approvalPhrase(this.mesh.coordinator.ready.caFingerprint, this.#pair.publicKeyDer);
  }

  /** One question to the coordinator, nothing between: the certificate, or the code of the refusal. */
  async ask(token: string, name = 'attic'): Promise<{ code?: string; chain?: string; message?: string }> {
    const client = new EnrollServiceClient(this.address, trust(this.mesh), channelOptions);
    try {
      const answer = await new Promise<JoinResponse>((resolve, reject) =>
        client.join({ token, csr: this.csr, name, issuerCsr: Buffer.alloc(0), roles: [] }, (error, response) =>
          error ? reject(fromServiceError(error)) : resolve(response),
        ),
      );
      return { chain: answer.certificateChain };
    } catch (error) {
      const { code, message } = fromServiceError(error);
      return { code, message };
    } finally {
      client.close();
    }
  }
}

/** The coordinator as it is seen from another address of this machine. */
async function from(t: Test, mesh: Mesh, localAddress: string): Promise<string> {
  const [host, port] = mesh.coordinator.ready.address.split(':') as [string, string];
  const relay = createServer((inner) => {
    const outer = connect({ host, port: Number(port), localAddress });
    for (const [a, b] of [
      [inner, outer],
      [outer, inner],
    ] as const)
      a.on('error', () => b.destroy()).pipe(b);
  }).listen(0, '127.0.0.1');
  await once(relay, 'listening');
  t.teardown(() => relay.close());
  return `127.0.0.1:${(relay.address() as AddressInfo).port}`;
}

async function agentCertificates(mesh: Mesh): Promise<number> {
  const { items } = (await mesh.ca('list', '--json')).json<Page<{ role: string }>>();
  return items.filter(({ role }) => role === 'agent').length;
}

const waiting = async (mesh: Mesh): Promise<WaitingShape[]> =>
  (await mesh.cli('nodes', '--waiting', '--json')).json<Page<WaitingShape>>().items;

/** Starts an agent that will have to wait, and gives the words it shows. */
async function launch(mesh: Mesh, name: string, token: string): Promise<{ program: Program; phrase: string }> {
  const data = mesh.folder(`agent-${name}`);
  const flags = ['--data', data, '--name', name, '--ready-file', join(mesh.root, 'ready', name), '--no-mdns'];
  const to = ['--coordinator', mesh.coordinator.ready.address, '--join', token, '--slots', '1'];
  const program = mesh.launch('agent', [...flags, ...to]);
  const { phrase } = await program.logged('join.waiting');
  return { program, phrase: String(phrase) };
}

test('A15: one token, fifty machines at once, each from an address of its own: exactly one certificate', async (t) => {
  const token = await open.token();
  const addresses = await Promise.all(Array.from({ length: 50 }, (_, i) => from(t, open, `127.0.9.${i + 1}`)));
  const before = await agentCertificates(open);
  const { program } = open.coordinator;
  const mark = program.mark();
  const answers = await Promise.all(addresses.map((address) => new Machine(open, address).ask(token)));
  t.equal(answers.filter(({ chain }) => chain !== undefined).length, 1);
  t.equal(answers.filter(({ code }) => code === 'TOKEN_REFUSED').length, 49);
  t.equal((await agentCertificates(open)) - before, 1);
  const refused = program.events.slice(mark).filter(({ event }) => event === 'enroll.refused');
  t.equal(new Set(refused.map(({ address }) => address)).size, 49, 'the log names each of them');
});

test('A15: the same key gets the same certificate again; an expired token buys nothing', async (t) => {
  const [token, brief] = await Promise.all([open.token('--name', 'replayed'), open.token('--ttl', '1s')]);
  const machine = new Machine(open);
  const first = await machine.ask(token);
  t.match(first.chain, /BEGIN CERTIFICATE/);
  t.same(await machine.ask(token), first);
  t.match(await new Machine(open).ask(token), { code: 'TOKEN_REFUSED', message: 'the token is spent' });
  const endMs = Date.now() + 1000;
  await eventually('the token to expire', () => Date.now() > endMs);
  t.match(await new Machine(open).ask(brief), { code: 'TOKEN_REFUSED', message: /^the token expired at 20/ });
});

test('A15: guessing secrets is slowed down per address, and nobody else with it', async (t) => {
  const [token, other] = await Promise.all([open.token(), open.token()]);
  const { id, rootDigest } = decodeToken(token);
  const [guesser, honest] = await Promise.all([from(t, open, '127.0.8.1'), from(t, open, '127.0.8.2')]);
  const codes: (string | undefined)[] = [];
  for (let i = 0; i < 30; i++) {
    const guess = encodeToken({ id, secret: i.toString(16).padStart(32, '0'), rootDigest });
    codes.push((await new Machine(open, guesser).ask(guess)).code);
  }
  t.same([...new Set(codes)], ['TOKEN_REFUSED', 'OVERLOADED']);
  t.match(await new Machine(open, guesser).ask(token), { code: 'OVERLOADED' }, 'the right one is of no use from there');
  t.match(await new Machine(open, honest).ask(other), { chain: /BEGIN CERTIFICATE/ });
});

test('A15: unprotected, a stolen token is a way in; where operators approve it buys a place in a queue', async (t) => {
  t.match(await new Machine(open).ask(await open.token(), 'thief'), { chain: /BEGIN CERTIFICATE/ });
  const before = await agentCertificates(guarded);
  const thief = new Machine(guarded);
  const token = await guarded.token();
  t.match(await thief.ask(token, 'thief'), { code: 'NOT_APPROVED' });
  t.match(await thief.ask(token, 'thief'), { code: 'NOT_APPROVED' }, 'however often it asks');
  t.equal(await agentCertificates(guarded), before);
  const client = new Client(guarded.coordinator.ready.address, trust(guarded), channelOptions);
  t.teardown(() => client.close());
  const empty = () => Buffer.alloc(0);
  for (const { path } of Object.values(AgentServiceService)) {
    const call = client.makeBidiStreamRequest(path, empty, empty);
    call.write({});
    call.end();
    const [error] = (await once(call, 'error')) as [ServiceError];
    t.equal(fromServiceError(error).code, 'UNAUTHENTICATED', `it may not call ${path}`);
  }
  t.equal((await guarded.cli('nodes', 'refuse', 'thief')).code, 0);
  t.match(await thief.ask(token, 'thief'), { code: 'DENIED' });
});

test('A15: the words tell the machine from whoever asks under its name; what is approved is a key', async (t) => {
  const token = await guarded.token('--uses', '2');
  const { program, phrase } = await launch(guarded, 'attic', token);
  const line = `mesh-agent: waiting for approval; phrase: ${phrase}; on the coordinator: mesh nodes approve attic\n`;
  await eventually('one line for people', () => program.stderr === line);
  const thief = new Machine(guarded);
  t.match(await thief.ask(token), { code: 'NOT_APPROVED', message: 'attic-2 waits for approval' });
  t.match(await waiting(guarded), [
    { name: 'attic', phrase },
    { name: 'attic-2', phrase: thief.phrase },
  ]);
  t.not(thief.phrase, phrase);
  const { events } = guarded.coordinator.program;
  const said = events.filter(({ event }) => event === 'enroll.waiting').map((line) => line.phrase);
  t.ok(said.includes(phrase) && said.includes(thief.phrase), 'the coordinator has come to the same words by itself');

  const mistaken = await guarded.cli('nodes', 'approve', 'attic-2', '--phrase', phrase);
  t.equal(mistaken.code, 1);
  t.match(mistaken.stderr, /^mesh: the words are not those of attic-2/);
  t.equal((await guarded.cli('nodes', 'approve', 'attic')).code, 2, 'nobody is let in without being asked about');
  const approved = await guarded.cli('nodes', 'approve', 'attic', '--json', '--phrase', phrase.toUpperCase());
  t.match(approved.json(), { name: 'attic', phrase, approved: true });
  t.match((await guarded.cli('nodes', 'approve', 'attic', '--yes')).code, 5, 'once');
  await eventually('the agent to work', async () => (await guarded.nodes()).some(({ name }) => name === 'attic'));
  t.match(await guarded.submit('--wait', '--', 'true'), { status: 'COMPLETED' });
  t.match(await thief.ask(token), { code: 'NOT_APPROVED' }, 'the other key is where it was');
  t.equal((await guarded.cli('nodes', 'refuse', 'attic-2')).code, 0);
});

test('A15: whoever waits keeps its key and its words over a kill, and is told when it is refused', async (t) => {
  const token = await guarded.token();
  const first = await launch(guarded, 'cellar', token);
  await first.program.kill();
  const second = await launch(guarded, 'cellar', token);
  t.equal(second.phrase, first.phrase);
  t.match(await waiting(guarded), [{ name: 'cellar', phrase: first.phrase }]);
  t.equal((await guarded.cli('nodes', 'refuse', 'cellar')).code, 0);
  t.equal((await second.program.ended).code, 4);
  t.match(second.program.stderr, /an operator has refused this machine \(cellar\)/);
  t.notOk(existsSync(join(guarded.root, 'agent-cellar', 'agent.crt')));

  const third = await launch(guarded, 'garage', await guarded.token());
  third.program.signal('SIGINT');
  t.equal((await third.program.ended).code, 130, 'Ctrl-C ends the wait');
});
