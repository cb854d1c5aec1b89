/**
 * The words by which people tell the key of a new machine. Both sides work them out for themselves, the machine from its
 * own key and the root its token pins, the operator's side from the key the coordinator holds and its own root; they are
 * never sent, so whoever stands between them cannot show the same words on both screens.
 *
 *   the first 66 bits of SHA-256( domain | root digest 32 | SubjectPublicKeyInfo ), 11 bits a word, BIP-39's English list
 *
 * To show another key's words an attacker has to try about 2^66 keys, each a point multiplication and a hash.
 */
import { createHash } from 'node:crypto';
import { wordlist } from '@scure/bip39/wordlists/english.js';
import { MeshError } from '../errors.js';

const DOMAIN = 'planetary-mesh approval phrase 1\0';
const WORDS = 6;
const BITS_PER_WORD = 11;

/**
 * Six words, with a space between.
 * @param rootDigest SHA-256 of the root certificate's DER, hex
 * @param publicKeyDer SubjectPublicKeyInfo
 */
export function approvalPhrase(rootDigest: string, publicKeyDer: Uint8Array): string {
  const digest = createHash('sha256').update(DOMAIN).update(Buffer.from(rootDigest, 'hex')).update(publicKeyDer);
  let bits = BigInt(`0x${digest.digest('hex')}`) >> BigInt(256 - WORDS * BITS_PER_WORD);
  const words: string[] = [];
  for (let position = 0; position < WORDS; position++, bits >>= BigInt(BITS_PER_WORD))
    words.unshift(wordlist[Number(bits & 2047n)] as string);
  return words.join(' ');
}

/**
 * A phrase as somebody typed it: case and the space between the words do not matter.
 * @throws MeshError USAGE when it cannot be one, naming the word that is on no list
 */
export function parsePhrase(text: string): string {
  const words = text
    .trim()
    .toLowerCase()
    .split(/[\s,-]+/);
  const unknown = words.find((word) => !wordlist.includes(word));
  const hint = 'type the six words that the machine shows';
  if (unknown !== undefined) throw new MeshError('USAGE', `"${unknown}" is no word of a phrase`, { hint });
  if (words.length !== WORDS)
    throw new MeshError('USAGE', `a phrase has ${WORDS} words, not ${words.length}`, { hint });
  return words.join(' ');
}
