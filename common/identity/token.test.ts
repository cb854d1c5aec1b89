import { createHash, randomBytes } from 'node:crypto';
import { test } from 'tap';
import { MeshError } from '../errors.js';
import { decodeToken, encodeToken, secretDigest } from './token.js';

const token = {
  id: '0123456789ab',
  secret: '00112233445566778899aabbccddeeff',
  rootDigest: createHash('sha256').update('root').digest('hex'),
};

const reasonOf = (text: string): string => {
  try {
    decodeToken(text);
  } catch (error) {
    if (error instanceof MeshError && error.code === 'BAD_TOKEN') return error.message;
    throw error;
  }
  return 'accepted';
};

test('a token carries its three parts', async (t) => {
  const text = encodeToken(token);
  t.match(text, /^mesh1_[A-Za-z0-9_-]{79}$/);
  t.same(decodeToken(text), token);
  t.same(decodeToken(` ${text}\n`), token, 'white space around it is forgiven');
  t.throws(() => encodeToken({ ...token, secret: 'XY' }), { code: 'BAD_TOKEN' });
});

test('every changed character is noticed', async (t) => {
  const text = encodeToken({ ...token, secret: randomBytes(16).toString('hex') });
  let noticed = 0;
  for (let i = 6; i < text.length; i++) {
    for (const other of ['A', 'b', '_', '9']) {
      if (text[i] === other) continue;
      const reason = reasonOf(text.slice(0, i) + other + text.slice(i + 1));
      if (!/checksum/.test(reason)) t.fail(`position ${i} -> ${other}: ${reason}`);
      noticed++;
    }
  }
  t.ok(noticed > 200);
});

test('the reason is precise, and the token is not repeated', async (t) => {
  const text = encodeToken(token);
  const reasons: [string, RegExp][] = [
    ['', /not a join token/],
    ['hello', /not a join token/],
    [`mesh2_${text.slice(6)}`, /another version/],
    [text.slice(0, -1), /84 characters, not 85: it was cut off/],
    [`${text}A`, /something follows/],
    [`${text.slice(0, 20)} ${text.slice(20)}`, /does not belong there at 21/],
    [`${text.slice(0, 20)}+${text.slice(21)}`, /does not belong there at 21/],
  ];
  for (const [bad, reason] of reasons) {
    const said = reasonOf(bad);
    t.match(said, reason);
    t.notOk(bad.length > 10 && said.includes(bad.slice(6, 20)), 'no part of it in the message');
  }
});

test('a token of another payload version says so', async (t) => {
  const payload = Buffer.concat([Buffer.of(2), Buffer.alloc(54)]);
  const sum = createHash('sha256').update(payload).digest().subarray(0, 4);
  t.match(reasonOf(`mesh1_${Buffer.concat([payload, sum]).toString('base64url')}`), /version 2/);
});

test('only a digest of the secret is stored', async (t) => {
  t.equal(secretDigest(token.secret), createHash('sha256').update(Buffer.from(token.secret, 'hex')).digest('hex'));
  t.throws(() => secretDigest('short'), { code: 'BAD_TOKEN' });
});
