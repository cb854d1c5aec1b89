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
import { MeshError } from '../../common/errors.js';
import { ViewReader, WirePieces } from '../../common/wire-pieces.js';
import { OutputChunk, Stream } from '../../proto/gen/mesh/v1/common.js';

/** Field 1 of a frame is a chunk, field 4 of a chunk its data, the last field it has; both with a length. */
const FRAME_TAG = (1 << 3) | 2;
const DATA_TAG = (4 << 3) | 2;
const NOTHING = Buffer.alloc(0);
const READ_BYTES = 128 * 1024;
/** Between two places of a file at which reading may begin. */
const MARK_BYTES = 256 * 1024;
/** A part that is begun anew between the look at what there is and its opening is looked for again. */
const TRIES_MAX = 3;

export interface AttemptKey {
  jobId: string;
  index: number;
  generation: number;
}

type Part = 'head' | 'tail0' | 'tail1';

/** What one part holds: offsets of the output, of which something may have been left out between. */
interface Extent {
  part: Part;
  start: number;
  end: number;
  /** Of output, and on disk. */
  bytes: number;
  size: number;
  /** Where in the file some of the frames begin, so that a reader need not begin at the first. */
  marks: { offset: number; position: number }[];
}

/** Appends one attempt's chunks. Calls must not overlap. */
export class AttemptLog {
  #extents: Extent[] = [];
  #file: FileHandle | undefined;
  #restored = false;

  /** @param live what is known of every log that is written now, by its base */
  constructor(
    private readonly base: string,
    private readonly bytesMax: number,
    private readonly live: Map<string, readonly Extent[]>,
  ) {}

  /** Everything before this offset is stored or was left out for good. */
  get offset(): number {
    return this.#extents.at(-1)?.end ?? 0;
  }

  /** Returns by how much what the disk holds of it has grown, or shrunk. */
  async append(chunks: readonly OutputChunk[]): Promise<number> {
    if (!this.#restored) await this.#restore();
    const frames = new WirePieces();
    let bytes = 0;
    let offset = this.offset;
    let start: number | undefined;
    for (const chunk of chunks) {
      const end = chunk.offset + chunk.data.length;
      if (end <= offset) continue;
      const known = Math.max(0, offset - chunk.offset);
      const fresh = known === 0 ? chunk : { ...chunk, offset, data: chunk.data.subarray(known) };
      frames.nest(FRAME_TAG, OutputChunk.encode({ ...fresh, data: NOTHING }), DATA_TAG, fresh.data);
      start ??= fresh.offset;
      bytes += fresh.data.length;
      offset = end;
    }
    if (start === undefined) return 0;
    const size = frames.length;
    let dropped = 0;
    try {
      dropped = await this.#turnPart(bytes);
      await this.#write(frames);
    } catch (error) {
      await this.close().catch(() => undefined);
      throw error;
    }
    const extent = this.#extents.at(-1);
    if (extent) extend(extent, { start, end: offset, bytes, size });
    return size - dropped;
  }

  /** As they are, without putting them together first. What a full disk takes only in part is an error. */
  async #write({ pieces, length }: WirePieces): Promise<void> {
    const written = await this.#file?.writev(pieces);
    if (written && written.bytesWritten < length)
      throw new MeshError('DISK_FULL', `of ${length} bytes of output ${written.bytesWritten} were written`);
  }

  /**
   * Goes on where an earlier handle, an earlier process or a failed write stopped. A frame that was cut off is cut away:
   * what is appended behind one could never be read.
   */
  async #restore(): Promise<void> {
    this.#extents = await scan(this.base);
    for (const { part, size } of this.#extents) {
      const path = `${this.base}.${part}`;
      if (size < (await sizeOf(path))) await truncate(path, size);
    }
    this.#restored = true;
    this.live.set(this.base, this.#extents);
  }

  /** Makes the last extent the one to append to. Returns how many bytes on disk are given up for it. */
  async #turnPart(bytes: number): Promise<number> {
    const last = this.#extents.at(-1);
    const full = last !== undefined && last.bytes > 0 && last.bytes + bytes > this.bytesMax / 2;
    if (this.#file && !full) return 0;
    if (full) {
      await this.#file?.close();
      this.#file = undefined;
    }
    const tail = last?.part === 'tail0' ? 'tail1' : 'tail0';
    const part = last ? (full ? tail : last.part) : 'head';
    const path = `${this.base}.${part}`;
    await mkdir(join(path, '..'), { recursive: true, mode: 0o700 });
    let dropped = 0;
    if (full) {
      // A new file, not the old one emptied: whoever reads that one reads it to its end.
      dropped = await sizeOf(path);
      await rm(path, { force: true });
    }
    this.#file = await open(path, 'a', 0o600);
    if (full || !last) {
      const kept = this.#extents.findIndex((extent) => extent.part === part);
      if (kept >= 0) this.#extents.splice(kept, 1);
      this.#extents.push({ part, start: this.offset, end: this.offset, bytes: 0, size: 0, marks: [] });
    }
    return dropped;
  }

  /** Gives the file back; the next `append` looks at what is there. */
  async close(): Promise<void> {
    const file = this.#file;
    this.#file = undefined;
    this.#restored = false;
    if (this.live.get(this.base) === this.#extents) this.live.delete(this.base);
    await file?.close();
  }
}

/** Something was appended. */
function extend(extent: Extent, { start, end, bytes, size }: Omit<Extent, 'part' | 'marks'>): void {
  const lastMark = extent.marks.at(-1);
  if (!lastMark || extent.size - lastMark.position >= MARK_BYTES)
    extent.marks.push({ offset: start, position: extent.size });
  if (extent.bytes === 0) extent.start = start;
  extent.end = end;
  extent.bytes += bytes;
  extent.size += size;
}

/** What is on disk of an attempt: the head, then the tails by what they hold. */
async function scan(base: string): Promise<Extent[]> {
  const extents: Extent[] = [];
  for (const part of ['head', 'tail0', 'tail1'] as const) {
    const extent: Extent = { part, start: 0, end: 0, bytes: 0, size: 0, marks: [] };
    for await (const { chunk, size } of readFrames(`${base}.${part}`)) {
      const bytes = chunk.data.length;
      extend(extent, { start: chunk.offset, end: chunk.offset + bytes, bytes, size });
    }
    if (extent.size > 0) extents.push(extent);
  }
  return extents.sort((a, b) => a.start - b.start);
}

export class LogStore {
  readonly #live = new Map<string, readonly Extent[]>();

  constructor(
    private readonly directory: string,
    readonly bytesMax: number,
  ) {}

  #base(key: AttemptKey): string {
    return join(this.directory, key.jobId, `${key.index}.${key.generation}`);
  }

  open(key: AttemptKey): AttemptLog {
    return new AttemptLog(this.#base(key), this.bytesMax, this.#live);
  }

  has(key: AttemptKey): boolean {
    return existsSync(`${this.#base(key)}.head`);
  }

  /**
   * The stored chunks from an offset on, in order, with a note where something was left out; as far as they are stored
   * now, however slowly they are taken. Empty when nothing was streamed.
   */
  async *read(key: AttemptKey, fromOffset = 0): AsyncGenerator<OutputChunk> {
    const base = this.#base(key);
    let next = fromOffset;
    const until = (await this.#extents(base)).at(-1)?.end ?? 0;
    for (let tries = 0; next < until && tries < TRIES_MAX; tries++) {
      // Anew for each part: while one is read slowly, the tails turn.
      const extents = await this.#extents(base);
      const tailFrom = this.#tailFrom(extents);
      const from = ({ part }: Extent) => Math.max(next, part === 'head' ? 0 : tailFrom);
      const extent = extents.find((candidate) => candidate.end > from(candidate));
      if (!extent) return;
      for await (const stored of readFrom(`${base}.${extent.part}`, extent, from(extent))) {
        const chunk = unseen(stored, from(extent));
        if (!chunk) continue;
        if (chunk.offset > next) yield leftOut(next, chunk);
        next = chunk.offset + chunk.data.length;
        tries = 0;
        yield chunk;
      }
    }
  }

  /** A log that is written now is known; of others the files are read once over. */
  async #extents(base: string): Promise<readonly Extent[]> {
    return this.#live.get(base) ?? (await scan(base));
  }

  /** Two tails may hold more than a half-limit together; head and end that are shown are within the limit. */
  #tailFrom(extents: readonly Extent[]): number {
    const [first, last] = [extents[0], extents.at(-1)];
    const headBytes = first?.part === 'head' ? first.bytes : 0;
    return (last?.end ?? 0) - (this.bytesMax - headBytes);
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

/** The chunks of a part that reach beyond an offset, and some before. Nothing when the part was begun anew meanwhile. */
async function* readFrom(path: string, { marks }: Extent, fromOffset: number): AsyncGenerator<OutputChunk> {
  const mark = marks.findLast(({ offset }) => offset <= fromOffset) ?? marks[0];
  let isExpected = false;
  for await (const { chunk } of readFrames(path, mark?.position)) {
    isExpected ||= chunk.offset === mark?.offset;
    if (!isExpected) return;
    yield chunk;
  }
}

interface Frame {
  chunk: OutputChunk;
  /** On disk. */
  size: number;
}

/** Reads frames in bounded pieces; a frame cut off by a crash ends the file. */
async function* readFrames(path: string, fromPosition = 0): AsyncGenerator<Frame> {
  const size = await sizeOf(path);
  if (size <= fromPosition) return;
  const file = await open(path, 'r').catch(() => undefined);
  if (!file) return;
  try {
    let rest: Uint8Array = new Uint8Array(0);
    for (let position = fromPosition; position < size; ) {
      // What is handed out are views, so each piece has memory of its own.
      const piece = Buffer.allocUnsafeSlow(rest.length + Math.min(READ_BYTES, size - position));
      piece.set(rest);
      const { bytesRead } = await file.read(piece, rest.length, piece.length - rest.length, position);
      if (bytesRead === 0) return;
      position += bytesRead;
      const bytes = piece.subarray(0, rest.length + bytesRead);
      const { frames, used } = decodeFrames(bytes);
      rest = bytes.subarray(used);
      yield* frames;
    }
  } finally {
    await file.close();
  }
}

function decodeFrames(bytes: Uint8Array): { frames: Frame[]; used: number } {
  const reader = new ViewReader(bytes);
  const frames: Frame[] = [];
  let used = 0;
  while (reader.pos < reader.len) {
    try {
      reader.uint32();
      const length = reader.uint32();
      if (reader.pos + length > reader.len) break;
      const chunk = OutputChunk.decode(reader, length);
      chunk.data = reader.viewOf(chunk.data);
      frames.push({ chunk, size: reader.pos - used });
      used = reader.pos;
    } catch {
      break;
    }
  }
  return { frames, used };
}
