import { Writable } from 'node:stream';
import { test } from 'tap';
import { ago, jsonLine, neutralise, OutputFilter, safe, write } from './terminal.js';

test('names lose everything that commands a terminal', async (t) => {
  t.equal(safe('\u001b[31mred\u001b[0m'), 'red');
  t.equal(safe('a\nb\tc'), 'a b c');
  t.equal(safe('x\u0007\u009b31my\u202ez'), 'xyz');
  t.equal(safe('naïve 日本 🚀'), 'naïve 日本 🚀');
});

test('output keeps lines and tabs, and shows every other control', async (t) => {
  t.equal(neutralise('a\tb\r\nc\n'), 'a\tb\nc\n');
  t.equal(neutralise('\u001b]0;title\u0007'), '␛]0;title␇');
  t.equal(neutralise('50 %\r100 %'), '50 %␍100 %');
  t.equal(neutralise('\u007f\u009b\u202e'), '␡\ufffd\ufffd');
});

test('no escape gets through however the bytes are cut', async (t) => {
  const bytes = Buffer.from('ok\u001b[2J ä 🚀\r\nnext\rover \u009b1m end\r');
  const whole = new OutputFilter();
  const expected = whole.push(bytes) + whole.end();
  t.notMatch(expected, /(?![\n\t])\p{Cc}/u);
  t.match(expected, 'ä 🚀\nnext');
  for (let cut = 1; cut < bytes.length; cut++) {
    const filter = new OutputFilter();
    const text = filter.push(bytes.subarray(0, cut)) + filter.push(bytes.subarray(cut)) + filter.end();
    t.equal(text, expected, `cut at ${cut}`);
  }
});

test('invalid UTF-8 becomes replacement characters', async (t) => {
  const filter = new OutputFilter();
  t.equal(filter.push(Buffer.from([0x61, 0xff, 0x62])) + filter.end(), 'a\ufffdb');
});

test('a JSON line is one line of JSON that no terminal obeys', async (t) => {
  const value = { text: '\u009b31m\u001b[0m\u2028\n' };
  const line = jsonLine(value);
  t.match(line, /^[\x20-\x7e]+\n$/);
  t.same(JSON.parse(line), value);
});

test('ages are in one unit', async (t) => {
  const now = Date.UTC(2026, 0, 3);
  const before = (seconds: number) => new Date(now - seconds * 1000).toISOString();
  t.same(
    [5, 600, 10_000, 400_000, -5].map((s) => ago(before(s), now)),
    ['5 s ago', '10 min ago', '3 h ago', '5 d ago', '0 s ago'],
  );
  t.equal(ago(null, now), '-');
});

test('a full disk under the output is an error, not a wait for ever', async (t) => {
  const full = new Writable({
    write: (_data, _encoding, done) => done(Object.assign(new Error('no'), { code: 'ENOSPC' })),
  });
  full.on('error', () => undefined);
  await t.rejects(write(full as NodeJS.WriteStream, 'x'.repeat(100_000)), { code: 'DISK_FULL' });
});
