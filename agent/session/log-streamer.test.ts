import { EventEmitter } from 'node:events';
import { join } from 'node:path';
import { test, type Test } from 'tap';
import { silentLogger } from '../../common/log.js';
import type { AgentServiceClient, StreamLogsRequest } from '../../proto/gen/mesh/v1/agent.js';
import { Stream } from '../../proto/gen/mesh/v1/common.js';
import { ManualClock } from '../../test/support/manual-clock.js';
import { OutputSpool } from '../output/spool.js';
import { LogStreamer } from './log-streamer.js';

/** A stream of the bulk connection in the test's hands. */
class FakeStream extends EventEmitter {
  readonly sent: StreamLogsRequest[] = [];
  /** Otherwise what is written stays in it until it drains. */
  roomy = true;
  #unsent: (() => void)[] = [];
  over: 'ended' | 'cancelled' | undefined;

  write(request: StreamLogsRequest, gone: () => void): boolean {
    this.sent.push(request);
    if (this.roomy) queueMicrotask(gone);
    else this.#unsent.push(gone);
    return this.roomy;
  }

  get writableNeedDrain(): boolean {
    return this.#unsent.length > 0;
  }

  drain(): void {
    this.roomy = true;
    const unsent = this.#unsent.splice(0);
    this.emit('drain');
    for (const gone of unsent) gone();
  }

  end(): void {
    this.over = 'ended';
  }

  cancel(): void {
    this.over ??= 'cancelled';
  }

  get text(): string {
    return this.sent.flatMap(({ chunks }) => chunks.map(({ data }) => Buffer.from(data).toString())).join('');
  }

  get sentTo(): number {
    return Math.max(0, ...this.sent.flatMap(({ chunks }) => chunks.map(({ offset, data }) => offset + data.length)));
  }

  store(ref: object, storedOffset: number): void {
    this.emit('data', { ...ref, storedOffset });
  }
}

const REF = { job: 1, index: 2, generation: 3 };
const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

/** Waits until it holds. */
const until = async (predicate: () => boolean): Promise<void> => {
  while (!predicate()) await turn();
};

function make(t: Test) {
  const clock = new ManualClock();
  const streams: FakeStream[] = [];
  let connected = true;
  const client = {
    streamLogs: () => {
      const stream = new FakeStream();
      streams.push(stream);
      return stream;
    },
  } as unknown as AgentServiceClient;
  const streamer = new LogStreamer(() => (connected ? client : undefined), clock, silentLogger);
  const spool = new OutputSpool({ path: join(t.testdir(), 'spool'), clock, limitBytes: 16 * 2 ** 20 });
  t.teardown(() => spool.dispose());
  return {
    ...{ clock, streams, streamer, spool },
    print: (text: string) => void spool.write(Stream.STDOUT, Buffer.from(text)),
    connect: (value: boolean) => (connected = value),
  };
}

test('output is streamed as it comes; after a reconnect it goes on from what was stored', async (t) => {
  const { streams, streamer, spool, print } = make(t);
  print('before ');
  streamer.follow(REF, spool);
  streamer.follow(REF, spool);
  t.ok(streamer.follows(spool));
  await until(() => streams[0]?.text === 'before ');
  print('after ');
  await until(() => streams[0]?.text === 'before after ');
  t.match(streams[0]?.sent[0], REF);
  streams[0]?.store(REF, 7);
  print('lost');
  await until(() => streams[0]?.text.endsWith('lost') ?? false);
  streamer.reconnected();
  t.equal(streams[0]?.over, 'cancelled');
  await until(() => streams[1]?.text === 'after lost');
  streams[0]?.store(REF, 99_999);
  await turn();
  t.equal(streams.length, 2, 'one stream at a time');
});

test('without a session nothing is sent and nothing waits; with one it begins', async (t) => {
  const { streams, streamer, spool, print, connect } = make(t);
  connect(false);
  streamer.follow(REF, spool);
  print('early');
  await streamer.drained(spool);
  t.equal(streams.length, 0);
  connect(true);
  streamer.reconnected();
  await until(() => streams[0]?.text === 'early');
});

test('no more than the window is under way; it moves as the coordinator stores', async (t) => {
  const { streams, streamer, spool } = make(t);
  const WINDOW = 2 * 1024 * 1024;
  const MESSAGE = 256 * 1024;
  streamer.follow(REF, spool);
  for (let written = 0; written < 5 * WINDOW; written += 65_536) spool.write(Stream.STDOUT, Buffer.alloc(65_536, 'x'));
  const [stream] = streams;
  if (!stream) throw new Error('a stream was opened');
  await until(() => stream.sentTo >= WINDOW);
  for (let turns = 0; turns < 50; turns++) await turn();
  t.ok(stream.sentTo <= WINDOW + MESSAGE, `${stream.sentTo} bytes are under way`);
  for (let stored = 0; stored < 5 * WINDOW; ) {
    stored = stream.sentTo;
    stream.store(REF, stored);
    await until(() => stream.sentTo > stored || stored >= 5 * WINDOW);
    if (stream.sentTo - stored > WINDOW + MESSAGE) t.fail(`${stream.sentTo - stored} bytes are under way`);
  }
  t.ok(stream.sent.every(({ chunks }) => chunks.reduce((sum, { data }) => sum + data.length, 0) <= MESSAGE + 65_536));
  await streamer.drained(spool);
});

test('drained: when all is stored, when the session is gone, or after a while without progress; not before', async (t) => {
  const { clock, streams, streamer, spool, print } = make(t);
  streamer.follow(REF, spool);
  print('12345');
  await until(() => streams[0]?.sentTo === 5);
  const wait = () => {
    const state = { done: false };
    void streamer.drained(spool).then(() => (state.done = true));
    return state;
  };
  const stored = wait();
  streams[0]?.store(REF, 4);
  await turn();
  t.notOk(stored.done);
  streams[0]?.store(REF, 5);
  await turn();
  t.ok(stored.done);
  t.same(clock.waiting, [], 'its timer is gone too');
  print('67');
  const gone = wait();
  streamer.disconnected();
  await turn();
  t.ok(gone.done);
  const patience = wait();
  clock.advance(9999);
  await turn();
  t.notOk(patience.done);
  streams[1]?.store(REF, 6);
  clock.advance(9999);
  await turn();
  t.notOk(patience.done, 'as long as more of it is stored it is worth waiting');
  streams[1]?.store(REF, 6);
  clock.advance(1);
  await turn();
  t.ok(patience.done);
  streamer.unfollow(spool);
  await streamer.drained(spool);
});

test('drained: after five minutes, however steadily a little of it is stored', async (t) => {
  const { clock, streams, streamer, spool, print } = make(t);
  streamer.follow(REF, spool);
  print('x'.repeat(1000));
  await until(() => streams[0]?.sentTo === 1000);
  let isDone = false;
  void streamer.drained(spool).then(() => (isDone = true));
  for (let stored = 1; stored <= 33; stored++) {
    clock.advance(9000);
    streams[0]?.store(REF, stored);
  }
  clock.advance(2999);
  await turn();
  t.notOk(isDone, 'after 299,999 ms');
  clock.advance(1);
  await turn();
  t.ok(isDone);
});

test('a sender that waits for room is not stuck when the stream dies under it', async (t) => {
  const { streams, streamer, spool, print } = make(t);
  streamer.follow(REF, spool);
  await until(() => streams.length === 1);
  (streams[0] as FakeStream).roomy = false;
  print('one');
  await until(() => streams[0]?.text === 'one');
  print(' two');
  await turn();
  t.equal(streams[0]?.text, 'one', 'it waits');
  streamer.reconnected();
  await until(() => streams[1]?.text === 'one two');
  (streams[1] as FakeStream).roomy = false;
  print(' three');
  await until(() => streams[1]?.text === 'one two three');
  print(' four');
  await turn();
  t.equal(streams[1]?.text, 'one two three', 'it waits');
  streams[1]?.drain();
  await until(() => streams[1]?.text === 'one two three four');
});

test('all attempts wait for the same room, and all of them go on', async (t) => {
  const { clock, streams, streamer, spool } = make(t);
  const other = new OutputSpool({ path: join(t.testdir(), 'other'), clock });
  t.teardown(() => other.dispose());
  for (const each of [spool, other]) each.write(Stream.STDOUT, Buffer.alloc(2 ** 20, 'x'));
  streamer.follow(REF, spool);
  const [stream] = streams;
  if (!stream) throw new Error('there is no stream');
  stream.roomy = false;
  await until(() => stream.sentTo > 0);
  streamer.follow({ ...REF, index: 4 }, other);
  for (let turns = 0; turns < 20; turns++) await turn();
  t.equal(stream.sent.length, 1);
  stream.drain();
  const sentOf = (index: number): number =>
    stream.sent
      .filter((request) => request.index === index)
      .reduce((bytes, { chunks }) => bytes + chunks.reduce((sum, { data }) => sum + data.length, 0), 0);
  await until(() => sentOf(2) === 2 ** 20 && sentOf(4) === 2 ** 20);
});

test('a stream that breaks by itself is opened again after a while, though nothing more is printed', async (t) => {
  const { clock, streams, streamer, spool, print } = make(t);
  streamer.follow(REF, spool);
  print('quiet now');
  await until(() => streams[0]?.text === 'quiet now');
  streams[0]?.emit('error', new Error('the coordinator’s disk is full'));
  await turn();
  t.equal(streams.length, 1);
  clock.advance(1000);
  await until(() => streams[1]?.text === 'quiet now');
  streams[0]?.emit('end');
  await turn();
  t.equal(streams[1]?.over, undefined, 'the old stream’s end is not the new one’s');
});

test('stopped, it ends the stream and lets nobody wait', async (t) => {
  const { streams, streamer, spool, print } = make(t);
  streamer.follow(REF, spool);
  print('x');
  await until(() => streams[0]?.text === 'x');
  const drained = streamer.drained(spool);
  await streamer.stop();
  await drained;
  t.equal(streams[0]?.over, 'ended');
  t.notOk(streamer.follows(spool));
});
