import { createHash } from 'node:crypto';
import { wordlist } from '@scure/bip39/wordlists/english.js';
import { test } from 'tap';
import { makeKeyPair } from './keys.js';
import { approvalPhrase, parsePhrase } from './phrase.js';

const root = 'ab'.repeat(32);

test('the words are the first 66 bits of the digest', (t) => {
  const { publicKeyDer } = makeKeyPair();
  const input = Buffer.concat([
    Buffer.from('planetary-mesh approval phrase 1\0'),
    Buffer.from(root, 'hex'),
    publicKeyDer,
  ]);
  const bits = [...createHash('sha256').update(input).digest()]
    .map((byte) => byte.toString(2).padStart(8, '0'))
    .join('');
  const words = Array.from({ length: 6 }, (_, i) => wordlist[Number.parseInt(bits.slice(11 * i, 11 * i + 11), 2)]);
  t.equal(approvalPhrase(root, publicKeyDer), words.join(' '));
  t.end();
});

test('it stays the same from release to release: both sides need not be of one', (t) => {
  t.equal(approvalPhrase(root, Buffer.from('a key')), 'output level pelican donor abuse voyage');
  t.equal(wordlist.length, 2048);
  t.end();
});

test('another key, and another mesh, has other words', (t) => {
  const { publicKeyDer } = makeKeyPair();
  const phrase = approvalPhrase(root, publicKeyDer);
  t.equal(approvalPhrase(root, publicKeyDer), phrase);
  t.not(approvalPhrase(root, makeKeyPair().publicKeyDer), phrase);
  t.not(approvalPhrase('cd'.repeat(32), publicKeyDer), phrase);
  t.end();
});

test('a phrase as it is typed', (t) => {
  t.equal(parsePhrase('  Abandon ability  able\nabout above-absent '), 'abandon ability able about above absent');
  t.throws(() => parsePhrase('abandon ability able about above'), { code: 'USAGE', message: /6 words, not 5/ });
  t.throws(() => parsePhrase('abandon ability able about above qwerty'), { code: 'USAGE', message: /"qwerty"/ });
  t.throws(() => parsePhrase(''), { code: 'USAGE' });
  t.end();
});
