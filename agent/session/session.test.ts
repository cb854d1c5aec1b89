import {
  credentials,
  Server,
  ServerCredentials,
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
  type SessionResponse,
} from '../../proto/gen/mesh/v1/agent.js';
import { assignOf, endOf, makeWork, processBody, refsOf, turn } from '../../test/support/agent-work.js';
import { emptyRefs } from '../core/ledger.js';
import { LeaseClock } from '../core/lease.js';
import { LoadMeter } from './load.js';
import { Session } from './session.js';

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
  value: { sequence, pingUs: 5, epoch, draining: false, coordinators: [] },
});

async function setup(t: Parameters<typeof makeWork>[0]) {
  const peer = new Peer();
  const server = new Server();
  const unused: UntypedHandleCall = () => undefined;
  server.addService(AgentServiceService, { session: peer.handle, streamLogs: unused, fetchBlob: unused });
  const port = await new Promise<number>((resolve, reject) =>
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, bound) =>
      error ? reject(error) : resolve(bound),
    ),
  );
  const client = new AgentServiceClient(`127.0.0.1:${port}`, credentials.createInsecure());
  t.teardown(() => {
    client.close();
    server.forceShutdown();
  });
  const parts = makeWork(t, 2);
  const epochs: number[] = [];
  const lease = new LeaseClock(15_000);
  let onEpoch: () => void = () => undefined;
  const hello: AgentHello = {
    ...{
      protocol: { min: 1, max: 1 },
      bootId: 'boot',
      version: '1',
      capabilities: undefined,
      epoch: 0,
      runningAgeMs: [],
    },
    ...parts.work.report(),
  };
  const session = new Session({
    ...{ client, hello, work: parts.work, lease, load: new LoadMeter(), clock: parts.clock, log: silentLogger },
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
  return { ...parts, peer, session, lease, epochs, heardEpochs };
}

type Parts = Awaited<ReturnType<typeof setup>>;

/** Through hello and welcome. */
async function open({ session, peer, work }: Parts, epoch = 1): Promise<void> {
  const opened = session.open();
  await peer.heard(1);
  peer.say(welcome(epoch));
  await opened;
  await work.connected(session, emptyRefs());
  session.listen();
}

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
  await work.connected(session, emptyRefs());
  session.listen();
  t.strictSame(await peer.heard(3), ['hello', 'heartbeat', 'finished']);
  session.abandon('enough');
});

test('an assignment of a lower epoch is refused', async (t) => {
  const parts = await setup(t);
  const { peer, executor, heardEpochs, session } = parts;
  await open(parts, 5);
  peer.say({ $case: 'assign', value: assignOf(1, [0], [processBody(1)], 1, 4) });
  peer.say({ $case: 'assign', value: assignOf(2, [0], [processBody(2)], 1, 5) });
  await heardEpochs(2);
  t.strictSame(
    executor.launches.map(({ refs }) => refs),
    [['2.0.1']],
  );
  peer.say(replyTo(1, 7), { $case: 'assign', value: assignOf(2, [1], [], 1, 6) }, replyTo(1, 7));
  await heardEpochs(4);
  t.equal(executor.launches.length, 1, 'a heartbeat told of a newer one');
  peer.say({ $case: 'assign', value: assignOf(2, [1], [], 1, 8) }, replyTo(1, 8));
  await heardEpochs(6);
  t.equal(executor.launches.length, 2);
  session.abandon('enough');
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
  t.notOk(lease.holds(clock.monotonicMs()), 'no lease was won');
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

  const closing = await setup(t);
  await open(closing);
  closing.session.started([{ job: 1, index: 0, generation: 1, ageMs: 5 }]);
  await closing.session.close();
  t.strictSame(closing.peer.kinds, ['hello', 'started']);
  closing.session.retracted(refsOf([1, 0, 1]), emptyRefs());
  await closing.session.finished([]);
  t.strictSame(closing.peer.kinds, ['hello', 'started'], 'nothing is written to one that is over');
});
