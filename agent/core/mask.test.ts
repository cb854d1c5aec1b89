import { test } from 'tap';
import { SeededRandom } from '../../test/support/random.js';
import { Mask, MaskStream, PREFIX_MIN } from './mask.js';

const bytes = (text: string): Buffer => Buffer.from(text, 'latin1');

/** What it should be, worked out with the whole output at hand. */
function reference(patterns: readonly string[], text: string): string {
  const marked = new Uint8Array(text.length);
  for (const pattern of patterns)
    for (let at = text.indexOf(pattern); at >= 0; at = text.indexOf(pattern, at + 1))
      marked.fill(1, at, at + pattern.length);
  let begun = 0;
  for (const pattern of patterns)
    for (let length = 1; length < pattern.length; length++)
      if (text.endsWith(pattern.slice(0, length))) begun = Math.max(begun, length);
  if (begun >= PREFIX_MIN) marked.fill(1, text.length - begun);
  let shown = '';
  for (let i = 0; i < text.length; i++) {
    if (!marked[i]) shown += text[i];
    else if (i === 0 || !marked[i - 1]) shown += '***';
  }
  return shown;
}

function run(mask: Mask, pieces: readonly string[]): string {
  const stream = new MaskStream(mask);
  return Buffer.concat([...pieces.map((piece) => stream.write(bytes(piece))), stream.end()]).toString('latin1');
}

test('however the output is cut, what is seen is the same', (t) => {
  const random = new SeededRandom(7);
  const many = <T>(max: number, make: () => T, min = 0): T[] => Array.from({ length: random.integer(min, max) }, make);
  for (let round = 0; round < 5000; round++) {
    // Few letters, so that patterns overlap, contain and begin each other.
    const letters = random.pick(['ab', 'abc', 'a\xff\x00']);
    const word = (min: number, max: number) =>
      many(max, () => letters[random.integer(0, letters.length - 1)], min).join('');
    const patterns = many(4, () => word(2, 9), 1);
    const text = many(12, () => (random.chance(0.5) ? word(0, 6) : random.pick(patterns))).join(random.pick(['', 'x']));
    const pieces: string[] = [];
    for (let at = 0; at < text.length; at += pieces.at(-1)?.length ?? 0)
      pieces.push(text.slice(at, at + (random.chance(0.7) ? 1 : random.integer(1, 9))));
    const seen = run(new Mask(patterns.map(bytes)), pieces);
    const expected = reference(patterns, text);
    if (seen === expected) continue;
    t.equal(seen, expected, JSON.stringify({ patterns, pieces }));
    break;
  }
  t.pass();
  t.end();
});

test('only what may become a secret is held back', (t) => {
  const stream = new MaskStream(new Mask([bytes('hunter2-hunter2')]));
  t.equal(stream.write(bytes('password: ')).toString(), 'password: ');
  t.equal(stream.write(bytes('hunt')).toString(), '');
  t.equal(stream.write(bytes('ing ')).toString(), 'hunting ');
  t.equal(stream.write(bytes('hunter2-hunter')).toString(), '');
  t.equal(stream.write(bytes('2')).toString(), '***', 'at once when it is complete');
  t.equal(stream.write(bytes('!hun')).toString(), '!');
  t.equal(stream.end().toString(), 'hun', 'too short to be a secret');
  const cut = new MaskStream(new Mask([bytes('hunter2-hunter2')]));
  t.equal(Buffer.concat([cut.write(bytes('a hunter2-hunt')), cut.end()]).toString(), 'a ***', 'cut off in the middle');
  t.end();
});

test('what is made to be slow is not: a search that is quadratic would not end in time', (t) => {
  const size = 64 * 1024;
  const mask = new Mask([`${'a'.repeat(size)}b`, `${'ab'.repeat(size / 2)}c`, 'a'.repeat(4096)].map(bytes));
  for (const attack of [bytes('a'.repeat(8 * size)), bytes('ab'.repeat(4 * size))]) {
    const stream = new MaskStream(mask);
    const pieces: Buffer[] = [];
    for (let i = 0; i < attack.length; i++) pieces.push(stream.write(attack.subarray(i, i + 1)));
    const shown = Buffer.concat([...pieces, stream.end()]).toString();
    t.equal(shown, attack.includes('b') ? `${'ab'.repeat(4 * size - size / 2)}***` : '***');
  }
  t.end();
});

test('memory is flat whatever is printed', (t) => {
  const mask = new Mask([bytes('x'.repeat(1000)), bytes('correct horse battery staple')]);
  const stream = new MaskStream(mask);
  const chunk = bytes(`${'x'.repeat(999)}correct horse battery stap`.repeat(60));
  const before = process.memoryUsage().rss;
  for (let written = 0; written < 96 * 2 ** 20; written += chunk.length) stream.write(chunk);
  t.ok(process.memoryUsage().rss - before < 64 * 2 ** 20);
  t.end();
});
