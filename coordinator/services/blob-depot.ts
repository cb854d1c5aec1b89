/**
 * Files by content, below the data directory's `blobs/`. A blob is written to a temporary name, hashed on the way, and
 * renamed when its digest is what was announced; so a name that exists is complete. The table `blob` knows sizes and
 * last uses, for retention.
 */
import { createHash, randomBytes } from 'node:crypto';
import { createReadStream, existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs';
import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { MeshError, systemCode } from '../../common/errors.js';
import { makePrivateDir } from '../../common/files.js';
import type { BlobStore } from '../ports.js';

const DIGEST = /^[0-9a-f]{64}$/;

export class BlobDepot {
  readonly #directory: string;
  readonly #store: BlobStore;
  readonly #sizeBytesMax: number;

  constructor(directory: string, store: BlobStore, sizeBytesMax: number) {
    this.#directory = directory;
    this.#store = store;
    this.#sizeBytesMax = sizeBytesMax;
    makePrivateDir(directory);
    for (const name of readdirSync(directory)) {
      if (name.endsWith('.part')) rmSync(join(directory, name), { force: true });
    }
  }

  /** The given digests that must still be uploaded, each once. @throws MeshError BAD_SPEC for a malformed digest */
  async missing(digests: readonly string[]): Promise<string[]> {
    const wanted = [...new Set(digests)];
    for (const digest of wanted) this.#path(digest);
    const unknown = new Set(await this.#store.missing(wanted));
    const present = wanted.filter((digest) => !unknown.has(digest));
    await this.#store.touch(present);
    return wanted.filter((digest) => unknown.has(digest) || !existsSync(this.#path(digest)));
  }

  /** Begins a blob; nothing of it is visible until `commit` has found the digest right. */
  async write(digest: string): Promise<BlobWriter> {
    const path = this.#path(digest);
    const temporary = `${path}.${randomBytes(4).toString('hex')}.part`;
    mkdirSync(join(path, '..'), { recursive: true, mode: 0o700 });
    const file = await open(temporary, 'wx', 0o600);
    return new BlobWriter(file, temporary, path, digest, this.#sizeBytesMax, this.#store);
  }

  /** The blob's bytes. @throws MeshError NOT_FOUND */
  read(digest: string): AsyncIterable<Buffer> {
    const path = this.#path(digest);
    if (!existsSync(path)) throw new MeshError('NOT_FOUND', `no file with the digest ${digest} is stored`);
    return createReadStream(path, { highWaterMark: 256 * 1024 });
  }

  async remove(digests: string[]): Promise<void> {
    await this.#store.forget(digests);
    await Promise.all(digests.map((digest) => rm(this.#path(digest), { force: true })));
  }

  #path(digest: string): string {
    if (!DIGEST.test(digest)) throw new MeshError('BAD_SPEC', `"${digest.slice(0, 80)}" is not a SHA-256 digest`);
    return join(this.#directory, digest);
  }
}

export class BlobWriter {
  readonly #hash = createHash('sha256');
  #sizeBytes = 0;

  constructor(
    readonly file: FileHandle,
    readonly temporary: string,
    readonly path: string,
    readonly digest: string,
    readonly sizeBytesMax: number,
    readonly store: BlobStore,
  ) {}

  async append(data: Uint8Array): Promise<void> {
    this.#sizeBytes += data.length;
    if (this.#sizeBytes > this.sizeBytesMax) {
      throw new MeshError('BAD_SPEC', `a file is larger than ${this.sizeBytesMax} bytes`, {
        hint: 'split it, or raise max-blob-bytes on the coordinator',
      });
    }
    this.#hash.update(data);
    try {
      await this.file.write(data);
    } catch (error) {
      if (systemCode(error) === 'ENOSPC')
        throw new MeshError('DISK_FULL', 'the coordinator has no room for this file', { cause: error });
      throw error;
    }
  }

  async commit(): Promise<void> {
    const actual = this.#hash.digest('hex');
    if (actual !== this.digest) {
      await this.abandon();
      throw new MeshError('BAD_SPEC', `a file arrived damaged: its digest is ${actual}, not ${this.digest}`);
    }
    await this.file.sync();
    await this.file.close();
    await rename(this.temporary, this.path);
    await this.store.record(this.digest, this.#sizeBytes);
  }

  async abandon(): Promise<void> {
    await this.file.close().catch(() => undefined);
    await rm(this.temporary, { force: true });
  }
}
