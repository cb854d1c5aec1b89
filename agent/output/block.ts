import type { OutputChunk, Stream } from '../../proto/gen/mesh/v1/common.js';

/** Payload of one block. */
export const BLOCK_BYTES = 64 * 1024;
/** Changes of stream or time within one block; bounds what a program costs that writes single bytes. */
const MARKS_MAX = 2048;
/** Output of one stream within this time becomes one chunk. */
const MERGE_MS = 100;
const MARK_BYTES = 9;
const FIRST_BYTES = 1024;

/** Where a run of one stream begins in a block. */
interface Mark {
  start: number;
  stream: Stream;
  atMs: number;
}

/** Up to 64 KiB of one attempt's output with its streams and times; also the unit on disk. */
export class Block {
  readonly startOffset: number;
  #bytes: Buffer;
  #length = 0;
  readonly #marks: Mark[] = [];

  constructor(startOffset: number, firstBytes = FIRST_BYTES) {
    this.startOffset = startOffset;
    this.#bytes = Buffer.allocUnsafe(Math.min(BLOCK_BYTES, Math.max(FIRST_BYTES, firstBytes)));
  }

  get endOffset(): number {
    return this.startOffset + this.#length;
  }

  get full(): boolean {
    return this.#length === BLOCK_BYTES || this.#marks.length === MARKS_MAX;
  }

  /** Takes as much of `data` as has room; returns how much. */
  append(stream: Stream, data: Uint8Array, atMs: number): number {
    const taken = Math.min(data.length, BLOCK_BYTES - this.#length);
    const last = this.#marks.at(-1);
    if (!last || last.stream !== stream || atMs - last.atMs >= MERGE_MS)
      this.#marks.push({ start: this.#length, stream, atMs });
    if (this.#length + taken > this.#bytes.length) this.#grow(this.#length + taken);
    this.#bytes.set(taken === data.length ? data : data.subarray(0, taken), this.#length);
    this.#length += taken;
    return taken;
  }

  /** What was handed out before stays as it is: the old buffer is never written again. */
  #grow(needed: number): void {
    const larger = Buffer.allocUnsafe(Math.min(BLOCK_BYTES, Math.max(needed, this.#bytes.length * 4)));
    this.#bytes.copy(larger, 0, 0, this.#length);
    this.#bytes = larger;
  }

  /** Everything from `fromOffset` on, at most `maxBytes`. The data are views, not copies. */
  chunks(fromOffset: number, maxBytes = Number.POSITIVE_INFINITY): OutputChunk[] {
    const from = Math.max(0, fromOffset - this.startOffset);
    const to = Math.min(this.#length, from + maxBytes);
    const chunks: OutputChunk[] = [];
    for (let i = 0; i < this.#marks.length; i++) {
      const mark = this.#marks[i] as Mark;
      const start = Math.max(from, mark.start);
      const end = Math.min(to, this.#marks[i + 1]?.start ?? this.#length);
      if (start >= end) continue;
      const data = this.#bytes.subarray(start, end);
      chunks.push({ stream: mark.stream, offset: this.startOffset + start, atMs: mark.atMs, data });
    }
    return chunks;
  }

  /** On disk: number of marks, the marks; then the payload, which is not copied. */
  encode(): [header: Buffer, payload: Buffer] {
    const header = Buffer.allocUnsafe(4 + this.#marks.length * MARK_BYTES);
    header.writeUInt32LE(this.#marks.length, 0);
    this.#marks.forEach((mark, i) => {
      const at = 4 + i * MARK_BYTES;
      header.writeUInt8(mark.stream, at);
      header.writeUInt32LE(mark.start, at + 1);
      header.writeUInt32LE(mark.atMs, at + 5);
    });
    return [header, this.#bytes.subarray(0, this.#length)];
  }

  static decode(startOffset: number, encoded: Buffer): Block {
    const block = new Block(startOffset, 0);
    const count = encoded.readUInt32LE(0);
    for (let i = 0; i < count; i++) {
      const at = 4 + i * MARK_BYTES;
      block.#marks.push({
        stream: encoded.readUInt8(at),
        start: encoded.readUInt32LE(at + 1),
        atMs: encoded.readUInt32LE(at + 5),
      });
    }
    block.#bytes = encoded.subarray(4 + count * MARK_BYTES);
    block.#length = block.#bytes.length;
    return block;
  }
}
