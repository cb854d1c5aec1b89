/**
 * The certificate, key and root of an agent or a person, as three files in one folder: `agent.crt`, `agent.key` (0600),
 * `ca.crt`; people's are `client.*`.
 *
 * Two files cannot be replaced at once, so the new pair is written beside the old (`.next`), then renamed, key first. A
 * crash in between leaves a key that fits either the certificate in place or the one still waiting, never none:
 *
 *   old crt, old key | + next pair        → old pair serves
 *   old crt, new key | next crt is left   → new key and next crt serve, and the rename is finished
 *
 * When the root of the mesh is replaced by another one, `ca.former` remembers the digests of those that were trusted: a
 * token that was spent long ago pins one of them, and is no token of another mesh.
 *
 * The key that a join is about to certify waits as `.key.next` from before the token is spent: when the answer is lost
 * in a crash, joining again with the same token and key brings the same certificate.
 */
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { chmodSync, closeSync, fsyncSync, openSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { MeshError, systemCode } from '../common/errors.js';
import { makePrivateDir, readIfExists, writeFileAtomic } from '../common/files.js';
import { makeKeyPair } from '../common/identity/keys.js';
import { readRoots } from '../common/identity/roots.js';
import type { Credential } from './credentials.js';

const FORMER_MAX = 16;

export class CredentialStore {
  readonly #folder: string;
  readonly #certificate: string;
  readonly #key: string;
  readonly #root: string;
  readonly #former: string;

  /** @param stem the files' name: `agent` or `client` */
  constructor(folder: string, stem: 'agent' | 'client') {
    this.#folder = folder;
    this.#certificate = join(folder, `${stem}.crt`);
    this.#key = join(folder, `${stem}.key`);
    this.#root = join(folder, 'ca.crt');
    this.#former = join(folder, 'ca.former');
  }

  /**
   * What is stored, or undefined when nothing is yet. Finishes what a crash interrupted.
   * @throws MeshError BAD_CERTIFICATE when the files do not belong together, DATA_DIR when they cannot be read
   */
  load(): Credential | undefined {
    const root = readIfExists(this.#root);
    const privateKey = readIfExists(this.#key);
    const [present, next] = [readIfExists(this.#certificate), readIfExists(`${this.#certificate}.next`)];
    if (privateKey === undefined || (present === undefined && next === undefined)) return undefined;
    const certificateChain = [present, next].find((chain) => chain !== undefined && belongTogether(chain, privateKey));
    if (certificateChain === undefined)
      throw new MeshError('BAD_CERTIFICATE', `${this.#key} is not the key of ${this.#certificate}`, {
        hint: 'restore both from the same backup, or remove both and join again',
      });
    if (root === undefined) throw new MeshError('BAD_CERTIFICATE', `${this.#root} is missing`);
    if (certificateChain === next && certificateChain !== present) this.#rename(this.#certificate);
    return { certificateChain, privateKey, root };
  }

  /** Replaces what is stored, at once as far as any reader or crash can tell. */
  save(credential: Credential): void {
    if (!belongTogether(credential.certificateChain, credential.privateKey))
      throw new MeshError('BAD_CERTIFICATE', 'the key is not the key of the certificate');
    makePrivateDir(this.#folder);
    this.#finishEarlier();
    this.#saveRoots(credential.root);
    this.#write(`${this.#key}.next`, credential.privateKey, 0o600);
    this.#write(`${this.#certificate}.next`, credential.certificateChain, 0o644);
    this.#rename(this.#key);
    this.#rename(this.#certificate);
  }

  /** Whether the root with this digest is trusted, or was once. */
  knowsRoot(digest: string): boolean {
    const roots = readIfExists(this.#root);
    return [...digestsIn(roots), ...this.#formerRoots()].includes(digest);
  }

  #formerRoots(): string[] {
    return readIfExists(this.#former)?.split('\n').filter(Boolean) ?? [];
  }

  #saveRoots(roots: string): void {
    const before = readIfExists(this.#root);
    if (before === roots) return;
    const gone = digestsIn(before).filter((digest) => !digestsIn(roots).includes(digest));
    const former = [...new Set([...this.#formerRoots(), ...gone])].slice(-FORMER_MAX);
    if (gone.length > 0) writeFileAtomic(this.#former, `${former.join('\n')}\n`);
    writeFileAtomic(this.#root, roots);
  }

  /** The key to join with, PEM; the same one after a crash, until a certificate for it is saved. */
  keyForJoining(): string {
    const waiting = readIfExists(`${this.#key}.next`);
    if (waiting !== undefined && isPrivateKey(waiting)) return waiting;
    makePrivateDir(this.#folder);
    const { privateKeyPem } = makeKeyPair();
    this.#write(`${this.#key}.next`, privateKeyPem, 0o600);
    return privateKeyPem;
  }

  /** After this no certificate waits, so the one in place is the one that the key in place belongs to. */
  #finishEarlier(): void {
    try {
      this.load();
    } catch (error) {
      if (!(error instanceof MeshError) || error.code !== 'BAD_CERTIFICATE') throw error;
    }
    rmSync(`${this.#certificate}.next`, { force: true });
  }

  #write(path: string, content: string, mode: number): void {
    writeFileAtomic(path, content, mode);
    chmodSync(path, mode);
    syncFolder(this.#folder);
  }

  #rename(path: string): void {
    try {
      renameSync(`${path}.next`, path);
    } catch (error) {
      throw new MeshError('DATA_DIR', `cannot write ${path} (${systemCode(error)})`, { cause: error });
    }
    syncFolder(this.#folder);
  }
}

/** Makes renames survive a power cut. Not every system can open a folder; there it is left to the file system. */
function syncFolder(folder: string): void {
  try {
    const descriptor = openSync(folder, 'r');
    try {
      fsyncSync(descriptor);
    } finally {
      closeSync(descriptor);
    }
  } catch {
    // Windows.
  }
}

function isPrivateKey(pem: string): boolean {
  try {
    createPrivateKey(pem);
    return true;
  } catch {
    return false;
  }
}

/** None, where there are no roots that can be read. */
function digestsIn(roots: string | undefined): readonly string[] {
  try {
    return roots === undefined ? [] : readRoots(roots).digests;
  } catch {
    return [];
  }
}

function belongTogether(certificateChain: string, privateKey: string): boolean {
  try {
    return new X509Certificate(certificateChain).checkPrivateKey(createPrivateKey(privateKey));
  } catch {
    return false;
  }
}
