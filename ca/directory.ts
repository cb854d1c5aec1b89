/**
 * A certificate authority on disk:
 *
 *   ca.crt      the root certificate
 *   ca.key      its key, 0600; may be kept elsewhere, then the issuer cannot be renewed here (root-key.ts)
 *   issuer.crt  the intermediate that signs the leaves
 *   issuer.key  its key, 0600
 *   secrets.key the mesh's key for secrets on a coordinator (coordinator/secret-keeper.ts), 0600
 *   index.json  every certificate issued from here, with revocations, and the number of the latest list of them; 0600
 *   index.lock  held while any of these is rewritten
 *   ca.former   digests of the roots that were here before
 *   next/       while the root is being replaced: the authority that takes over (next-root.ts)
 *
 * Once a passphrase is set all keys are encrypted with it, those made later too. Without it the directory still tells and
 * revokes what was issued.
 *
 * Every file is replaced at once or not at all. A renewal replaces two: the new key is written as `issuer.key.next`, then
 * `issuer.crt`, then the key gets its name; a directory found between the last two steps is finished when it is opened.
 */
import { type KeyObject, X509Certificate } from 'node:crypto';
import { existsSync, readdirSync, rmdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { type Clock, systemClock } from '../common/clock.js';
import { MeshError } from '../common/errors.js';
import { makePrivateDir, readIfExists, writeFileAtomic } from '../common/files.js';
import { fieldsOf, fingerprintOf } from '../common/identity/check.js';
import type { Role } from '../common/identity/identity.js';
import { joinRoots, readRoots } from '../common/identity/roots.js';
import { renewalAtMs } from '../common/identity/profile.js';
import { randomCharacters } from '../common/ids.js';
import type { Passphrase } from '../common/passphrase.js';
import { Authority, type Issued, issuerRenewalDue, makeIssuer, makeRoot, signIssuer } from './authority.js';
import { type Index, type IndexEntry, isHolder, loadIndex, readIndex, saveIndex } from './index-file.js';
import { CRL_LIFETIME_MS, type Crl, revokedBy } from './crl.js';
import { missingPassphrase, openKey, readPrivateKeyFile, sealKey, waitingKey } from './keys.js';
import { filesOf, isSealedDirectory, loadAuthority, readCertificateFile } from './layout.js';
import { withLock } from './lock.js';
import { finishTaking, type NextRoot, readNextRoot } from './next-root.js';
import { finishResealing, resealKeys } from './reseal.js';
import type { LeafRequest } from './policy.js';
import { toPem } from './x509/certificate.js';

export { initAdopted, keyForIssuer } from './adopted.js';
export { issuerRenewalDue } from './authority.js';
export { type IndexEntry, readIndex } from './index-file.js';

export interface InitOptions {
  /** 1 to 63 of a-z, 0-9 and hyphens; one is made up when absent. */
  meshId?: string;
  nowMs: number;
  clock?: Clock;
  /** Encrypts the keys from the first byte on. */
  passphrase?: Passphrase | undefined;
}

/**
 * Makes a new mesh's authority in an empty or new directory.
 * @throws MeshError DATA_DIR when there is one already or the directory cannot be written, BAD_NAME for the mesh id
 */
export async function initDirectory(directory: string, options: InitOptions): Promise<CaDirectory> {
  const meshId = options.meshId ?? `mesh-${randomCharacters(12)}`;
  const root = makeRoot(meshId, options.nowMs);
  const issuer = makeIssuer(root.certificate, root.privateKey, options.nowMs);
  const { clock = systemClock, passphrase } = options;
  const existed = existsSync(directory);
  makePrivateDir(directory);
  const paths = filesOf(directory);
  await withLock(paths.lock, clock, () => {
    const { lock: _, ...others } = paths;
    const taken = Object.values(others).find((path) => existsSync(path));
    if (taken)
      throw new MeshError('DATA_DIR', `there is a certificate authority in ${directory} already (${taken})`, {
        hint: 'use it, or name another directory with --dir',
      });
    const index: Index = { version: 1, meshId, certificates: [] };
    const made: [string, string, number][] = [
      [paths.rootKey, sealKey(root.privateKey, passphrase), 0o600],
      [paths.issuerKey, sealKey(issuer.privateKey, passphrase), 0o600],
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
  return openDirectory(directory, clock, passphrase);
}

/**
 * @param passphrase without it, a directory whose keys are encrypted issues nothing
 * @throws MeshError DATA_DIR when there is none or a file cannot be read, BAD_CERTIFICATE when its files do not belong
 * together, PASSPHRASE when it does not open them
 */
export function openDirectory(directory: string, clock: Clock = systemClock, passphrase?: Passphrase): CaDirectory {
  finishTaking(directory);
  readCertificateFile(filesOf(directory).root, directory);
  const opened = new CaDirectory(directory, clock, passphrase);
  if (passphrase || !opened.isSealed) opened.reload();
  return opened;
}

export class CaDirectory {
  #authority: Authority | undefined;
  #next: NextRoot | undefined;
  #passphrase: Passphrase | undefined;

  constructor(
    readonly directory: string,
    readonly clock: Clock,
    passphrase: Passphrase | undefined,
  ) {
    this.#passphrase = passphrase;
  }

  /**
   * The one whose chain coordinators present. Replaced when the issuer is renewed: ask for it each time.
   * @throws MeshError PASSPHRASE when it was opened without
   */
  get authority(): Authority {
    if (!this.#authority) throw missingPassphrase(filesOf(this.directory).issuerKey);
    return this.#authority;
  }

  /** Reads the files again: another process may have put a new issuer there. */
  reload(): void {
    this.#authority = loadAuthority(this.directory, this.#passphrase);
    this.#next = readNextRoot(this.directory, this.#passphrase);
  }

  /** Whether its keys are under a passphrase. */
  get isSealed(): boolean {
    return isSealedDirectory(this.directory);
  }

  /** PEM, as the directory keeps its keys. @throws MeshError PASSPHRASE */
  seal(key: KeyObject): string {
    return sealKey(key, this.#sealing());
  }

  /**
   * What new keys are encrypted with: what opens the others. Somebody may have set a passphrase since this directory was
   * opened, and a key in clear, or under the former one, must not come to stand beside them.
   * @throws MeshError PASSPHRASE
   */
  #sealing(): Passphrase | undefined {
    if (!this.isSealed) return undefined;
    this.#readKey(filesOf(this.directory).issuerKey);
    return this.#passphrase;
  }

  /** A key that somebody else keeps here, under the same passphrase as the directory's own; undefined when it is absent. */
  readKey(name: string): KeyObject | undefined {
    finishResealing(this.directory);
    const path = join(this.directory, name);
    const pem = readIfExists(path);
    return pem === undefined ? undefined : openKey(pem, path, this.#passphrase);
  }

  /** @param name ends in `.key`: what does is encrypted with the others when the passphrase changes */
  writeKey(name: string, key: KeyObject): void {
    writeFileAtomic(join(this.directory, name), this.seal(key), 0o600);
  }

  /**
   * Encrypts every key with another passphrase, or none, all of them or none of them. A coordinator that runs goes on, and
   * needs the new one when it starts again. @returns the files
   * @throws MeshError PASSPHRASE
   */
  setPassphrase(passphrase: Passphrase | undefined): Promise<string[]> {
    return this.locked(() => {
      this.reload();
      if (this.#next)
        throw new MeshError(
          'CONFLICT',
          'the root is being replaced, and the keys of the next one are not in place yet',
          {
            hint: 'see mesh-ca rotate status; set the passphrase when it is over',
          },
        );
      const files = resealKeys(this.directory, this.#passphrase, passphrase);
      this.#passphrase = passphrase;
      return files;
    });
  }

  /** The one that issues to everybody else: another one while the root is being replaced. */
  get issuing(): Authority {
    return this.#next?.authority ?? this.authority;
  }

  /** The root that takes over, if there is one. */
  get nextRoot(): NextRoot | undefined {
    return this.#next;
  }

  /** Every root to trust, PEM. */
  get rootsPem(): string {
    const next = this.#next === undefined ? [] : [toPem(this.#next.certificate.raw)];
    return joinRoots([this.authority.rootPem, ...next]);
  }

  /** SHA-256 of each of them, hex. */
  get rootDigests(): string[] {
    return [...readRoots(this.rootsPem).digests];
  }

  /** Whether the root's key is here. */
  get hasRootKey(): boolean {
    return existsSync(filesOf(this.directory).rootKey);
  }

  /** When the issuer is to be renewed, milliseconds since 1970. */
  get issuerRenewalAtMs(): number {
    const { issuer } = this.authority;
    return renewalAtMs({ ...fieldsOf(issuer), fingerprint: fingerprintOf(issuer) });
  }

  /**
   * Puts a new issuer, key included, in place of one that has lived for 50 to 80 % of its time. What the old one signed
   * stays valid to its end. True when this directory's issuer is another one afterwards.
   * @throws MeshError DATA_DIR or BAD_CERTIFICATE when it is due but cannot be done
   */
  async renewIssuerIfDue(nowMs: number): Promise<boolean> {
    if (!issuerRenewalDue(this.authority.issuer, nowMs) || !this.hasRootKey) return false;
    const before = this.authority.issuer;
    await this.locked(() => {
      this.reload();
      if (!issuerRenewalDue(this.authority.issuer, nowMs)) return;
      const paths = filesOf(this.directory);
      const issuer = makeIssuer(this.authority.root, this.readRootKey(), nowMs);
      writeFileAtomic(paths.issuerKeyNext, this.seal(issuer.privateKey), 0o600);
      writeFileAtomic(paths.issuer, toPem(issuer.certificate.raw));
      this.reload();
    });
    return !this.authority.issuer.raw.equals(before.raw);
  }

  /** The key that another authority is about to certify as this directory's issuer, until `adoptIssuer`. */
  keyForNextIssuer(): KeyObject {
    return waitingKey(filesOf(this.directory).issuerKeyNext, this.#sealing());
  }

  /**
   * Puts an issuer that was signed elsewhere for the key of `keyForNextIssuer` in place of the present one.
   * @throws MeshError BAD_CERTIFICATE when the root did not sign it or it is for another key
   */
  adoptIssuer(issuerPem: string): Promise<void> {
    return this.locked(() => {
      const paths = filesOf(this.directory);
      const issuer = new X509Certificate(issuerPem);
      const { root } = this.authority;
      new Authority({ root, issuer, issuerKey: readPrivateKeyFile(paths.issuerKeyNext, this.#passphrase) });
      writeFileAtomic(paths.issuer, toPem(issuer.raw));
      this.reload();
    });
  }

  /**
   * An intermediate for an issuing key that another machine holds, PEM.
   * @param rootDigest of the root that is to sign it: the present one or the one that takes over
   * @throws MeshError DATA_DIR when the root's key is not here, BAD_CERTIFICATE when the root is out of its dates,
   * CONFLICT when it is another one
   */
  signIssuer(publicKeyDer: Buffer, nowMs: number, rootDigest = this.authority.rootFingerprint): string {
    const { root, rootFingerprint } = this.authority;
    const next = this.#next?.certificate;
    const isNext = next !== undefined && fingerprintOf(next) === rootDigest;
    if (!isNext && rootDigest !== rootFingerprint)
      throw new MeshError('CONFLICT', `the root ${rootDigest.slice(0, 16)} is not that of this coordinator`);
    const rootKey = isNext ? this.#readKey(filesOf(filesOf(this.directory).next).rootKey) : this.readRootKey();
    return toPem(signIssuer(isNext ? next : root, rootKey, publicKeyDer, nowMs).raw);
  }

  /** @throws MeshError DATA_DIR when it is not here, PASSPHRASE */
  readRootKey(): KeyObject {
    return this.#readKey(filesOf(this.directory).rootKey);
  }

  #readKey(path: string): KeyObject {
    return readPrivateKeyFile(path, this.#passphrase);
  }

  /** A step in the replacement of the root (next-root.ts), which opens and seals keys as this directory does. */
  takeStep(step: (directory: string, passphrase: Passphrase | undefined) => void): Promise<void> {
    return this.locked(() => {
      step(this.directory, this.#sealing());
      this.reload();
    });
  }

  /** The key that the next root is about to certify as an issuer. */
  keyForNextRoot(): KeyObject {
    const path = filesOf(filesOf(this.directory).next).issuerKeyNext;
    return waitingKey(path, this.#sealing());
  }

  /**
   * Issues and records. Names are unique per role among certificates that are neither revoked nor expired.
   * @param options.sameHolder the asker is the one who holds the name already: a renewal
   * @throws MeshError CONFLICT when the name is taken; what `Authority.issue` throws
   */
  issue(request: LeafRequest, options: { sameHolder: boolean }): Promise<Issued> {
    return this.locked(() => {
      const { role, name, nowMs } = request;
      const index = loadIndex(this.directory);
      const issued = this.issuing.issue(request);
      const holder = index.certificates.find((entry) => isHolder(entry, role, name, nowMs));
      if (holder && !options.sameHolder && holder.publicKeyDigest !== issued.publicKeyDigest)
        throw new MeshError('CONFLICT', `the ${role} ${name} has a certificate already (${holder.serial})`, {
          hint: `renew it (mesh-ca renew ${name}), or revoke it first (mesh-ca revoke ${name})`,
        });
      const { lifetimeMs } = request;
      const entry = { ...issued, ...(lifetimeMs === undefined ? {} : { lifetimeMs }), trusts: this.rootDigests };
      saveIndex(this.directory, { ...index, certificates: [...index.certificates, entry] }, nowMs);
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
   * Revokes every certificate of a name, or the one with a serial. A running coordinator imports it within a second.
   * @returns what is revoked now that was not before
   * @throws MeshError NOT_FOUND when nothing has that name or serial
   */
  revoke(nameOrSerial: string, nowMs: number): Promise<IndexEntry[]> {
    return this.locked(() => {
      const index = loadIndex(this.directory);
      const serial = nameOrSerial.toLowerCase().replaceAll(':', '').replace(/^0+/, '');
      // A serial means that certificate alone: nobody is revoked along with it who is called like it.
      const isSerial = index.certificates.some((entry) => entry.serial === serial);
      const matches = (entry: IndexEntry) => (isSerial ? entry.serial === serial : entry.name === nameOrSerial);
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

  /**
   * A new list of the certificates of the present issuer that are revoked: those in the index and those that the caller
   * knows of, which the index then has too.
   */
  signCrl(known: readonly IndexEntry[], nowMs: number): Promise<Crl> {
    return this.locked(() => {
      const index = loadIndex(this.directory);
      const entries = new Map(index.certificates.map((entry) => [entry.serial, entry]));
      for (const { serial, revokedAtMs } of revokedBy(this.authority.issuer, known, nowMs)) {
        const entry = entries.get(serial) ?? known.find((candidate) => candidate.serial === serial);
        if (entry) entries.set(serial, { ...entry, revokedAtMs: entry.revokedAtMs ?? revokedAtMs });
      }
      // Never lower than before, even when the index came from a backup: by then the clock has moved on.
      const number = Math.max((index.crlNumber ?? 0) + 1, Math.floor(nowMs / 1000));
      const certificates = [...entries.values()];
      saveIndex(this.directory, { ...index, certificates, crlNumber: number }, nowMs);
      const revoked = revokedBy(this.authority.issuer, certificates, nowMs);
      const times = { thisUpdateMs: nowMs, nextUpdateMs: nowMs + CRL_LIFETIME_MS };
      return { ...times, number, count: revoked.length, der: this.authority.signCrl({ ...times, number, revoked }) };
    });
  }

  /** Changes when the index was replaced, by whomever; '' when there is none. */
  get indexStamp(): string {
    const found = statSync(filesOf(this.directory).index, { throwIfNoEntry: false });
    return found ? `${found.ino} ${found.mtimeMs} ${found.size}` : '';
  }

  /** Runs `work` while nobody else rewrites any of the files. */
  locked<T>(work: () => T): Promise<T> {
    return withLock(filesOf(this.directory).lock, this.clock, work);
  }
}
