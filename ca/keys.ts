import { createPrivateKey, type KeyObject, type X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { MeshError, systemCode } from '../common/errors.js';

export { type KeyPair, makeKeyPair } from '../common/identity/keys.js';

/** @throws MeshError DATA_DIR when it cannot be read, BAD_CERTIFICATE when it holds no private key */
export function readPrivateKeyFile(path: string): KeyObject {
  let pem: string;
  try {
    pem = readFileSync(path, 'utf8');
  } catch (error) {
    throw new MeshError('DATA_DIR', `cannot read the key ${path} (${systemCode(error)})`, {
      hint: 'run it as the user who owns the key',
      cause: error,
    });
  }
  try {
    return createPrivateKey(pem);
  } catch {
    // The cause may quote the text, which is a secret: it stays out.
    throw new MeshError('BAD_CERTIFICATE', `${path} holds no private key that can be read`, {
      hint: 'it must be unencrypted PEM',
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
