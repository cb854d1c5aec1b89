import { PassThrough } from 'node:stream';
import type { ReadStream } from 'node:tty';
import { test } from 'tap';
import { readUnseen } from './passphrase.js';

/** The end of a terminal that programs read, with what was typed so far. */
function terminal(...chunks: string[]): ReadStream & { raw: boolean } {
  const stream = new PassThrough();
  for (const chunk of chunks) stream.write(chunk);
  return Object.assign(stream, {
    raw: false,
    setRawMode(on: boolean) {
      this.raw = on;
      return this;
    },
  }) as unknown as ReadStream & { raw: boolean };
}

test('a line is read unseen; keys that correct it do', async (t) => {
  const one = terminal('corre', 'ct hx\u007f', 'orse\r');
  const answer = readUnseen(one);
  t.equal(one.raw, true);
  t.equal(await answer, 'correct horse');
  t.equal(one.raw, false);
  t.equal(await readUnseen(terminal('wrong\u0015é\u{1f40e}\b!\n')), 'é!');
});

test('what is typed ahead answers the next question', async (t) => {
  for (const text of ['first\nsecond\n', 'first\rsecond\r', 'first\r\nsecond\r\n']) {
    const one = terminal(text);
    t.equal(await readUnseen(one), 'first');
    t.equal(await readUnseen(one), 'second');
  }
});

test('where no line can come any more it ends', async (t) => {
  for (const key of ['\u0003', '\u0004', '\0'])
    await t.rejects(readUnseen(terminal(`half${key}`)), { code: 'INTERRUPTED' }, JSON.stringify(key));
  const ended = terminal('half');
  (ended as unknown as PassThrough).end();
  await t.rejects(readUnseen(ended), { code: 'INTERRUPTED' }, 'hung up');
  await t.rejects(readUnseen(ended), { code: 'INTERRUPTED' }, 'asked after that');
  const broken = terminal();
  const answer = readUnseen(broken);
  broken.destroy(new Error('EIO'));
  await t.rejects(answer, { code: 'INTERRUPTED' });
  await t.rejects(readUnseen(broken), { code: 'INTERRUPTED' }, 'asked after that');
});
