import { Writable } from 'node:stream';
import { type Test, test } from 'tap';
import { turn } from '../test/support/agent-work.js';
import { Outgoing, OUTGOING_BYTES_MAX } from './outgoing.js';

function make(t: Test) {
  const sent: string[] = [];
  const sending: (() => void)[] = [];
  const stream = new Writable({
    objectMode: true,
    write(message: string, _, done) {
      sent.push(message);
      sending.push(done);
    },
  });
  t.teardown(() => stream.destroy());
  const outgoing = new Outgoing<string>(stream);
  /** The stream has done with the one it is at. */
  const next = async () => {
    sending.shift()?.();
    await turn();
  };
  /** Whether somebody who began to wait now has stopped. */
  const wait = (): (() => boolean) => {
    let waits = true;
    void outgoing.room().then(() => (waits = false));
    return () => !waits;
  };
  return { sent, outgoing, next, wait };
}

test('a stream takes so many bytes, in however few messages, and more when they have gone', async (t) => {
  const { sent, outgoing, next, wait } = make(t);
  outgoing.write('a', OUTGOING_BYTES_MAX / 2);
  outgoing.write('b', OUTGOING_BYTES_MAX / 2 - 1);
  t.notOk(outgoing.full);
  outgoing.write('c', OUTGOING_BYTES_MAX);
  t.ok(outgoing.full);
  const [one, other] = [wait(), wait()];
  await next();
  await next();
  t.ok(outgoing.full, 'a and b have gone, and c alone is too much');
  t.notOk(one());
  await next();
  t.notOk(outgoing.full);
  t.ok(one() && other());
  t.same(sent, ['a', 'b', 'c']);
  outgoing.write('d', OUTGOING_BYTES_MAX);
  t.ok(outgoing.full, 'what has gone does not count, what comes does');
});

test('whoever waits is told when half of it has gone', async (t) => {
  const { outgoing, next, wait } = make(t);
  for (const message of ['a', 'b', 'c', 'd']) outgoing.write(message, OUTGOING_BYTES_MAX / 4);
  t.ok(outgoing.full);
  const waited = wait();
  await next();
  t.notOk(outgoing.full);
  t.notOk(waited());
  await next();
  t.ok(waited());
});

test('a stream takes no more messages than gRPC wants, however small they are', async (t) => {
  const { outgoing, next, wait } = make(t);
  let taken = 0;
  for (; !outgoing.full && taken < 100; taken++) outgoing.write('x', 1);
  t.equal(taken, 16);
  const waited = wait();
  for (; !waited() && taken > 0; taken--) await next();
  t.equal(taken, 0, 'all of them are sent first');
});

test('nobody waits for a stream that is gone', async (t) => {
  const { outgoing, wait } = make(t);
  outgoing.write('a', OUTGOING_BYTES_MAX);
  const waited = wait();
  await turn();
  t.notOk(waited());
  outgoing.release();
  await turn();
  t.ok(waited());
});
