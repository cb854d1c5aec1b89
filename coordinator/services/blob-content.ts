/**
 * Files in the database, for coordinators that share it: a file that was uploaded here must be there for whoever leads
 * when this machine is gone. It goes from the local disk, where its digest was found right, to the database part by part;
 * and from there to another coordinator's disk the first time somebody asks for it. Memory is one part per transfer, and
 * few transfers run at a time, because the parts travel on the connections that everything else needs.
 */
import { createHash, randomBytes } from 'node:crypto';
import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import { MeshError } from '../../common/errors.js';
import { BLOB_PART_BYTES, type BlobContentStore } from '../ports.js';

const TRANSFERS_MAX = 2;

export class BlobContent {
  readonly #store: BlobContentStore;
  readonly #fetching = new Map<string, Promise<boolean>>();
  readonly #waiting: (() => void)[] = [];
  #running = 0;

  constructor(store: BlobContentStore) {
    this.#store = store;
  }

  /** Which of these the database does not hold as a whole. */
  absent(digests: string[]): Promise<string[]> {
    return this.#store.absent(digests);
  }

  /** Puts a file whose digest was checked into the database; it is there as a whole when this resolves. */
  save(digest: string, path: string, sizeBytes: number): Promise<void> {
    return this.#inTurn(async () => {
      const parts = Math.max(1, Math.ceil(sizeBytes / BLOB_PART_BYTES));
      const file = await open(path, 'r');
      try {
        for (let part = parts - 1; part >= 0; part--) await this.#store.put(digest, part, await readPart(file, part));
      } finally {
        await file.close();
      }
    });
  }

  /**
   * Brings a file to the local disk; of many that ask at a time one fetches it.
   * @returns false when the database does not hold it
   * @throws MeshError INTERNAL when what it holds is not what the digest says
   */
  fetch(digest: string, path: string): Promise<boolean> {
    const known = this.#fetching.get(digest);
    if (known) return known;
    const fetching = this.#inTurn(() => this.#fetch(digest, path)).finally(() => this.#fetching.delete(digest));
    this.#fetching.set(digest, fetching);
    return fetching;
  }

  async #fetch(digest: string, path: string): Promise<boolean> {
    const temporary = `${path}.${randomBytes(4).toString('hex')}.part`;
    let file: FileHandle | undefined;
    try {
      for await (const bytes of this.parts(digest)) {
        file ??= await open(temporary, 'wx', 0o600);
        await file.appendFile(bytes);
      }
      if (!file) return false;
      await file.close();
      await rename(temporary, path);
      return true;
    } catch (error) {
      await file?.close().catch(() => undefined);
      await rm(temporary, { force: true });
      throw error;
    }
  }

  /** The bytes from the database, nothing when it does not hold them. @throws MeshError INTERNAL at the end, as `fetch` */
  async *parts(digest: string): AsyncGenerator<Buffer> {
    const hash = createHash('sha256');
    for (let part = 0; ; part++) {
      const bytes = await this.#store.get(digest, part);
      if (bytes === undefined && part === 0) return;
      if (bytes !== undefined) {
        hash.update(bytes);
        yield bytes;
      }
      if (bytes === undefined || bytes.length < BLOB_PART_BYTES) break;
    }
    const actual = hash.digest('hex');
    if (actual !== digest)
      throw new MeshError('INTERNAL', `the database holds ${actual} in place of the file ${digest}`);
  }

  async #inTurn<T>(transfer: () => Promise<T>): Promise<T> {
    if (this.#running === TRANSFERS_MAX) await new Promise<void>((go) => this.#waiting.push(go));
    else this.#running++;
    try {
      return await transfer();
    } finally {
      // The place goes to the one that waits longest.
      const next = this.#waiting.shift();
      if (next) next();
      else this.#running--;
    }
  }
}

async function readPart(file: FileHandle, part: number): Promise<Buffer> {
  const buffer = Buffer.alloc(BLOB_PART_BYTES);
  let bytes = 0;
  for (;;) {
    const { bytesRead } = await file.read(buffer, bytes, BLOB_PART_BYTES - bytes, part * BLOB_PART_BYTES + bytes);
    bytes += bytesRead;
    if (bytesRead === 0 || bytes === BLOB_PART_BYTES) return buffer.subarray(0, bytes);
  }
}
