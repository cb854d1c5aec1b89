/** The directory of a coordinator whose issuer was signed elsewhere. */
import { type KeyObject, X509Certificate } from 'node:crypto';
import { renameSync } from 'node:fs';
import { systemClock } from '../common/clock.js';
import { makePrivateDir, writeFileAtomic } from '../common/files.js';
import type { Passphrase } from '../common/passphrase.js';
import { Authority } from './authority.js';
import { saveIndex } from './index-file.js';
import { readPrivateKeyFile, waitingKey } from './keys.js';
import { filesOf } from './layout.js';
import { withLock } from './lock.js';
import { toPem } from './x509/certificate.js';

/** The key that another authority is about to certify as this new directory's issuer, until `initAdopted`. */
export function keyForIssuer(directory: string, passphrase: Passphrase | undefined): KeyObject {
  makePrivateDir(directory);
  return waitingKey(filesOf(directory).issuerKeyNext, passphrase);
}

/**
 * Makes the directory of a coordinator whose issuer was signed elsewhere, for the key of `keyForIssuer`: it has no root
 * key. @throws MeshError BAD_CERTIFICATE when the three do not belong together
 */
export async function initAdopted(
  directory: string,
  parts: { rootPem: string; issuerPem: string; nowMs: number; passphrase: Passphrase | undefined },
): Promise<void> {
  const root = new X509Certificate(parts.rootPem);
  const issuer = new X509Certificate(parts.issuerPem);
  const issuerKey = readPrivateKeyFile(filesOf(directory).issuerKeyNext, parts.passphrase);
  const { meshId } = new Authority({ root, issuer, issuerKey });
  const paths = filesOf(directory);
  await withLock(paths.lock, systemClock, () => {
    saveIndex(directory, { version: 1, meshId, certificates: [] }, parts.nowMs);
    writeFileAtomic(paths.issuer, toPem(issuer.raw));
    renameSync(paths.issuerKeyNext, paths.issuerKey);
    // Last: where it is, the directory is whole.
    writeFileAtomic(paths.root, toPem(root.raw));
  });
}
