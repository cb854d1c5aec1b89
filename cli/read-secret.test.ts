import { PassThrough } from 'node:stream';
import type { ReadStream } from 'node:tty';
import { test } from 'tap';
import { readSecret } from './read-secret.js';

const piped = (...chunks: (string | Buffer)[]): ReadStream => {
  const stream = new PassThrough();
  for (const chunk of chunks) stream.write(chunk);
  stream.end();
  return stream as unknown as ReadStream;
};

test('one line break at the end is the writer’s, everything else is the value', async (t) => {
  const read = async (...chunks: (string | Buffer)[]) => (await readSecret('X', piped(...chunks))).toString('latin1');
  t.equal(await read('hunt', 'er2\n'), 'hunter2');
  t.equal(await read('hunter2\r\n'), 'hunter2');
  t.equal(await read('hunter2'), 'hunter2');
  t.equal(await read('two\nlines\n\n'), 'two\nlines\n');
  t.equal(await read(Buffer.from([0, 255, 10])), '\0\xff');
});

test('nothing, and far too much, are refused', async (t) => {
  for (const nothing of [[], ['\n']]) await t.rejects(readSecret('X', piped(...nothing)), { code: 'USAGE' });
  await t.rejects(readSecret('X', piped(Buffer.alloc(2 ** 20 + 1))), { code: 'USAGE', message: /much larger/ });
});
