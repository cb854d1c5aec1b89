import { X509Certificate } from 'node:crypto';
import { existsSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { MeshError } from '../common/errors.js';
import { readIfExists } from '../common/files.js';
import { Authority } from './authority.js';
import type { Passphrase } from '../common/passphrase.js';
import { assertKeyOf, isSealed, readKeyText, readPrivateKeyFile } from './keys.js';
import { finishResealing } from './reseal.js';

const OPEN_TRIES = 3;

/** The files of a CA directory; what each holds: directory.ts. */
export const filesOf = (directory: string) => ({
  root: join(directory, 'ca.crt'),
  rootKey: join(directory, 'ca.key'),
  issuer: join(directory, 'issuer.crt'),
  issuerKey: join(directory, 'issuer.key'),
  issuerKeyNext: join(directory, 'issuer.key.next'),
  index: join(directory, 'index.json'),
  lock: join(directory, 'index.lock'),
  /** Digests of the roots that were here before. */
  former: join(directory, 'ca.former'),
  /** The authority that takes over, laid out as this one; see next-root.ts. */
  next: join(directory, 'next'),
});

/** Whether the directory's keys are under a passphrase; new ones then are too. */
export function isSealedDirectory(directory: string): boolean {
  finishResealing(directory);
  return isSealed(readKeyText(filesOf(directory).issuerKey));
}

export function readCertificateFile(path: string, directory: string): X509Certificate {
  const text = readIfExists(path);
  if (text === undefined)
    throw new MeshError('DATA_DIR', `there is no certificate authority in ${directory} (${path} is missing)`, {
      hint: `make one: mesh-ca init --dir ${directory}`,
    });
  try {
    return new X509Certificate(text);
  } catch (error) {
    throw new MeshError('DATA_DIR', `${path} is damaged: it holds no certificate`, {
      hint: 'restore it from a backup',
      cause: error,
    });
  }
}

/**
 * @throws MeshError DATA_DIR when there is none or a file cannot be read, BAD_CERTIFICATE when its files do not belong
 * together, PASSPHRASE
 */
export function loadAuthority(directory: string, passphrase: Passphrase | undefined): Authority {
  const paths = filesOf(directory);
  finishResealing(directory);
  const root = readCertificateFile(paths.root, directory);
  for (let tries = 1; ; tries++) {
    const issuer = readCertificateFile(paths.issuer, directory);
    if (existsSync(paths.issuerKeyNext)) finishRenewal(directory, issuer, passphrase);
    const issuerKey = readPrivateKeyFile(paths.issuerKey, passphrase);
    // A renewal in another process may have replaced the pair between the two reads.
    if (tries < OPEN_TRIES && !issuer.checkPrivateKey(issuerKey)) continue;
    assertKeyOf(issuer, issuerKey, paths.issuerKey);
    return new Authority({ root, issuer, issuerKey });
  }
}

/** Takes over the key of a renewal that was interrupted after its certificate was written. */
function finishRenewal(directory: string, issuer: X509Certificate, passphrase: Passphrase | undefined): void {
  const paths = filesOf(directory);
  try {
    if (issuer.checkPrivateKey(readPrivateKeyFile(paths.issuerKeyNext, passphrase)))
      renameSync(paths.issuerKeyNext, paths.issuerKey);
  } catch (error) {
    if (existsSync(paths.issuerKeyNext)) throw error;
  }
}
