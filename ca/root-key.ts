/**
 * The root's key away from the machine. It is needed to renew intermediates, twice a year, and to admit coordinators; in
 * between it is safest in a drawer. The file it travels in holds the root's certificate and the key, both PEM, so that it
 * says by itself which mesh it is of. The key leaves the directory only when the copy was read back.
 */
import { type KeyObject, X509Certificate } from 'node:crypto';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { MeshError, systemCode } from '../common/errors.js';
import { syncDirectory, writeFileAtomic } from '../common/files.js';
import { fingerprintOf } from '../common/identity/check.js';
import { readCsr } from '../common/identity/csr.js';
import type { Passphrase } from '../common/passphrase.js';
import { signIssuer } from './authority.js';
import type { CaDirectory } from './directory.js';
import { assertKeyOf, isSealed, openKey, sealKey } from './keys.js';
import { filesOf } from './layout.js';
import { toPem } from './x509/certificate.js';

export interface RootFile {
  root: X509Certificate;
  key: KeyObject;
}

/** Whether the key in such a file is encrypted. @throws MeshError DATA_DIR when it cannot be read */
export const isSealedFile = (path: string): boolean => isSealed(read(path));

/** @throws MeshError DATA_DIR, BAD_CERTIFICATE when it is none or key and certificate are not a pair, PASSPHRASE */
export function readRootFile(path: string, passphrase: Passphrase | undefined): RootFile {
  const text = read(path);
  const key = openKey(text, path, passphrase);
  let root: X509Certificate;
  try {
    root = new X509Certificate(text);
  } catch (error) {
    throw new MeshError('BAD_CERTIFICATE', `${path} holds no root certificate beside the key`, {
      hint: 'name a file that mesh-ca root export wrote',
      cause: error,
    });
  }
  assertKeyOf(root, key, `the key in ${path}`);
  return { root, key };
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new MeshError('DATA_DIR', `cannot read ${path} (${systemCode(error)})`, {
      hint: 'name the file that was exported, and run it as the user who owns it',
      cause: error,
    });
  }
}

/**
 * Writes the root's key to a new file and, unless it is to be kept, removes it from the directory.
 * @param passphrase encrypts the file
 * @throws MeshError CONFLICT when the file exists or the key is not in the directory, DATA_DIR; then the key stays
 */
export function exportRootKey(
  ca: CaDirectory,
  file: string,
  passphrase: Passphrase | undefined,
  { keep }: { keep: boolean },
): Promise<void> {
  return ca.locked(() => {
    if (!ca.hasRootKey)
      throw new MeshError('CONFLICT', `the root's key is not in ${ca.directory}`, {
        hint: 'it was exported before, or this coordinator joined another and never had it',
      });
    if (existsSync(file))
      throw new MeshError('CONFLICT', `${file} exists already`, { hint: 'name another file with --out' });
    const { root } = ca.authority;
    writeFileAtomic(file, toPem(root.raw) + sealKey(ca.readRootKey(), passphrase), 0o600);
    const copy = readRootFile(file, passphrase);
    if (!copy.root.raw.equals(root.raw))
      throw new MeshError('BAD_CERTIFICATE', `${file} cannot be read back as it was written`, {
        hint: 'the key is still in its directory; write to another disk',
      });
    if (keep) return;
    rmSync(filesOf(ca.directory).rootKey);
    syncDirectory(ca.directory);
  });
}

/**
 * Puts the key back into its directory, encrypted as the keys beside it are.
 * @throws MeshError CONFLICT when the file is of another mesh
 */
export function importRootKey(ca: CaDirectory, { root, key }: RootFile): Promise<void> {
  return ca.locked(() => {
    if (!root.raw.equals(ca.authority.root.raw))
      throw new MeshError('CONFLICT', `the file holds the root ${fingerprintOf(root)}, not that of ${ca.directory}`, {
        hint: `the directory's root is ${ca.authority.rootFingerprint}`,
      });
    writeFileAtomic(filesOf(ca.directory).rootKey, ca.seal(key), 0o600);
  });
}

/** An intermediate for a request of `mesh-ca issuer request`. @throws MeshError BAD_CERTIFICATE */
export function signRequest(
  { root, key }: RootFile,
  csrPem: string,
  nowMs: number,
): { certificate: X509Certificate; publicKeyDer: Buffer } {
  const body = /-----BEGIN CERTIFICATE REQUEST-----([^-]+)-----END/.exec(csrPem)?.[1];
  if (body === undefined)
    throw new MeshError('BAD_CERTIFICATE', 'there is no certificate request in the file', {
      hint: 'make one on the coordinator: mesh-ca issuer request',
    });
  const { publicKeyDer } = readCsr(Buffer.from(body, 'base64'));
  return { certificate: signIssuer(root, key, publicKeyDer, nowMs), publicKeyDer };
}
