import { generateKeyPairSync, type KeyPairKeyObjectResult } from 'node:crypto';
import { writeBitString, writeSequence } from '../../../common/identity/der.js';
import { algorithmOf, type Change } from '../forger.js';
import type { Forgery } from './forgery.js';

const key = ({ publicKey, privateKey }: KeyPairKeyObjectResult): Change => {
  const der = publicKey.export({ type: 'spki', format: 'der' });
  return () => ({ publicKey: der, holder: privateKey });
};
const ofCurve = (namedCurve: string): Change => key(generateKeyPairSync('ec', { namedCurve }));
const explicitCurve = (): Change =>
  key(generateKeyPairSync('ec', { namedCurve: 'prime256v1', paramEncoding: 'explicit' }));

export const KEYS: Forgery[] = [
  ...[512, 1024, 2047].map((bits) => ({
    what: `RSA of ${bits} bits`,
    change: key(generateKeyPairSync('rsa', { modulusLength: bits })),
    reason: new RegExp(`RSA key has ${bits} bits`),
  })),
  {
    what: 'RSA of 2048 bits',
    change: key(generateKeyPairSync('rsa', { modulusLength: 2048 })),
    reason: undefined,
  },
  {
    what: 'an RSA exponent of 3',
    change: key(generateKeyPairSync('rsa', { modulusLength: 2048, publicExponent: 3 })),
    reason: /exponent is below 65537/,
  },
  {
    what: 'RSA-PSS',
    change: key(generateKeyPairSync('rsa-pss', { modulusLength: 2048 })),
    reason: /of the kind rsa-pss/,
  },
  { what: 'P-384', change: ofCurve('secp384r1'), reason: undefined },
  ...['secp521r1', 'secp256k1', 'secp224r1', 'brainpoolP256r1'].map((curve) => ({
    what: `the curve ${curve}`,
    change: ofCurve(curve),
    reason: new RegExp(`on the curve ${curve}`),
  })),
  { what: 'a curve spelled out', change: explicitCurve(), reason: /curve of unknown name|does not parse/ },
  ...(['ed25519', 'ed448', 'x25519'] as const).map((kind) => ({
    what: kind,
    change: key(generateKeyPairSync(kind as 'ed25519')),
    reason: new RegExp(`of the kind ${kind}`),
  })),
  {
    what: 'a key that is none',
    change: () => ({ publicKey: writeSequence(algorithmOf('1.2.3'), writeBitString(Buffer.alloc(8))) }),
    reason: /key does not parse/,
  },
  ...(
    [
      ['1.2.840.10045.4.1', 'SHA-1'],
      ['1.2.840.113549.1.1.4', 'MD5'],
    ] as const
  ).map(([oid, hash]) => ({
    what: `signed over ${hash}`,
    change: () => ({ algorithm: algorithmOf(oid), hash: hash.replace('-', '').toLowerCase() }),
    reason: new RegExp(`algorithm ${oid.replaceAll('.', '\\.')}`),
  })),
];
