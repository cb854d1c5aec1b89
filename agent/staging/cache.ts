/**
 * Files by content: `cache/<sha256>`. A file enters only after its digest was verified, under a temporary name first,
 * so a name that exists is whole. Many requests for one file share one fetch. The least recently used go when the
 * bound is exceeded; what is in use never does, so the bound may be exceeded by that much.
 *
 * A file found at start is verified again when it is first used: a power cut may have cut it short.
 */
import { createHash, randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { isDiskFull, systemCode } from '../../common/errors.js';
import { NodeFault } from '../core/types.js';

const DIGEST = /^[0-9a-f]{64}$/;
export const CACHE_BYTES_DEFAULT = 4 * 2 ** 30;

export interface StagingCacheOptions {
  directory: string;
  /** Bytes kept between uses. Default 4 GiB. */
  limitBytes?: number;
}

interface CacheEntry {
  sizeBytes: number;
  users: number;
  verified: boolean;
}

export type Fetch = (digest: string) => AsyncIterable<Uint8Array>;

export class StagingCache {
  readonly #directory: string;
  readonly #limitBytes: number;
  /** In order of last use. */
  readonly #entries = new Map<string, CacheEntry>();
  readonly #fetching = new Map<string, Promise<void>>();
  #totalBytes = 0;

  constructor(options: StagingCacheOptions) {
    this.#directory = options.directory;
    this.#limitBytes = options.limitBytes ?? CACHE_BYTES_DEFAULT;
  }

  get totalBytes(): number {
    return this.#totalBytes;
  }

  /** Learns what is there and removes what was half written. */
  async start(): Promise<void> {
    await mkdir(this.#directory, { recursive: true, mode: 0o700 });
    const found: { digest: string; sizeBytes: number; mtimeMs: number }[] = [];
    for (const name of await readdir(this.#directory)) {
      const path = join(this.#directory, name);
      const status = await stat(path);
      if (DIGEST.test(name) && status.isFile())
        found.push({ digest: name, sizeBytes: status.size, mtimeMs: status.mtimeMs });
      else await rm(path, { recursive: true, force: true });
    }
    found.sort((a, b) => a.mtimeMs - b.mtimeMs);
    for (const { digest, sizeBytes } of found) this.#enter(digest, sizeBytes, false);
    await this.#evict();
  }

  /**
   * Calls `use` with the path of a file whose content has this digest, fetching it if need be. The file stays until
   * `use` is done; it must not be changed.
   * @throws NodeFault when it cannot be fetched or stored, or arrives with another content
   */
  async withFile<T>(digest: string, fetch: Fetch, use: (path: string) => Promise<T>): Promise<T> {
    if (!DIGEST.test(digest)) throw new NodeFault(`"${digest}" is not a SHA-256 digest`);
    const path = join(this.#directory, digest);
    for (;;) {
      const entry = this.#entries.get(digest);
      if (!entry) {
        await this.#fetchOnce(digest, fetch);
        continue;
      }
      entry.users++;
      this.#entries.delete(digest);
      this.#entries.set(digest, entry);
      try {
        if (entry.verified || (await this.#verify(digest, entry))) return await use(path);
      } finally {
        entry.users--;
      }
    }
  }

  #enter(digest: string, sizeBytes: number, verified: boolean): void {
    this.#entries.set(digest, { sizeBytes, users: 0, verified });
    this.#totalBytes += sizeBytes;
  }

  #forget(digest: string, entry: CacheEntry): void {
    if (this.#entries.get(digest) !== entry) return;
    this.#entries.delete(digest);
    this.#totalBytes -= entry.sizeBytes;
  }

  /** False, and gone, when the content is another one. */
  async #verify(digest: string, entry: CacheEntry): Promise<boolean> {
    const path = join(this.#directory, digest);
    const hash = createHash('sha256');
    try {
      for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
      entry.verified = hash.digest('hex') === digest;
    } catch (error) {
      if (systemCode(error) !== 'ENOENT') throw new NodeFault(`${path} cannot be read: ${systemCode(error)}`, error);
    }
    if (!entry.verified) {
      this.#forget(digest, entry);
      await rm(path, { force: true });
    }
    return entry.verified;
  }

  #fetchOnce(digest: string, fetch: Fetch): Promise<void> {
    let running = this.#fetching.get(digest);
    if (!running) {
      running = this.#fetchFile(digest, fetch).finally(() => this.#fetching.delete(digest));
      this.#fetching.set(digest, running);
    }
    return running;
  }

  async #fetchFile(digest: string, fetch: Fetch): Promise<void> {
    const temporary = join(this.#directory, `${digest}.${randomBytes(4).toString('hex')}.tmp`);
    try {
      const { actual, sizeBytes } = await this.#download(temporary, fetch(digest));
      if (actual !== digest) throw new NodeFault(`the file ${digest} arrived damaged: its SHA-256 is ${actual}`);
      await rename(temporary, join(this.#directory, digest));
      this.#enter(digest, sizeBytes, true);
    } catch (error) {
      await rm(temporary, { force: true });
      throw error instanceof NodeFault ? error : new NodeFault(fetchProblem(digest, error), error);
    }
    await this.#evict(digest);
  }

  async #download(path: string, chunks: AsyncIterable<Uint8Array>): Promise<{ actual: string; sizeBytes: number }> {
    const hash = createHash('sha256');
    let sizeBytes = 0;
    const file = await open(path, 'wx', 0o600);
    try {
      for await (const chunk of chunks) {
        hash.update(chunk);
        for (let done = 0; done < chunk.length; ) done += (await file.write(chunk, done)).bytesWritten;
        sizeBytes += chunk.length;
      }
    } finally {
      await file.close();
    }
    return { actual: hash.digest('hex'), sizeBytes };
  }

  async #evict(keep?: string): Promise<void> {
    for (const [digest, entry] of this.#entries) {
      if (this.#totalBytes <= this.#limitBytes) return;
      if (entry.users > 0 || digest === keep) continue;
      this.#forget(digest, entry);
      await rm(join(this.#directory, digest), { force: true });
    }
  }
}

function fetchProblem(digest: string, error: unknown): string {
  if (isDiskFull(error)) return 'the disk of the node is full';
  return `the file ${digest} could not be fetched: ${error instanceof Error ? error.message : String(error)}`;
}
