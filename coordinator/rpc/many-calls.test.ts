import { Client, type ClientDuplexStream, credentials, Server } from '@grpc/grpc-js';
import { test, type Test } from 'tap';
import { MeshError } from '../../common/errors.js';
import { fromServiceError } from '../../common/grpc-errors.js';
import { silentLogger } from '../../common/log.js';
import { testThrottle } from '../../test/support/limits.js';
import { identityOf } from '../../test/support/plane.js';
import type { Peer } from '../door/peer.js';
import type { Denylist } from '../services/denylist.js';
import { Gate } from './authorize.js';
import { serveHere } from '../../test/support/serve-here.js';

const PATH = '/mesh.v1.MeshService/RunJobs';
const EACH = '/mesh.v1.MeshService/RunJob';

interface Said {
  number: number;
  part: { $case: string; value: unknown };
}

type Asking = ClientDuplexStream<{ number: number; run?: string }, Said>;
type Handle = (request: string, gone: AbortSignal) => AsyncIterable<unknown>;

const json = {
  to: (value: unknown) => Buffer.from(JSON.stringify(value)),
  from: (bytes: Buffer) => JSON.parse(bytes.toString()),
};

/** A real server with such a stream behind a gate, of which `peer` and `revoked` may change. */
async function serve(t: Test, handle: Handle, throttle = testThrottle()) {
  const state = { peer: { kind: 'identity', identity: identityOf('submitter', 'anna') } as Peer, revoked: false };
  const denied: string[] = [];
  const check = () => {
    if (state.revoked) throw new MeshError('REVOKED', 'the certificate is revoked');
  };
  const gate = new Gate({
    ...{ peerOf: () => state.peer, denylist: { check } as unknown as Denylist, throttle, log: silentLogger },
    audit: { tally: (_, action, target) => void denied.push(`${action} ${target}`) },
  });
  const ended = new AbortController();
  const server = new Server();
  const service = {
    ...{ path: PATH, requestStream: true, responseStream: true },
    ...{ requestSerialize: json.to, responseSerialize: json.to },
    ...{ requestDeserialize: json.from, responseDeserialize: json.from },
  } as const;
  server.addService(
    { many: service },
    {
      many: gate.manyCalls<string, unknown>(PATH, {
        ...{ path: EACH, ended: () => ended.signal },
        handle: (request, _, gone) => handle(request, gone),
      }),
    },
  );
  const address = await serveHere(server);
  const client = new Client(address, credentials.createInsecure());
  t.teardown(() => {
    client.close();
    server.forceShutdown();
  });
  const open = (): Asking => {
    const stream: Asking = client.makeBidiStreamRequest(PATH, json.to, json.from);
    return stream.on('error', () => undefined);
  };
  return { state, denied, ended, open };
}

/** What the stream says, one by one. */
function listen(stream: Asking): () => Promise<Said> {
  const heard: Said[] = [];
  let wake: () => void = () => undefined;
  stream.on('data', (message: Said) => {
    heard.push(message);
    wake();
  });
  return async () => {
    while (heard.length === 0) await new Promise<void>((resolve) => (wake = resolve));
    return heard.shift() as Said;
  };
}

const echo: Handle = async function* (request) {
  if (request === 'bad') throw new MeshError('BAD_SPEC', 'it says nothing', { hint: 'say something' });
  yield request;
};

test('each message is judged as a call of its own, and fails by itself', async (t) => {
  const { state, denied, open } = await serve(t, echo);
  const stream = open();
  const next = listen(stream);
  const ask = async (number: number, run: string) => {
    stream.write({ number, run });
    const first = await next();
    return first.part.$case === 'run' ? [first, await next()] : [first];
  };
  const fine = (number: number) => [
    { number, part: { $case: 'run', value: 'a' } },
    { number, part: { $case: 'ended', value: true } },
  ];
  t.match(await ask(1, 'a'), fine(1));
  t.match(await ask(2, 'bad'), [
    { number: 2, part: { $case: 'error', value: { code: 'BAD_SPEC', hint: 'say something' } } },
  ]);
  state.revoked = true;
  t.match(await ask(3, 'a'), [{ number: 3, part: { $case: 'error', value: { code: 'REVOKED' } } }]);
  state.revoked = false;
  state.peer = { kind: 'identity', identity: identityOf('viewer', 'wall') };
  t.match(await ask(4, 'a'), [{ number: 4, part: { $case: 'error', value: { code: 'DENIED' } } }]);
  t.same(denied, [`call.denied ${EACH}`, `call.denied ${EACH}`]);
  state.peer = { kind: 'identity', identity: identityOf('submitter', 'anna') };
  t.match(await ask(1, 'a'), fine(1), 'a number that is free may be used again');
  stream.cancel();
});

test('rates and calls at a time are those of calls', async (t) => {
  let release: () => void = () => undefined;
  const held = new Promise<void>((resolve) => (release = resolve));
  const wait: Handle = async function* () {
    await held;
    yield 'done';
  };
  const { open } = await serve(t, wait, testThrottle({ maxOpenCalls: 3 }));
  const stream = open();
  const next = listen(stream);
  for (const number of [1, 2, 3]) stream.write({ number, run: 'x' });
  t.match(
    await next(),
    { number: 3, part: { $case: 'error', value: { code: 'OVERLOADED' } } },
    'the stream is one too',
  );
  release();
  const rest = [await next(), await next(), await next(), await next()];
  t.same(
    rest.filter(({ part }) => part.$case === 'ended').map(({ number }) => number),
    [1, 2],
  );
  stream.cancel();
});

test('who gives a call up, uses a number twice or leaves ends what was under way', async (t) => {
  const ends = new Map<string, () => void>();
  const over = (name: string) => new Promise<void>((resolve) => ends.set(name, resolve));
  const wait: Handle = async function* (name, gone) {
    yield name;
    await new Promise<void>((resolve) => gone.addEventListener('abort', () => resolve()));
    ends.get(name)?.();
  };
  const { open } = await serve(t, wait);
  const stream = open();
  const next = listen(stream);
  const givenUp = over('a');
  stream.write({ number: 1, run: 'a' });
  await next();
  stream.write({ number: 1 });
  await givenUp;
  const twice = over('b');
  stream.write({ number: 2, run: 'b' });
  t.match(await next(), { number: 2, part: { $case: 'run', value: 'b' } }, 'nothing more of the one before');
  const failure = new Promise<MeshError>((resolve) => stream.on('error', (error) => resolve(fromServiceError(error))));
  stream.write({ number: 2, run: 'c' });
  t.match(await failure, { code: 'USAGE' });
  await twice;
  const leaving = open();
  const left = over('d');
  const heard = listen(leaving);
  leaving.write({ number: 1, run: 'd' });
  await heard();
  leaving.cancel();
  await left;
});

test('one that does not read its answers is waited for', async (t) => {
  let made = 0;
  const flood: Handle = async function* () {
    for (;;) {
      made++;
      yield 'x'.repeat(64 * 1024);
    }
  };
  const { open } = await serve(t, flood);
  const stream = open();
  stream.write({ number: 1, run: 'x' });
  await new Promise((resolve) => stream.once('data', resolve));
  stream.pause();
  for (let turns = 0; turns < 200; turns++) await new Promise((resolve) => setImmediate(resolve));
  const held = made;
  for (let turns = 0; turns < 200; turns++) await new Promise((resolve) => setImmediate(resolve));
  t.equal(made, held, 'it stands still');
  const more = new Promise<void>((resolve) => {
    stream.on('data', () => {
      if (made > held) resolve();
    });
  });
  stream.resume();
  await more;
  stream.cancel();
});

test('at the end of the term what is under way is told, and the stream ends', async (t) => {
  let release: () => void = () => undefined;
  const held = new Promise<void>((resolve) => (release = resolve));
  let begun: () => void = () => undefined;
  const running = new Promise<void>((resolve) => (begun = resolve));
  const { open, ended } = await serve(t, async function* () {
    begun();
    await held;
    yield 'last';
  });
  const stream = open();
  const next = listen(stream);
  const closed = new Promise<void>((resolve) => stream.on('end', resolve));
  stream.write({ number: 1, run: 'x' });
  await running;
  ended.abort();
  release();
  t.match([await next(), await next()], [{ part: { value: 'last' } }, { part: { $case: 'ended' } }]);
  await closed;
  const late = open();
  const over = new Promise<void>((resolve) => late.on('end', resolve));
  late.resume();
  await over;
});
