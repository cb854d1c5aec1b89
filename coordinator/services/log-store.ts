/**
 * Output of long or loud attempts, as files below `logs/`. (Short output travels with the result and lives in the
 * task's row.) One attempt keeps its first half-limit in `head` and what follows in two alternating tail files, so
 * that disk use stays below one and a half limits and nearly the last half-limit is always there; a reader sees the
 * head, a note of how much is missing, and the end, within the limit. Frames are protobuf OutputChunks, each behind its length.
 * Chunks that arrive twice are told by their offset and stored once.
 */
import { existsSync } from 'node:fs';
import { type FileHandle, mkdir, open, readdir, rm, stat, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { BinaryReader, BinaryWriter } from '@bufbuild/protobuf/wire';
import { OutputChunk, Stream } from '../../proto/gen/mesh/v1/common.js';

const READ_BYTES = 256 * 1024;

export interface AttemptKey {
  jobId: string;
  index: number;
  generation: number;
}

type Part = 'head' | 'tail0' | 'tail1';

/** Appends one attempt's chunks. Calls must not overlap. */
export class AttemptLog {
  #offset = 0;
  #part: Part = 'head';
  #partBytes = 0;
  #file: FileHandle | undefined;
  #restored = false;

  constructor(
    private readonly base: string,
    private readonly bytesMax: number,
  ) {}

  /** Everything before this offset is stored or was left out for good. */
  get offset(): number {
    return this.#offset;
  }

  /** Returns by how much what the disk holds of it has grown, or shrunk. */
  async append(chunks: readonly OutputChunk[]): Promise<number> {
    if (!this.#restored) await this.#restore();
    const writer = new BinaryWriter();
    let bytes = 0;
    let offset = this.#offset;
    for (const chunk of chunks) {
      const end = chunk.offset + chunk.data.length;
      if (end <= offset) continue;
      const known = Math.max(0, offset - chunk.offset);
      const fresh = known === 0 ? chunk : { ...chunk, offset, data: chunk.data.subarray(known) };
      OutputChunk.encode(fresh, writer.uint32(10).fork()).join();
      bytes += fresh.data.length;
      offset = end;
    }
    if (bytes === 0) return 0;
    const frames = writer.finish();
    let dropped = 0;
    try {
      dropped = await this.#turnPart(bytes);
      await this.#file?.appendFile(frames);
    } catch (error) {
      await this.close().catch(() => undefined);
      throw error;
    }
    this.#offset = offset;
    this.#partBytes += bytes;
    return frames.length - dropped;
  }

  /**
   * Goes on where an earlier handle, an earlier process or a failed write stopped. A frame that was cut off is cut away:
   * what is appended behind one could never be read.
   */
  async #restore(): Promise<void> {
    this.#offset = 0;
    for (const { part } of await partsInOrder(this.base)) {
      this.#part = part;
      this.#partBytes = 0;
      let whole = 0;
      const path = `${this.base}.${part}`;
      for await (const chunk of readFrames(path, (bytes) => (whole = bytes))) {
        this.#partBytes += chunk.data.length;
        this.#offset = chunk.offset + chunk.data.length;
      }
      if (whole < (await sizeOf(path))) await truncate(path, whole);
    }
    this.#restored = true;
  }

  /** Returns how many bytes on disk are given up for it. */
  async #turnPart(bytes: number): Promise<number> {
    const full = this.#partBytes > 0 && this.#partBytes + bytes > this.bytesMax / 2;
    if (this.#file && !full) return 0;
    if (full) {
      await this.#file?.close();
      this.#file = undefined;
      this.#part = this.#part === 'tail0' ? 'tail1' : 'tail0';
      this.#partBytes = 0;
    }
    const path = `${this.base}.${this.#part}`;
    await mkdir(join(path, '..'), { recursive: true, mode: 0o700 });
    const dropped = full ? await sizeOf(path) : 0;
    // A new file, not the old one emptied: whoever reads that one reads it to its end.
    if (full) await rm(path, { force: true });
    this.#file = await open(path, 'a', 0o600);
    return dropped;
  }

  /** Gives the file back; the next `append` looks at what is there. */
  async close(): Promise<void> {
    const file = this.#file;
    this.#file = undefined;
    this.#restored = false;
    await file?.close();
  }
}

/** The parts that exist: the head, then the tails by what they hold. */
async function partsInOrder(base: string): Promise<{ part: Part; offset: number }[]> {
  const found: { part: Part; offset: number }[] = [];
  for (const part of ['head', 'tail0', 'tail1'] as const) {
    for await (const chunk of readFrames(`${base}.${part}`)) {
      found.push({ part, offset: chunk.offset });
      break;
    }
  }
  return found.sort((a, b) => a.offset - b.offset);
}

export class LogStore {
  constructor(
    private readonly directory: string,
    readonly bytesMax: number,
  ) {}

  #base(key: AttemptKey): string {
    return join(this.directory, key.jobId, `${key.index}.${key.generation}`);
  }

  open(key: AttemptKey): AttemptLog {
    return new AttemptLog(this.#base(key), this.bytesMax);
  }

  has(key: AttemptKey): boolean {
    return existsSync(`${this.#base(key)}.head`);
  }

  /**
   * The stored chunks from an offset on, in order, with a note where something was left out. Empty when nothing was
   * streamed.
   */
  async *read(key: AttemptKey, fromOffset = 0): AsyncGenerator<OutputChunk> {
    const base = this.#base(key);
    const parts = await partsInOrder(base);
    let tailFrom: number | undefined;
    let next = fromOffset;
    for (const [turn, { part }] of parts.entries()) {
      const following = parts[turn + 1];
      // Nothing in it is wanted: the next one begins before.
      if (following && following.offset <= next) continue;
      // Two tails may hold more than a half-limit together; what is shown is within the limit.
      if (part !== 'head') tailFrom ??= await this.#shownFrom(base, parts);
      for await (const stored of readFrames(`${base}.${part}`)) {
        if (part !== 'head' && stored.offset < (tailFrom ?? 0)) continue;
        // Seen, or a tail that was begun anew meanwhile and is ahead of the one that is read next.
        const chunk = unseen(stored, next);
        if (!chunk) continue;
        if (chunk.offset > next) yield leftOut(next, chunk);
        next = chunk.offset + chunk.data.length;
        yield chunk;
      }
    }
  }

  /** Where the end begins that is shown: head and end together are within the limit. */
  async #shownFrom(base: string, parts: readonly { part: Part; offset: number }[]): Promise<number> {
    const [first, last] = [parts[0], parts.at(-1)];
    if (!last) return 0;
    const headBytes = first?.part === 'head' ? (await extentOf(`${base}.head`)).bytes : 0;
    return (await extentOf(`${base}.${last.part}`)).end - (this.bytesMax - headBytes);
  }

  /** What the disk holds of a job. */
  async bytesOf(jobId: string): Promise<number> {
    const directory = join(this.directory, jobId);
    let bytes = 0;
    for (const name of await readdir(directory).catch(() => [])) bytes += await sizeOf(join(directory, name));
    return bytes;
  }

  async removeJob(jobId: string): Promise<void> {
    await rm(join(this.directory, jobId), { recursive: true, force: true });
  }
}

/** How many bytes of output a part holds, and the offset behind the last; something may have been left out between. */
async function extentOf(path: string): Promise<{ bytes: number; end: number }> {
  const extent = { bytes: 0, end: 0 };
  for await (const chunk of readFrames(path)) {
    extent.bytes += chunk.data.length;
    extent.end = chunk.offset + chunk.data.length;
  }
  return extent;
}

/** The part of a chunk from an offset on; undefined when there is none. */
export function unseen(chunk: OutputChunk, from: number): OutputChunk | undefined {
  if (chunk.offset + chunk.data.length <= from) return undefined;
  if (chunk.offset >= from) return chunk;
  return { ...chunk, offset: from, data: chunk.data.subarray(from - chunk.offset) };
}

/** The note a reader finds where output was left out. */
export function leftOut(from: number, next: OutputChunk): OutputChunk {
  const text = `[${next.offset - from} bytes of output left out]\n`;
  return { stream: Stream.SYSTEM, offset: from, atMs: next.atMs, data: Buffer.from(text) };
}

const sizeOf = (path: string): Promise<number> =>
  stat(path).then(
    (found) => found.size,
    () => 0,
  );

/** Reads frames in bounded pieces; a frame cut off by a crash ends the file. `onWhole` hears where the last one ended. */
async function* readFrames(path: string, onWhole?: (bytes: number) => void): AsyncGenerator<OutputChunk> {
  const size = await sizeOf(path);
  if (size === 0) return;
  let whole = 0;
  const file = await open(path, 'r');
  try {
    let rest: Uint8Array = new Uint8Array(0);
    for (let position = 0; position < size; ) {
      const { bytesRead, buffer } = await file.read(Buffer.alloc(READ_BYTES), 0, READ_BYTES, position);
      if (bytesRead === 0) return;
      position += bytesRead;
      rest = Buffer.concat([rest, buffer.subarray(0, bytesRead)]);
      const { chunks, used } = decodeFrames(rest);
      rest = rest.subarray(used);
      whole += used;
      onWhole?.(whole);
      yield* chunks;
    }
  } finally {
    await file.close();
  }
}

function decodeFrames(bytes: Uint8Array): { chunks: OutputChunk[]; used: number } {
  const reader = new BinaryReader(bytes);
  const chunks: OutputChunk[] = [];
  let used = 0;
  while (reader.pos < reader.len) {
    try {
      reader.uint32();
      const length = reader.uint32();
      if (reader.pos + length > reader.len) break;
      chunks.push(OutputChunk.decode(reader, length));
      used = reader.pos;
    } catch {
      break;
    }
  }
  return { chunks, used };
}
