/**
 * An agent gone bad, with a certificate that is in order: it floods its session, reads nothing, or sends garbage; and
 * garbage to every method from whoever may call it. It harms itself; the coordinator and the other agent do not notice.
 */
import { once } from 'node:events';
import { Client, type ServiceError } from '@grpc/grpc-js';
import t, { before, test } from 'tap';
import { METHOD_ROLES } from '../../coordinator/rpc/roles.js';
import { channelCredentials, channelOptions, type Credential } from '../../link/credentials.js';
import { AgentServiceClient, Outcome, type SessionRequest } from '../../proto/gen/mesh/v1/agent.js';
import { readProfile } from '../../sdk/profile.js';
import { credentialIn, endures } from '../support/attacker.js';
import { heartbeat, hello, type Session } from '../support/front.js';
import { type Mesh, startMesh } from '../support/mesh.js';
import { SeededRandom } from '../support/random.js';

let mesh: Mesh;
let bad: Credential;

before(async () => {
  mesh = await startMesh(t, { agents: ['good'] });
  const agent = await mesh.startAgent('bad');
  // What the attacker has is its certificate; the program has left in good order.
  await agent.program.stop();
  bad = credentialIn(agent.dataDir, 'agent');
});

const client = <C extends Client>(
  make: new (target: string, credentials: ReturnType<typeof channelCredentials>, options: object) => C,
  credential: Credential,
): C => {
  const { meshId } = readProfile(mesh.profile);
  const made = new make(
    `ipv4:${mesh.coordinator.ready.address}`,
    channelCredentials(credential, meshId),
    channelOptions,
  );
  t.teardown(() => made.close());
  return made;
};

/** Says these for as long as they are taken, up to a number; returns how many were. */
async function flood(session: Session, count: number, message: (i: number) => SessionRequest): Promise<number> {
  const over = new Promise<boolean>((resolve) => session.once('close', () => resolve(true)));
  for (let i = 0; i < count; i++) {
    if (session.destroyed) return i;
    if (session.write(message(i))) continue;
    const stuck = new Promise<boolean>((resolve) => setTimeout(() => resolve(true), 5000).unref());
    const stopped = await Promise.race([once(session, 'drain').then(() => false), over, stuck]).catch(() => true);
    if (stopped) return i;
  }
  return count;
}

const finished = (i: number): SessionRequest => ({
  body: {
    $case: 'finished',
    value: {
      items: Array.from({ length: 1000 }, (_, position) => ({
        ...{
          job: 1 + i,
          index: position,
          generation: 1,
          outcome: Outcome.SUCCEEDED,
          exitCode: 0,
          signal: '',
          error: '',
        },
        ...{ runUs: 1, ageMs: 0, peakMemoryBytes: undefined, resultJson: 'x'.repeat(1000), output: undefined },
      })),
      runs: [],
    },
  },
});

/** A session that was welcomed. */
async function greeted(): Promise<Session> {
  const session = client(AgentServiceClient, bad).session();
  session.on('error', () => undefined);
  session.write(hello(`boot-${Math.random()}`));
  await once(session, 'data');
  return session;
}

const silence = (session: Session): void => {
  session.on('data', () => undefined).on('error', () => undefined);
};

test('A18: an agent that floods its session slows itself down and nobody else', async (t) => {
  const kinds: [string, number, (i: number) => SessionRequest][] = [
    ['heartbeats', 100_000, (i) => heartbeat({ sequence: i })],
    ['results of tasks that are not its own', 150, finished],
    [
      'beginnings',
      20_000,
      (i) => ({ body: { $case: 'started', value: { items: [{ job: 1, index: i, generation: 1, ageMs: 0 }] } } }),
    ],
  ];
  for (const [what, count, message] of kinds) {
    const flooding = async () => {
      const session = await greeted();
      silence(session);
      t.comment(`${what}: ${await flood(session, count, message)} of ${count} were taken`);
      session.cancel();
    };
    await endures(t, mesh, 200, flooding, 'bad');
  }
});

test('A18: an agent that asks and never reads', async (t) => {
  const asking = async () => {
    const session = await greeted();
    session.pause();
    t.comment(`${await flood(session, 100_000, (i) => heartbeat({ sequence: i }))} were taken`);
    session.cancel();
  };
  await endures(t, mesh, 150, asking, 'bad');
});

test('A18: an agent that begins sessions all the time is told to come back', async (t) => {
  const agents = client(AgentServiceClient, bad);
  const begin = () =>
    new Promise<ServiceError | undefined>((resolve) => {
      const session = agents.session();
      session
        .on('error', resolve)
        .on('data', () => undefined)
        .on('end', () => resolve(undefined));
      session.write(hello(`boot-${Math.random()}`));
      session.end();
    });
  const beginning = async () => {
    const refusals: ServiceError[] = [];
    for (let i = 0; i < 100; i++) {
      const refusal = await begin();
      if (refusal?.code === 8) refusals.push(refusal);
    }
    t.ok(refusals.length > 20);
    t.match(refusals[0]?.details, 'agent/bad begins sessions more often than 60/min');
  };
  await endures(t, mesh, 100, beginning, 'bad');
  await mesh.coordinator.program.logged('caller.throttled', ({ caller }) => caller === 'agent/bad');
});

test('A16: garbage to every method, and on the session stream', async (t) => {
  const random = new SeededRandom(20261128);
  t.comment(`seed ${random.seed}`);
  const garbage = (): Buffer =>
    Buffer.from(Array.from({ length: random.integer(0, 400) }, () => random.integer(0, 255)));
  const operator = credentialIn(mesh.profile, 'client');
  const mark = mesh.coordinator.program.mark();
  const raw = (value: Buffer): Buffer => value;
  const sending = async () => {
    for (const [role, credential] of [
      ['operator', operator],
      ['agent', bad],
    ] as const) {
      const sender = client(Client, credential);
      for (const [path, roles] of Object.entries(METHOD_ROLES)) {
        if (!roles.includes(role)) continue;
        const once = () =>
          new Promise<void>((resolve) => {
            const stream = sender.makeBidiStreamRequest(path, raw, raw, { deadline: Date.now() + 20_000 });
            stream
              .on('data', () => undefined)
              .on('end', resolve)
              .on('error', () => resolve());
            for (let messages = random.integer(1, 3); messages > 0; messages--) stream.write(garbage());
            stream.end();
          });
        await Promise.all(Array.from({ length: 30 }, once));
      }
    }
  };
  await endures(t, mesh, 150, sending, 'bad');
  const defects = mesh.coordinator.program.events.slice(mark).filter(({ event }) => event === 'rpc.failed');
  t.strictSame(defects, [], 'nothing of it is a defect');
});
