import {
  credentials,
  Server,
  type ServerDuplexStream,
  type StatusObject,
  status,
  type UntypedHandleCall,
} from '@grpc/grpc-js';
import { test } from 'tap';
import { silentLogger } from '../../common/log.js';
import {
  type AgentHello,
  AgentServiceClient,
  AgentServiceService,
  type SessionRequest,
  type Assign,
  type SessionResponse,
  type Welcome,
} from '../../proto/gen/mesh/v1/agent.js';
import { assignOf, endOf, makeWork, processBody, reconciled, refsOf, turn } from '../../test/support/agent-work.js';
import { emptyRefs } from '../core/refs.js';
import { LoadMeter } from './load.js';
import { Session } from './session.js';
import { serveHere } from '../../test/support/serve-here.js';

type Answer = NonNullable<SessionResponse['body']>;
type Message = NonNullable<SessionRequest['body']>;

/** The other end of one session: what came, and what the test answers. */
class Peer {
  readonly received: Message[] = [];
  #stream: ServerDuplexStream<SessionRequest, SessionResponse> | undefined;
  #changed: () => void = () => undefined;

  handle = (stream: ServerDuplexStream<SessionRequest, SessionResponse>): void => {
    this.#stream = stream;
    stream.on('data', ({ body }: SessionRequest) => {
      if (body) this.received.push(body);
      this.#changed();
    });
    stream.on('end', () => stream.end());
    stream.on('error', () => undefined);
  };

  get kinds(): string[] {
    return this.received.map(({ $case }) => $case);
  }

  /** Waits until so many messages came, and gives the kinds of all. */
  async heard(count: number): Promise<string[]> {
    while (this.received.length < count) await new Promise<void>((resolve) => (this.#changed = resolve));
    return this.kinds;
  }

  say(...answers: Answer[]): void {
    for (const body of answers) this.#stream?.write({ body });
  }

  fail(error: Partial<StatusObject>): void {
    this.#stream?.emit('error', error);
  }
}

const welcome = (epoch = 1): Answer => ({
  $case: 'welcome',
  value: {
    ...{ protocol: 1, epoch, nodeId: 'n1', name: 'a1', leaseMs: 15_000, heartbeatMs: 1000 },
    ...{ superseded: undefined, coordinators: [], draining: false, readopted: undefined },
  },
});

const replyTo = (sequence: number, epoch = 1): Answer => ({
  $case: 'heartbeatReply',
  value: { sequence, pingUs: 5, epoch, draining: false, coordinators: [], renew: 0 },
});

async function setup(t: Parameters<typeof makeWork>[0]) {
  const peer = new Peer();
  const server = new Server();
  const unused: UntypedHandleCall = () => undefined;
  server.addService(AgentServiceService, { session: peer.handle, streamLogs: unused, fetchBlob: unused });
  const address = await serveHere(server);
  const client = new AgentServiceClient(address, credentials.createInsecure());
  t.teardown(() => {
    client.close();
    server.forceShutdown();
  });
  const parts = makeWork(t, 2);
  const epochs: number[] = [];
  const { lease } = parts;
  const coordinators: string[][] = [];
  let onEpoch: () => void = () => undefined;
  const hello: AgentHello = {
    ...{
      protocol: { min: 1, max: 1 },
      bootId: 'boot',
      version: '1',
      capabilities: undefined,
      epoch: 0,
    },
    ...parts.work.report(),
  };
  const session = new Session({
    ...{ client, hello, work: parts.work, lease, load: new LoadMeter(), clock: parts.clock, log: silentLogger },
    ...{ time: parts.time, fence: parts.fence, onCoordinators: (list, source) => coordinators.push([source, ...list]) },
    epoch: () => Math.max(0, ...epochs),
    onEpoch: (epoch) => {
      epochs.push(epoch);
      onEpoch();
    },
  });
  /** Waits until the epoch was heard so many times. */
  const heardEpochs = async (count: number): Promise<void> => {
    while (epochs.length < count) await new Promise<void>((resolve) => (onEpoch = resolve));
  };
  return { ...parts, peer, session, epochs, coordinators, heardEpochs };
}

type Parts = Awaited<ReturnType<typeof setup>>;

/** Through hello and welcome. */
async function open({ session, peer, work }: Parts, epoch = 1): Promise<void> {
  const opened = session.open();
  await peer.heard(1);
  peer.say(welcome(epoch));
  await opened;
  await work.connected(session, reconciled());
  session.listen();
}

test('runs are for coordinators that chose the version which has them', async (t) => {
  const run = { job: 1, first: 0, ageMs: 0, runUs: [1], resultsJson: [''] };
  for (const [protocol, ofFunctions, ofCommands] of [
    [3, false, false],
    [4, true, false],
    [5, true, true],
  ] as const) {
    const { session, peer } = await setup(t);
    const opened = session.open();
    await peer.heard(1);
    peer.say({ $case: 'welcome', value: { ...(welcome() as Extract<Answer, { $case: 'welcome' }>).value, protocol } });
    await opened;
    t.equal(session.takesRun(run), ofFunctions);
    t.equal(session.takesRun({ ...run, exitCode: 0 }), ofCommands);
  }
});

test('hello comes first, and nothing else before the welcome', async (t) => {
  const parts = await setup(t);
  const { session, peer, work, executor } = parts;
  work.assign(assignOf(1, [0, 1], [processBody(1)]));
  const opened = session.open();
  t.strictSame(await peer.heard(1), ['hello']);
  t.match(peer.received[0], { value: { bootId: 'boot' } });
  executor.launch(0).observer.ended(0, endOf());
  await turn();
  // What comes right behind the welcome waits until its reader is ready.
  peer.say(welcome(), { $case: 'cancel', value: refsOf([1, 1, 1]) });
  t.match(await opened, { name: 'a1', heartbeatMs: 1000 });
  await turn();
  t.strictSame(peer.kinds, ['hello']);
  t.strictSame(executor.launch(1).stopped, []);
  session.beat(1000);
  await work.connected(session, reconciled());
  session.listen();
  t.strictSame(await peer.heard(3), ['hello', 'heartbeat', 'finished']);
  session.abandon('enough');
});

test('a leader of a lower epoch than one that was obeyed ends the session and does nothing', async (t) => {
  const former = (epoch: number): Answer[] => [
    { $case: 'assign', value: assignOf(1, [0], [processBody(1)], 1, epoch) },
    replyTo(1, epoch),
  ];
  for (const message of former(4)) {
    const parts = await setup(t);
    const { peer, executor, session, lease } = parts;
    await open(parts, 5);
    session.beat(1000);
    await peer.heard(2);
    peer.say(message);
    t.match(await session.ended, { code: 'UNREACHABLE', message: /former leader spoke \(epoch 4, now 5\)/ });
    t.equal(executor.launches.length, 0);
    t.equal(lease.endsAtMs, 15_000, 'only the hello counts');
  }
  const parts = await setup(t);
  const { peer, executor, session, heardEpochs } = parts;
  await open(parts, 5);
  session.beat(1000);
  await peer.heard(2);
  peer.say(replyTo(1, 7), { $case: 'assign', value: assignOf(2, [1], [processBody(2)], 1, 8) });
  await heardEpochs(3);
  t.strictSame(executor.launch(0).refs, ['2.1.1']);
  peer.say({ $case: 'assign', value: assignOf(2, [2], [], 1, 7) });
  t.match(await session.ended, { message: /epoch 7, now 8/ });
});

test('a welcome of a lower epoch is none', async (t) => {
  const { session, peer, epochs } = await setup(t);
  epochs.push(9);
  const opened = session.open();
  await peer.heard(1);
  peer.say(welcome(8));
  await t.rejects(opened, { code: 'UNREACHABLE', message: /former leader answered/ });
});

const column = { jobs: [1, 1], indexes: [0], generations: [1, 1] };
const granting = (value: object): Answer => ({
  $case: 'welcome',
  value: { ...(welcome().value as Welcome), ...value },
});

const beforeWelcome: [string, Answer, RegExp][] = [
  ['an assignment', { $case: 'assign', value: assignOf(1, [0], [processBody(1)]) }, /"assign" before its welcome/],
  ['a cancellation', { $case: 'cancel', value: refsOf() }, /"cancel" before its welcome/],
  ['a heartbeat reply', replyTo(0), /before its welcome/],
  ['no lease', granting({ leaseMs: 0 }), /a lease of 0 ms/],
  ['no heartbeat', granting({ heartbeatMs: 0 }), /heartbeat every 0 ms/],
  ['uneven columns', granting({ superseded: column }), /columns of different lengths/],
  [
    'attempts without their new generations',
    granting({ readopted: { attempts: refsOf([1, 0, 1]), generations: [] } }),
    /columns of different lengths/,
  ],
];

for (const [what, message, reason] of beforeWelcome) {
  test(`instead of a welcome ${what}: the session ends and nothing is done`, async (t) => {
    const { session, peer, executor, lease } = await setup(t);
    const before = lease.endsAtMs;
    const opened = session.open();
    await peer.heard(1);
    peer.say(message);
    await t.rejects(opened, { code: 'UNREACHABLE', message: reason });
    t.equal(executor.launches.length, 0);
    t.equal(lease.endsAtMs, before);
  });
}

const uneven: Assign = { epoch: 1, bodies: [processBody(1)], groups: [], secrets: [] };
const group = { job: 1, indexes: [0, 1], generations: [1, 1], attempts: [], inputs: [] };

const afterWelcome: [string, Answer, RegExp][] = [
  ['a second welcome', welcome(), /second welcome/],
  ['a reply to nothing', replyTo(99), /never sent/],
  ['uneven references', { $case: 'cancel', value: column }, /"cancel" with columns/],
  [
    'uneven acknowledgements of runs',
    { $case: 'finishedRunsAck', value: { jobs: [1, 2], firsts: [0, 0], counts: [1] } },
    /"finishedRunsAck" with columns/,
  ],
  [
    'acknowledgements without end',
    { $case: 'finishedRunsAck', value: { jobs: [1], firsts: [0], counts: [2 ** 32 - 1] } },
    /acknowledged 4294967295 tasks/,
  ],
  ['uneven acknowledgements', { $case: 'finishedAck', value: column }, /"finishedAck" with columns/],
  [
    'tasks without generations',
    { $case: 'assign', value: { ...uneven, groups: [{ ...group, generations: [1] }] } },
    /assignment with columns/,
  ],
  [
    'tasks with too few attempts',
    { $case: 'assign', value: { ...uneven, groups: [group, { ...group, attempts: [1] }] } },
    /assignment with columns/,
  ],
  [
    'a job nobody knows, behind one that is known',
    { $case: 'assign', value: { ...uneven, groups: [group, { ...group, job: 2 }] } },
    /job 2 without having said/,
  ],
];

for (const [what, message, reason] of afterWelcome) {
  test(`${what}: the session ends and nothing is done`, async (t) => {
    const parts = await setup(t);
    const { session, peer, executor, work } = parts;
    await open(parts);
    peer.say(message);
    t.match(await session.ended, { code: 'UNREACHABLE', message: reason });
    t.equal(executor.launches.length, 0);
    t.strictSame(work.report().prefilled, refsOf());
  });
}

test('a process that stood still for longer than its lease says nothing more', async (t) => {
  const parts = await setup(t);
  const { session, peer, clock } = parts;
  await open(parts);
  clock.advance(15_000);
  session.started([{ job: 1, index: 0, generation: 1, ageMs: 5 }]);
  t.match(await session.ended, { code: 'UNREACHABLE', message: /lease ended/ });
  t.strictSame(peer.kinds, ['hello']);
});

test('after a sleep what is to stop is killed first, then the session ends; it hears nothing either', async (t) => {
  const parts = await setup(t);
  const { session, peer, boot, work, executor } = parts;
  await open(parts);
  work.assign({ ...assignOf(1, [0], [{ ...processBody(1), onDisconnect: 2 }]) });
  boot.sleptMs = 20_000;
  peer.say({ $case: 'assign', value: assignOf(2, [0], [processBody(2)]) });
  t.match(await session.ended, { message: 'the machine was asleep' });
  t.strictSame(executor.launch(0).stopped, [{ position: 0, reason: 'fenced' }]);
  t.equal(executor.launches.length, 1);
  t.strictSame(peer.kinds, ['hello']);
});

test('a short sleep ends the session, not the work', async (t) => {
  const parts = await setup(t);
  const { session, boot, work, executor } = parts;
  await open(parts);
  work.assign({ ...assignOf(1, [0], [{ ...processBody(1), onDisconnect: 2 }]) });
  boot.sleptMs = 5000;
  session.beat(1000);
  t.match(await session.ended, { message: 'the machine was asleep' });
  t.strictSame(executor.launch(0).stopped, []);
});

test('heartbeats that are not answered end the session', async (t) => {
  const parts = await setup(t);
  const { session, peer, clock, lease } = parts;
  await open(parts);
  session.beat(1000);
  clock.advance(2000);
  t.strictSame(await peer.heard(4), ['hello', 'heartbeat', 'heartbeat', 'heartbeat']);
  clock.advance(1000);
  const reason = await session.ended;
  t.match(reason, { code: 'UNREACHABLE', message: '3 heartbeats in a row were not answered' });
  t.equal(lease.endsAtMs, 15_000, 'the welcome answered the hello, nothing came after it');
  t.strictSame(clock.waiting, [], 'it beats no more');
});

test('answered heartbeats keep it, and renew the lease from when they were sent', async (t) => {
  const parts = await setup(t);
  const { session, peer, clock, lease, heardEpochs } = parts;
  await open(parts);
  session.beat(1000);
  for (let sequence = 1; sequence <= 8; sequence++) {
    await peer.heard(1 + sequence);
    clock.advance(400);
    peer.say(replyTo(sequence));
    await heardEpochs(1 + sequence);
    t.equal(lease.endsAtMs, (sequence - 1) * 1000 + 15_000);
    clock.advance(600);
  }
  await peer.heard(10);
  t.match(peer.received[9], { value: { sequence: 9, running: 0, queued: 0, echoUs: 5, echoHeldUs: 600_000 } });
  session.abandon('enough');
  t.match(await session.ended, { message: 'enough' });
});

test('a hello without an answer is given up', async (t) => {
  const { session, peer, clock } = await setup(t);
  const opened = session.open();
  await peer.heard(1);
  clock.advance(10_000);
  await t.rejects(opened, { code: 'TIMED_OUT' });
  t.match(await session.ended, { code: 'TIMED_OUT' });
});

test('a hello that is refused fails with the coordinator’s reason', async (t) => {
  const { session, peer, clock } = await setup(t);
  const opened = session.open();
  await peer.heard(1);
  peer.fail({ code: status.PERMISSION_DENIED, details: 'this node was revoked' });
  await t.rejects(opened, { message: /this node was revoked/ });
  t.strictSame(clock.waiting, [], 'nothing is left waiting');
});

test('a goodbye ends it with the reason; a close of ours ends it after everything was read', async (t) => {
  const told = await setup(t);
  await open(told);
  told.peer.say({ $case: 'goodbye', value: { reason: 'it stops', permanent: false, coordinators: [] } });
  t.match(await told.session.ended, { code: 'UNREACHABLE', message: /it stops/ });
  t.notOk(told.session.dismissed);
  const dismissed = await setup(t);
  await open(dismissed);
  const coordinators = ['192.0.2.1:7443', '192.0.2.2:7443'];
  dismissed.peer.say({ $case: 'goodbye', value: { reason: 'go', permanent: true, coordinators } });
  await dismissed.session.ended;
  t.ok(dismissed.session.dismissed);
  t.strictSame(dismissed.coordinators, [['goodbye', ...coordinators]]);

  const closing = await setup(t);
  await open(closing);
  closing.session.started([{ job: 1, index: 0, generation: 1, ageMs: 5 }]);
  await closing.session.close();
  t.strictSame(closing.peer.kinds, ['hello', 'started']);
  closing.session.retracted(refsOf([1, 0, 1]), emptyRefs());
  await closing.session.finished({ items: [], runs: [] });
  t.strictSame(closing.peer.kinds, ['hello', 'started'], 'nothing is written to one that is over');
});
