/**
 * The root that takes over from the present one (docs/security.md, "Rotation and recovery"). It stands in `next/` of the CA
 * directory, laid out as the directory itself is, and comes there step by step: the root certificate, with its key where
 * it was made; then an issuer that it signed. In the end every file of `next/` takes the place of the present one. Each
 * step can be repeated after a crash, and the last is finished when the directory is opened: `next/take` says that it
 * was begun.
 */
import { existsSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { sign, verify, X509Certificate } from 'node:crypto';
import { makePrivateDir, readIfExists, writeFileAtomic } from '../common/files.js';
import { joinRoots, readRoots } from '../common/identity/roots.js';
import type { Passphrase } from '../common/passphrase.js';
import { Authority, makeIssuer, makeRoot } from './authority.js';
import { readPrivateKeyFile, sealKey } from './keys.js';
import { filesOf, loadAuthority, readCertificateFile } from './layout.js';
import { toPem } from './x509/certificate.js';

/** What the mark says of the key of the next root. */
const KEY_TOO = 'key';
const KEY_ELSEWHERE = 'no key';

const markOf = (directory: string): string => join(filesOf(directory).next, 'take');

export interface NextRoot {
  certificate: X509Certificate;
  /** Once there is an issuer that it signed. */
  authority: Authority | undefined;
}

export function readNextRoot(directory: string, passphrase: Passphrase | undefined): NextRoot | undefined {
  const { next } = filesOf(directory);
  const paths = filesOf(next);
  const text = readIfExists(paths.root);
  if (text === undefined) return undefined;
  const authority = existsSync(paths.issuer) ? loadAuthority(next, passphrase) : undefined;
  return { certificate: new X509Certificate(text), authority };
}

/** Every root to trust, PEM, the present one first. @throws MeshError DATA_DIR when there is none */
export function readRootsPem(directory: string): string {
  const paths = filesOf(directory);
  const present = toPem(readCertificateFile(paths.root, directory).raw);
  return joinRoots([present, readIfExists(filesOf(paths.next).root) ?? present]);
}

/** Digests of every root that is or was the mesh's, as far as this directory has seen them; hex. */
export function knownRoots(directory: string): string[] {
  const paths = filesOf(directory);
  const present = [paths.root, filesOf(paths.next).root].flatMap((path) => readIfExists(path) ?? []);
  const former = readIfExists(paths.former)?.split('\n').filter(Boolean) ?? [];
  return [...new Set([...former, ...present.flatMap((pem) => readRoots(pem).digests)])];
}

/** Makes the root and its key, unless they are there. */
export function makeNextRoot(
  directory: string,
  meshId: string,
  nowMs: number,
  passphrase: Passphrase | undefined,
): void {
  const { next } = filesOf(directory);
  const paths = filesOf(next);
  if (existsSync(paths.root) && existsSync(paths.rootKey)) return;
  const root = makeRoot(meshId, nowMs);
  makePrivateDir(next);
  writeFileAtomic(paths.rootKey, sealKey(root.privateKey, passphrase), 0o600);
  writeFileAtomic(paths.root, toPem(root.certificate.raw));
}

/** Before what is signed, so that this signature can stand for nothing else. */
const ENDORSED = Buffer.from('planetary-mesh: the root that takes over\0');

/** Of the next root, by the key of the present one; base64. @throws MeshError when that key is not here */
export function endorseNextRoot(directory: string, passphrase: Passphrase | undefined): string {
  const paths = filesOf(directory);
  const { raw } = readCertificateFile(filesOf(paths.next).root, paths.next);
  return sign('sha256', Buffer.concat([ENDORSED, raw]), readPrivateKeyFile(paths.rootKey, passphrase)).toString(
    'base64',
  );
}

/**
 * Whether the key of this directory's root has endorsed another root. Which root takes over is told by the database, and
 * whoever can write there must not bring in one of their own.
 */
export function isEndorsed(directory: string, root: X509Certificate, endorsement: string): boolean {
  const present = readCertificateFile(filesOf(directory).root, directory);
  const text = Buffer.concat([ENDORSED, root.raw]);
  return verify('sha256', text, present.publicKey, Buffer.from(endorsement, 'base64'));
}

/** Writes down a root that was made elsewhere. One that never took over gives way to it. */
export function learnNextRoot(directory: string, root: X509Certificate): void {
  const { next } = filesOf(directory);
  rmSync(next, { recursive: true, force: true });
  makePrivateDir(next);
  writeFileAtomic(filesOf(next).root, toPem(root.raw));
}

/** Makes the issuer where the key of the next root is, unless it is there. */
export function makeNextIssuer(directory: string, nowMs: number, passphrase: Passphrase | undefined): void {
  const { next } = filesOf(directory);
  const paths = filesOf(next);
  if (existsSync(paths.issuer)) return;
  const root = new X509Certificate(readIfExists(paths.root) ?? '');
  const issuer = makeIssuer(root, readPrivateKeyFile(paths.rootKey, passphrase), nowMs);
  writeFileAtomic(paths.issuerKeyNext, sealKey(issuer.privateKey, passphrase), 0o600);
  writeFileAtomic(paths.issuer, toPem(issuer.certificate.raw));
}

/**
 * Takes an issuer that was signed elsewhere for the key that waits in `next/`.
 * @throws MeshError BAD_CERTIFICATE when the next root did not sign it or it is for another key
 */
export function adoptNextIssuer(directory: string, issuerPem: string, passphrase: Passphrase | undefined): void {
  const paths = filesOf(filesOf(directory).next);
  const [root, issuer] = [new X509Certificate(readIfExists(paths.root) ?? ''), new X509Certificate(issuerPem)];
  new Authority({ root, issuer, issuerKey: readPrivateKeyFile(paths.issuerKeyNext, passphrase) });
  writeFileAtomic(paths.issuer, toPem(issuer.raw));
}

/** The next authority becomes the present one, which is gone then. */
export function takeNextRoot(directory: string, passphrase: Passphrase | undefined): void {
  const { next } = filesOf(directory);
  loadAuthority(next, passphrase);
  writeFileAtomic(markOf(directory), existsSync(filesOf(next).rootKey) ? KEY_TOO : KEY_ELSEWHERE);
  finishTaking(directory);
}

/** Completes `takeNextRoot` where it was interrupted. The root comes last: it says whose the other files are. */
export function finishTaking(directory: string): void {
  const mark = readIfExists(markOf(directory));
  if (mark === undefined) return;
  const paths = filesOf(directory);
  const others = filesOf(paths.next);
  if (existsSync(others.root)) writeFileAtomic(paths.former, `${knownRoots(directory).join('\n')}\n`);
  // The key of the old root signs nothing any more.
  if (mark === KEY_ELSEWHERE) rmSync(paths.rootKey, { force: true });
  for (const file of ['rootKey', 'issuerKey', 'issuer', 'root'] as const)
    if (existsSync(others[file])) renameSync(others[file], paths[file]);
  rmSync(paths.issuerKeyNext, { force: true });
  rmSync(paths.next, { recursive: true, force: true });
}
