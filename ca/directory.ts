/**
 * A certificate authority on disk:
 *
 *   ca.crt      the root certificate
 *   ca.key      its key, 0600; may be kept elsewhere, then the issuer cannot be renewed here
 *   issuer.crt  the intermediate that signs the leaves
 *   issuer.key  its key, 0600
 *   index.json  every certificate issued from here, with revocations; 0600
 *   index.lock  held while any of these is rewritten
 *
 * Every file is replaced at once or not at all. A renewal replaces two: the new key is written as `issuer.key.next`, then
 * `issuer.crt`, then the key gets its name; a directory found between the last two steps is finished when it is opened.
 */
import { X509Certificate } from 'node:crypto';
import { existsSync, readdirSync, renameSync, rmdirSync, rmSync } from 'node:fs';
import { type Clock, systemClock } from '../common/clock.js';
import { MeshError } from '../common/errors.js';
import { makePrivateDir, readIfExists, writeFileAtomic } from '../common/files.js';
import { fieldsOf, fingerprintOf } from '../common/identity/check.js';
import type { Role } from '../common/identity/identity.js';
import { renewalAtMs } from '../common/identity/profile.js';
import { randomCharacters } from '../common/ids.js';
import { Authority, type Issued, issuerRenewalDue, makeIssuer, makeRoot, signIssuer } from './authority.js';
import { type Index, type IndexEntry, isHolder, loadIndex, readIndex, saveIndex } from './index-file.js';
import { makeKeyPair, readPrivateKeyFile } from './keys.js';
import { filesOf, loadAuthority } from './layout.js';
import { withLock } from './lock.js';
import type { LeafRequest } from './policy.js';
import { toPem } from './x509/certificate.js';

export { issuerRenewalDue } from './authority.js';
export { type IndexEntry, readIndex } from './index-file.js';

export interface InitOptions {
  /** 1 to 63 of a-z, 0-9 and hyphens; one is made up when absent. */
  meshId?: string;
  nowMs: number;
  clock?: Clock;
}

/**
 * Makes a new mesh's authority in an empty or new directory.
 * @throws MeshError DATA_DIR when there is one already or the directory cannot be written, BAD_NAME for the mesh id
 */
export async function initDirectory(directory: string, options: InitOptions): Promise<CaDirectory> {
  const meshId = options.meshId ?? `mesh-${randomCharacters(12)}`;
  const root = makeRoot(meshId, options.nowMs);
  const issuer = makeIssuer(root.certificate, root.privateKey, options.nowMs);
  const existed = existsSync(directory);
  makePrivateDir(directory);
  const paths = filesOf(directory);
  await withLock(paths.lock, options.clock ?? systemClock, () => {
    const { lock: _, ...others } = paths;
    const taken = Object.values(others).find((path) => existsSync(path));
    if (taken)
      throw new MeshError('DATA_DIR', `there is a certificate authority in ${directory} already (${taken})`, {
        hint: 'use it, or name another directory with --dir',
      });
    const index: Index = { version: 1, meshId, certificates: [] };
    const made: [string, string, number][] = [
      [paths.rootKey, root.privateKeyPem, 0o600],
      [paths.issuerKey, issuer.privateKeyPem, 0o600],
      [paths.issuer, toPem(issuer.certificate.raw), 0o644],
      [paths.index, `${JSON.stringify(index, null, 1)}\n`, 0o600],
      [paths.root, toPem(root.certificate.raw), 0o644],
    ];
    try {
      for (const [path, content, mode] of made) writeFileAtomic(path, content, mode);
    } catch (error) {
      for (const [path] of made) rmSync(path, { force: true });
      throw error;
    }
  }).catch((error: unknown) => {
    if (!existed && readdirSync(directory).length === 0) rmdirSync(directory);
    throw error;
  });
  return openDirectory(directory);
}

/**
 * The key that another authority is about to certify as this directory's issuer, PEM; the same one after a crash, until
 * `adoptIssuer` has put its certificate beside it.
 */
export function keyForIssuer(directory: string): string {
  makePrivateDir(directory);
  const path = filesOf(directory).issuerKeyNext;
  const waiting = readIfExists(path);
  if (waiting !== undefined) return waiting;
  const { privateKeyPem } = makeKeyPair();
  writeFileAtomic(path, privateKeyPem, 0o600);
  return privateKeyPem;
}

/**
 * Makes the directory of a coordinator whose issuer was signed elsewhere, for the key of `keyForIssuer`: it has no root
 * key. @throws MeshError BAD_CERTIFICATE when the three do not belong together
 */
export async function initAdopted(directory: string, parts: { rootPem: string; issuerPem: string; nowMs: number }) {
  const root = new X509Certificate(parts.rootPem);
  const issuer = new X509Certificate(parts.issuerPem);
  const issuerKey = readPrivateKeyFile(filesOf(directory).issuerKeyNext);
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

/**
 * @throws MeshError DATA_DIR when there is none or a file cannot be read, BAD_CERTIFICATE when its files do not belong
 * together
 */
export const openDirectory = (directory: string, clock: Clock = systemClock): CaDirectory =>
  new CaDirectory(directory, clock, loadAuthority(directory));

export class CaDirectory {
  #authority: Authority;

  constructor(
    readonly directory: string,
    readonly clock: Clock,
    authority: Authority,
  ) {
    this.#authority = authority;
  }

  /** Replaced when the issuer is renewed: ask for it each time. */
  get authority(): Authority {
    return this.#authority;
  }

  /** Whether the root's key is here. */
  get hasRootKey(): boolean {
    return existsSync(filesOf(this.directory).rootKey);
  }

  /** When the issuer is to be renewed, milliseconds since 1970. */
  get issuerRenewalAtMs(): number {
    const { issuer } = this.#authority;
    return renewalAtMs({ ...fieldsOf(issuer), fingerprint: fingerprintOf(issuer) });
  }

  /**
   * Puts a new issuer, key included, in place of one that has lived for 50 to 80 % of its time. What the old one signed
   * stays valid to its end. True when this directory's issuer is another one afterwards.
   * @throws MeshError DATA_DIR or BAD_CERTIFICATE when it is due but cannot be done
   */
  async renewIssuerIfDue(nowMs: number): Promise<boolean> {
    if (!issuerRenewalDue(this.#authority.issuer, nowMs) || !this.hasRootKey) return false;
    const before = this.#authority.issuer;
    await this.#locked(() => {
      this.#authority = loadAuthority(this.directory);
      if (!issuerRenewalDue(this.#authority.issuer, nowMs)) return;
      const paths = filesOf(this.directory);
      const issuer = makeIssuer(this.#authority.root, readPrivateKeyFile(paths.rootKey), nowMs);
      writeFileAtomic(paths.issuerKeyNext, issuer.privateKeyPem, 0o600);
      writeFileAtomic(paths.issuer, toPem(issuer.certificate.raw));
      this.#authority = loadAuthority(this.directory);
    });
    return !this.#authority.issuer.raw.equals(before.raw);
  }

  /**
   * Puts an issuer that was signed elsewhere for the key of `keyForIssuer` in place of the present one.
   * @throws MeshError BAD_CERTIFICATE when the root did not sign it or it is for another key
   */
  adoptIssuer(issuerPem: string): Promise<void> {
    return this.#locked(() => {
      const paths = filesOf(this.directory);
      const issuer = new X509Certificate(issuerPem);
      const { root } = this.#authority;
      new Authority({ root, issuer, issuerKey: readPrivateKeyFile(paths.issuerKeyNext) });
      writeFileAtomic(paths.issuer, toPem(issuer.raw));
      this.#authority = loadAuthority(this.directory);
    });
  }

  /**
   * An intermediate for an issuing key that another machine holds, PEM.
   * @throws MeshError DATA_DIR when the root's key is not here, BAD_CERTIFICATE when the root is out of its dates
   */
  signIssuer(publicKeyDer: Buffer, nowMs: number): string {
    const rootKey = readPrivateKeyFile(filesOf(this.directory).rootKey);
    return toPem(signIssuer(this.#authority.root, rootKey, publicKeyDer, nowMs).raw);
  }

  /**
   * Issues and records. Names are unique per role among certificates that are neither revoked nor expired.
   * @param options.sameHolder the asker is the one who holds the name already: a renewal
   * @throws MeshError CONFLICT when the name is taken; what `Authority.issue` throws
   */
  issue(request: LeafRequest, options: { sameHolder: boolean }): Promise<Issued> {
    return this.#locked(() => {
      const { role, name, nowMs } = request;
      const index = loadIndex(this.directory);
      const issued = this.#authority.issue(request);
      const holder = index.certificates.find((entry) => isHolder(entry, role, name, nowMs));
      if (holder && !options.sameHolder && holder.publicKeyDigest !== issued.publicKeyDigest)
        throw new MeshError('CONFLICT', `the ${role} ${name} has a certificate already (${holder.serial})`, {
          hint: `renew it (mesh-ca renew ${name}), or revoke it first (mesh-ca revoke ${name})`,
        });
      saveIndex(this.directory, { ...index, certificates: [...index.certificates, issued] }, nowMs);
      return issued;
    });
  }

  /** Every certificate, oldest first. */
  list(): IndexEntry[] {
    return readIndex(this.directory);
  }

  /** The latest certificate of each role that the name has and that is neither revoked nor expired. */
  holders(name: string, nowMs: number): IndexEntry[] {
    const latest = new Map<Role, IndexEntry>();
    for (const entry of this.list()) if (isHolder(entry, entry.role, name, nowMs)) latest.set(entry.role, entry);
    return [...latest.values()];
  }

  /**
   * Revokes every certificate of a name, or the one with a serial. A running coordinator imports it at its next start.
   * @returns what is revoked now that was not before
   * @throws MeshError NOT_FOUND when nothing has that name or serial
   */
  revoke(nameOrSerial: string, nowMs: number): Promise<IndexEntry[]> {
    return this.#locked(() => {
      const index = loadIndex(this.directory);
      const serial = nameOrSerial.toLowerCase().replaceAll(':', '').replace(/^0+/, '');
      const matches = (entry: IndexEntry) => entry.name === nameOrSerial || entry.serial === serial;
      if (!index.certificates.some(matches))
        throw new MeshError('NOT_FOUND', `no certificate was issued here to ${JSON.stringify(nameOrSerial)}`, {
          hint: 'list them: mesh-ca list',
        });
      const revoked: IndexEntry[] = [];
      const certificates = index.certificates.map((entry) => {
        if (!matches(entry) || entry.revokedAtMs !== undefined) return entry;
        const changed = { ...entry, revokedAtMs: nowMs };
        revoked.push(changed);
        return changed;
      });
      saveIndex(this.directory, { ...index, certificates }, nowMs);
      return revoked;
    });
  }

  #locked<T>(work: () => T): Promise<T> {
    return withLock(filesOf(this.directory).lock, this.clock, work);
  }
}
