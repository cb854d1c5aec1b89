import { createHash, createPublicKey, generateKeyPairSync, type KeyObject } from 'node:crypto';
import { MeshError } from '../errors.js';
import { readChildren, readDer, TAG } from './der.js';

export interface KeyPair {
  privateKey: KeyObject;
  /** PKCS#8, unencrypted. */
  privateKeyPem: string;
  /** SubjectPublicKeyInfo. */
  publicKeyDer: Buffer;
}

/** A new P-256 key, the only kind we make ourselves. */
export function makeKeyPair(): KeyPair {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'prime256v1' });
  return {
    privateKey,
    privateKeyPem: privateKey.export({ type: 'pkcs8', format: 'pem' }) as string,
    publicKeyDer: publicKey.export({ type: 'spki', format: 'der' }),
  };
}

/** SHA-256 of the SubjectPublicKeyInfo, lower-case hex: what tells two holders of one name apart. */
export const publicKeyDigest = (publicKeyDer: Uint8Array): string =>
  createHash('sha256').update(publicKeyDer).digest('hex');

export const ECDSA_SHA256 = '1.2.840.10045.4.3.2';
export const RSA_SHA256 = '1.2.840.113549.1.1.11';

/** The signature algorithms that are accepted, by OID: of certificates and of requests for one. */
export const SIGNATURES: Readonly<Record<string, { keyType: 'ec' | 'rsa'; hash: string }>> = {
  [ECDSA_SHA256]: { keyType: 'ec', hash: 'sha256' },
  '1.2.840.10045.4.3.3': { keyType: 'ec', hash: 'sha384' },
  '1.2.840.10045.4.3.4': { keyType: 'ec', hash: 'sha512' },
  [RSA_SHA256]: { keyType: 'rsa', hash: 'sha256' },
  '1.2.840.113549.1.1.12': { keyType: 'rsa', hash: 'sha384' },
  '1.2.840.113549.1.1.13': { keyType: 'rsa', hash: 'sha512' },
};

const CURVES = new Set(['prime256v1', 'secp384r1']);
/** Above this, one signature check takes long enough to be an attack. */
const RSA_BITS_MAX = 8192;

/** Why a public key is too weak, too large or of an unknown kind to be certified; undefined when it is fine. */
export function publicKeyProblem(key: KeyObject): string | undefined {
  const details = key.asymmetricKeyDetails ?? {};
  switch (key.asymmetricKeyType) {
    case 'ec':
      return CURVES.has(details.namedCurve ?? '')
        ? undefined
        : `its key is on the curve ${details.namedCurve ?? 'of unknown name'}; P-256 and P-384 are accepted`;
    case 'rsa': {
      const bits = details.modulusLength ?? 0;
      if (bits < 2048 || bits > RSA_BITS_MAX)
        return `its RSA key has ${bits} bits; 2048 to ${RSA_BITS_MAX} are accepted`;
      return (details.publicExponent ?? 0n) < 65537n ? 'its RSA exponent is below 65537' : undefined;
    }
    default:
      return `its key is of the kind ${key.asymmetricKeyType}; EC (P-256, P-384) and RSA are accepted`;
  }
}

/**
 * Undefined when it does not parse. A curve that is spelled out instead of named does not: what looks like P-256 there
 * may have a generator of somebody's choosing (CVE-2020-0601).
 */
export function readKey(publicKeyDer: Uint8Array): KeyObject | undefined {
  try {
    const [, parameters] = readChildren(readChildren(readDer(publicKeyDer, TAG.sequence))[0]);
    if (parameters && parameters.tag !== TAG.oid && parameters.tag !== TAG.null) return undefined;
    return createPublicKey({ key: Buffer.from(publicKeyDer), format: 'der', type: 'spki' });
  } catch {
    return undefined;
  }
}

/** @throws MeshError BAD_CERTIFICATE when it does not parse or is not of a kind we certify */
export function readPublicKey(publicKeyDer: Uint8Array): KeyObject {
  const key = readKey(publicKeyDer);
  if (!key) throw new MeshError('BAD_CERTIFICATE', 'the public key does not parse');
  const problem = publicKeyProblem(key);
  if (problem) throw new MeshError('BAD_CERTIFICATE', `the public key is refused: ${problem}`);
  return key;
}
