/**
 * Files by content, below the data directory's `blobs/`. A blob is written to a temporary name, hashed on the way, and
 * renamed when its digest is what was announced; so a name that exists is complete. The table `blob` knows sizes and
 * last uses, for retention. Where coordinators share a database, the bytes are kept there too before a blob counts as
 * stored, and the directory is a cache (adr/0013-blob-content.md).
 */
import { createHash, randomBytes } from 'node:crypto';
import { createReadStream, existsSync, readdirSync, rmSync } from 'node:fs';
import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { isDiskFull, MeshError } from '../../common/errors.js';
import type { Clock } from '../../common/clock.js';
import { makePrivateDir } from '../../common/files.js';
import type { BlobStore } from '../ports.js';
import type { BlobContent } from './blob-content.js';

const DIGEST = /^[0-9a-f]{64}$/;
/** Blobs of one stream that are being made durable at a time. */
const SETTLING_MAX = 32;
const READ_BYTES = 256 * 1024;
/** What was found so lately is not looked for again: retention forgets a file a day after its last use at the earliest. */
const FOUND_MS = 60_000;
const FOUND_MAX = 10_000;

export class BlobDepot {
  readonly #directory: string;
  readonly #store: BlobStore;
  readonly #sizeBytesMax: number;
  readonly #clock: Clock;
  readonly #content: BlobContent | undefined;
  /** Sizes of files that are used now, and until when that is believed; monotonic. */
  readonly #found = new Map<string, { size: number; untilMs: number }>();

  /** @param content where the bytes are for other coordinators too; undefined when there are none */
  constructor(directory: string, store: BlobStore, sizeBytesMax: number, clock: Clock, content?: BlobContent) {
    this.#directory = directory;
    this.#clock = clock;
    this.#store = store;
    this.#sizeBytesMax = sizeBytesMax;
    this.#content = content;
    makePrivateDir(directory);
    for (const name of readdirSync(directory)) {
      if (name.endsWith('.part')) rmSync(join(directory, name), { force: true });
    }
  }

  /** The given digests that must still be uploaded, each once. @throws MeshError BAD_SPEC for a malformed digest */
  async missing(digests: readonly string[]): Promise<string[]> {
    return (await this.look(digests)).missing;
  }

  /** The same, with the sizes of the others. */
  async look(digests: readonly string[]): Promise<{ missing: string[]; sizes: ReadonlyMap<string, number> }> {
    const wanted = [...new Set(digests)];
    for (const digest of wanted) this.#path(digest);
    const nowMs = this.#clock.monotonicMs();
    const sizes = new Map<string, number>();
    for (const digest of wanted) {
      const found = this.#found.get(digest);
      if (found && found.untilMs > nowMs && this.#mayBeHere(digest)) sizes.set(digest, found.size);
    }
    for (const [digest, size] of await this.#seek(wanted.filter((digest) => !sizes.has(digest)))) {
      sizes.set(digest, size);
      this.#remember(digest, { size, untilMs: nowMs + FOUND_MS });
    }
    return { missing: wanted.filter((digest) => !sizes.has(digest)), sizes };
  }

  /** Those that are here, with their sizes; they count as used now. */
  async #seek(digests: readonly string[]): Promise<Map<string, number>> {
    if (digests.length === 0) return new Map();
    const sizes = await this.#store.use([...digests]);
    const absent = new Set(await this.#content?.absent([...sizes.keys()]));
    return new Map([...sizes].filter(([digest]) => !absent.has(digest) && this.#mayBeHere(digest)));
  }

  #remember(digest: string, found: { size: number; untilMs: number }): void {
    this.#found.delete(digest);
    this.#found.set(digest, found);
    if (this.#found.size > FOUND_MAX) this.#found.delete(this.#found.keys().next().value as string);
  }

  /** Where the bytes are kept elsewhere, the directory says nothing. */
  #mayBeHere(digest: string): boolean {
    return this.#content !== undefined || existsSync(this.#path(digest));
  }

  /** Takes any number of blobs, one after the other; nothing of one is visible until its digest was found right. */
  upload(): BlobUpload {
    return new BlobUpload({
      pathOf: (digest) => this.#path(digest),
      directory: this.#directory,
      store: this.#store,
      sizeBytesMax: this.#sizeBytesMax,
      content: this.#content,
    });
  }

  /** The blob's bytes. @throws MeshError NOT_FOUND */
  async *read(digest: string): AsyncGenerator<Buffer> {
    const path = this.#path(digest);
    if (existsSync(path) || (await this.#cached(digest, path))) {
      yield* createReadStream(path, { highWaterMark: READ_BYTES }) as AsyncIterable<Buffer>;
      return;
    }
    let found = false;
    for await (const part of this.#content?.parts(digest) ?? []) {
      found = true;
      for (let from = 0; from < part.length; from += READ_BYTES) yield part.subarray(from, from + READ_BYTES);
    }
    if (!found) throw new MeshError('NOT_FOUND', `no file with the digest ${digest} is stored`);
  }

  /** Whether the file is on the local disk now; false, too, when there is no room for it. */
  async #cached(digest: string, path: string): Promise<boolean> {
    if (!this.#content) return false;
    try {
      return await this.#content.fetch(digest, path);
    } catch (error) {
      if (isDiskFull(error)) return false;
      throw error;
    }
  }

  async remove(digests: string[]): Promise<void> {
    for (const digest of digests) this.#found.delete(digest);
    await this.#store.forget(digests);
    await Promise.all(digests.map((digest) => rm(this.#path(digest), { force: true })));
  }

  #path(digest: string): string {
    if (!DIGEST.test(digest)) throw new MeshError('BAD_SPEC', `"${digest.slice(0, 80)}" is not a SHA-256 digest`);
    return join(this.#directory, digest);
  }
}

interface UploadOptions {
  pathOf: (digest: string) => string;
  directory: string;
  store: BlobStore;
  sizeBytesMax: number;
  content: BlobContent | undefined;
}

interface StoredBlob {
  digest: string;
  sizeBytes: number;
}

/**
 * Blobs of one stream. Each is made durable (written, synced, renamed) while the next ones arrive, a bounded number at a
 * time; the table hears of all of them at once, at the end.
 */
export class BlobUpload {
  readonly #settling = new Set<Promise<void>>();
  readonly #stored: StoredBlob[] = [];
  #writer: BlobWriter | undefined;
  #failure: unknown;

  constructor(private readonly options: UploadOptions) {}

  /** The next blob begins; the one before it is complete. @throws MeshError BAD_SPEC, DISK_FULL, also of earlier ones */
  async begin(digest: string): Promise<void> {
    await this.#complete();
    const path = this.options.pathOf(digest);
    const temporary = `${path}.${randomBytes(4).toString('hex')}.part`;
    const file = await onDisk(() => open(temporary, 'wx', 0o600));
    this.#writer = new BlobWriter(file, temporary, path, digest, this.options.sizeBytesMax);
  }

  async append(data: Uint8Array): Promise<void> {
    if (!this.#writer) throw new MeshError('BAD_SPEC', 'the first message of an upload names no digest');
    await this.#writer.append(data);
  }

  /** Everything is durable and known when this resolves. Returns how many blobs came. */
  async finish(): Promise<number> {
    await this.#complete();
    await Promise.all(this.#settling);
    if (this.#failure !== undefined) throw this.#failure;
    await syncDirectory(this.options.directory);
    await this.options.store.record(this.#stored);
    return this.#stored.length;
  }

  /** What is complete stays, for the next try and for retention to find; what is not is removed. */
  async abandon(): Promise<void> {
    await this.#writer?.abandon();
    await Promise.all(this.#settling);
    if (this.#stored.length > 0) await this.options.store.record(this.#stored).catch(() => undefined);
  }

  async #complete(): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    const writer = this.#writer;
    if (!writer) return;
    this.#writer = undefined;
    const settled = this.#settle(writer)
      .catch((error: unknown) => {
        this.#failure ??= error;
      })
      .finally(() => this.#settling.delete(settled));
    this.#settling.add(settled);
    if (this.#settling.size >= SETTLING_MAX) await Promise.race(this.#settling);
  }

  async #settle(writer: BlobWriter): Promise<void> {
    const blob = await writer.commit();
    await this.options.content?.save(blob.digest, writer.path, blob.sizeBytes);
    this.#stored.push(blob);
  }
}

class BlobWriter {
  readonly #hash = createHash('sha256');
  #sizeBytes = 0;

  constructor(
    readonly file: FileHandle,
    readonly temporary: string,
    readonly path: string,
    readonly digest: string,
    readonly sizeBytesMax: number,
  ) {}

  async append(data: Uint8Array): Promise<void> {
    this.#sizeBytes += data.length;
    if (this.#sizeBytes > this.sizeBytesMax) {
      throw new MeshError('BAD_SPEC', `a file is larger than ${this.sizeBytesMax} bytes`, {
        hint: 'split it, or raise max-blob-bytes on the coordinator',
      });
    }
    this.#hash.update(data);
    // Not `write`, which may write a part of it and call that success when the disk gets full.
    await onDisk(() => this.file.appendFile(data));
  }

  async commit(): Promise<StoredBlob> {
    const actual = this.#hash.digest('hex');
    if (actual !== this.digest) {
      await this.abandon();
      throw new MeshError('BAD_SPEC', `a file arrived damaged: its digest is ${actual}, not ${this.digest}`);
    }
    try {
      await onDisk(() => this.file.sync());
      await this.file.close();
      await rename(this.temporary, this.path);
    } catch (error) {
      await this.abandon();
      throw error;
    }
    return { digest: this.digest, sizeBytes: this.#sizeBytes };
  }

  async abandon(): Promise<void> {
    await this.file.close().catch(() => undefined);
    await rm(this.temporary, { force: true });
  }
}

async function onDisk<T>(act: () => Promise<T>): Promise<T> {
  try {
    return await act();
  } catch (error) {
    if (isDiskFull(error))
      throw new MeshError('DISK_FULL', 'the coordinator has no room for this file', { cause: error });
    throw error;
  }
}

/** Makes the renames survive a power cut. */
async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}
