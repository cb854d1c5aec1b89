/**
 * Private keys in files: PKCS#8 in PEM, as it is or under a passphrase. What we encrypt is PBES2 (RFC 8018) with scrypt
 * (RFC 7914) and AES-256-CBC, which OpenSSL 1.1 and newer read (`openssl pkey -in ca.key`). Nothing authenticates the
 * ciphertext, and nothing has to: a key counts only beside the certificate it belongs to.
 */
import {
  createCipheriv,
  createPrivateKey,
  type KeyObject,
  randomBytes,
  scryptSync,
  type X509Certificate,
} from 'node:crypto';
import { readFileSync } from 'node:fs';
import { MeshError, systemCode } from '../common/errors.js';
import { readIfExists, writeFileAtomic } from '../common/files.js';
import { type KeyPair, makeKeyPair } from '../common/identity/keys.js';
import { TAG, writeDer, writeOid, writePositiveInteger, writeSequence } from '../common/identity/der.js';
import type { Passphrase } from '../common/passphrase.js';
import { toPem } from './x509/certificate.js';

export { type KeyPair, makeKeyPair };

const OID = {
  pbes2: '1.2.840.113549.1.5.13',
  scrypt: '1.3.6.1.4.1.11591.4.11',
  aes256Cbc: '2.16.840.1.101.3.4.1.42',
} as const;

/**
 * OpenSSL reads keys with at most 32 MiB of scrypt, which bounds N at 2^14 with r = 8. OWASP asks for p = 5 there: 0.2 s
 * on the machine it was measured on.
 */
const SCRYPT = { N: 2 ** 14, r: 8, p: 5 } as const;
const SCRYPT_BYTES_MAX = 64 * 2 ** 20;
const KEY_BYTES = 32;
const SEALED = 'ENCRYPTED PRIVATE KEY';

export const isSealed = (pem: string): boolean => pem.includes(`-----BEGIN ${SEALED}-----`);

/** PEM; without a passphrase as it is. Takes about a quarter of a second, in which nothing else runs. */
export function sealKey(key: KeyObject, passphrase: Passphrase | undefined): string {
  if (!passphrase) return key.export({ type: 'pkcs8', format: 'pem' }) as string;
  const salt = randomBytes(16);
  const iv = randomBytes(16);
  const secret = scryptSync(passphrase.reveal(), salt, KEY_BYTES, { ...SCRYPT, maxmem: SCRYPT_BYTES_MAX });
  const cipher = createCipheriv('aes-256-cbc', secret, iv);
  const content = Buffer.concat([cipher.update(key.export({ type: 'pkcs8', format: 'der' })), cipher.final()]);
  const derivation = writeSequence(
    writeDer(TAG.octetString, salt),
    ...[SCRYPT.N, SCRYPT.r, SCRYPT.p].map(writePositiveInteger),
  );
  const algorithm = writeSequence(
    writeOid(OID.pbes2),
    writeSequence(
      writeSequence(writeOid(OID.scrypt), derivation),
      writeSequence(writeOid(OID.aes256Cbc), writeDer(TAG.octetString, iv)),
    ),
  );
  return toPem(writeSequence(algorithm, writeDer(TAG.octetString, content)), SEALED);
}

/**
 * @param name the file, for messages
 * @throws MeshError PASSPHRASE when it is missing or wrong, BAD_CERTIFICATE when there is no private key
 */
export function openKey(pem: string, name: string, passphrase: Passphrase | undefined): KeyObject {
  const sealed = isSealed(pem);
  if (sealed && !passphrase) throw missingPassphrase(name);
  try {
    return createPrivateKey({ key: pem, ...(sealed && passphrase ? { passphrase: passphrase.reveal() } : {}) });
  } catch {
    // The cause may quote the text, which is a secret: it stays out.
    if (sealed)
      throw new MeshError('PASSPHRASE', `the passphrase does not open ${name}`, {
        hint: 'give the one that was set last; without it only a backup or another coordinator helps',
      });
    throw new MeshError('BAD_CERTIFICATE', `${name} holds no private key that can be read`, { hint: 'it must be PEM' });
  }
}

export const missingPassphrase = (name: string): MeshError =>
  new MeshError('PASSPHRASE', `${name} is encrypted and no passphrase was given`, {
    hint: 'name its file with --passphrase-file (mesh-coordinator: --ca-passphrase-file), or start it on a terminal',
  });

/** @throws MeshError DATA_DIR when it cannot be read, and what `openKey` throws */
export function readPrivateKeyFile(path: string, passphrase?: Passphrase): KeyObject {
  return openKey(readKeyText(path), path, passphrase);
}

export function readKeyText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new MeshError('DATA_DIR', `cannot read the key ${path} (${systemCode(error)})`, {
      hint: 'run it as the user who owns the key',
      cause: error,
    });
  }
}

/** @throws MeshError BAD_CERTIFICATE when the two do not belong together */
export function assertKeyOf(certificate: X509Certificate, key: KeyObject, keyName: string): void {
  if (!certificate.checkPrivateKey(key))
    throw new MeshError('BAD_CERTIFICATE', `${keyName} is not the key of the certificate beside it`, {
      hint: 'restore both from the same backup',
    });
}

/** A key that waits in a file for its certificate; the same one after a crash. */
export function waitingKey(path: string, passphrase: Passphrase | undefined): KeyObject {
  const waiting = readIfExists(path);
  if (waiting !== undefined) return openKey(waiting, path, passphrase);
  const { privateKey } = makeKeyPair();
  writeFileAtomic(path, sealKey(privateKey, passphrase), 0o600);
  return privateKey;
}
