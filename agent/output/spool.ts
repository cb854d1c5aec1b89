/**
 * One attempt's output, bounded: the first and the last half of the limit are kept on disk, what lay between is left
 * out and a marker says how much. Memory is flat whatever the attempt prints: the block being filled, the one before
 * it (together the tail that travels with the result) and at most a few that wait for the disk. Up to 64 KiB nothing
 * touches the disk.
 *
 * On disk: blocks one after the other for the first half, then a ring for the rest. When the disk fails, the attempt
 * goes on; only the tail is kept and the marker names the reason. Bytes pass through unchanged.
 */
import { type FileHandle, open, rm } from 'node:fs/promises';
import type { Clock } from '../../common/clock.js';
import { systemCode } from '../../common/errors.js';
import { formatSize } from '../../common/units.js';
import { type OutputChunk, type OutputTail, Stream } from '../../proto/gen/mesh/v1/common.js';
import type { OutputRecord } from '../core/types.js';
import { Block, BLOCK_BYTES } from './block.js';
import { outputBuffers } from './buffers.js';

/** How much of the end of the output travels with the result. */
export const TAIL_BYTES = 64 * 1024;
export const SPOOL_BYTES_DEFAULT = 16 * 2 ** 20;
const SPOOL_BYTES_MIN = 8 * BLOCK_BYTES;
/** Blocks that may wait for the disk before the writer is asked to pause. */
const UNWRITTEN_MAX = 8;
/** What came out of the pipe, and the block. */
const BUFFERS_PER_BLOCK = 2;

export interface OutputSpoolOptions {
  /** Created only when the output outgrows memory; removed by `dispose`. */
  path: string;
  clock: Clock;
  /** Kept on disk, first and last half; default 16 MiB, at least 512 KiB. Zero means the default. */
  limitBytes?: number;
}

export interface SpoolRead {
  chunks: OutputChunk[];
  /** Where to read on. Further than the chunks reach when bytes were left out. */
  nextOffset: number;
  /** There is nothing more and never will be. */
  ended: boolean;
}

interface Stored {
  startOffset: number;
  endOffset: number;
  position: number;
  length: number;
  /** Until it is on disk. */
  block: Block | undefined;
  /** Overwritten, or never written. */
  lost: boolean;
}

export class OutputSpool implements OutputRecord {
  readonly #options: OutputSpoolOptions;
  readonly #startedMs: number;
  readonly #headBytes: number;
  readonly #ringBytes: number;
  readonly #head: Stored[] = [];
  readonly #ring: Stored[] = [];
  #headUsed = 0;
  #ringNext = 0;
  /** The head takes no more: a later block must not come before an earlier one. */
  #headClosed = false;
  #previous: Block | undefined;
  #current: Block | undefined;
  #total = 0;
  #ended = false;
  #file: FileHandle | undefined;
  #failure: string | undefined;
  #unwritten = 0;
  #disk: Promise<void> = Promise.resolve();
  #drained: (() => void)[] = [];
  #listeners = new Set<() => void>();

  constructor(options: OutputSpoolOptions) {
    this.#options = options;
    this.#startedMs = options.clock.monotonicMs();
    const limit = Math.max(SPOOL_BYTES_MIN, options.limitBytes || SPOOL_BYTES_DEFAULT);
    this.#headBytes = Math.floor(limit / 2);
    this.#ringBytes = limit - this.#headBytes;
  }

  /** Bytes the attempt wrote. */
  get totalBytes(): number {
    return this.#total;
  }

  /** Why the disk could not take it; undefined while all is well. */
  get failure(): string | undefined {
    return this.#failure;
  }

  write(stream: Stream, data: Uint8Array): boolean {
    if (this.#ended || data.length === 0) return true;
    const atMs = Math.round(this.#options.clock.monotonicMs() - this.#startedMs);
    for (let rest = data; rest.length > 0; ) {
      if (this.#current?.full) this.#seal(this.#current);
      this.#current ??= new Block(this.#total, this.#previous ? BLOCK_BYTES : rest.length);
      const taken = this.#current.append(stream, rest, atMs);
      this.#total += taken;
      rest = rest.subarray(taken);
    }
    this.#notify();
    return this.#unwritten < UNWRITTEN_MAX;
  }

  whenDrained(resume: () => void): void {
    if (this.#unwritten < UNWRITTEN_MAX) resume();
    else this.#drained.push(resume);
  }

  /** The attempt writes no more. */
  end(): void {
    this.#ended = true;
    this.#notify();
  }

  /** Calls after every write and at the end, until the returned function is called. */
  onData(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #notify(): void {
    for (const listener of this.#listeners) listener();
  }

  /** The last 64 KiB; undefined when nothing was written. */
  tail(): OutputTail | undefined {
    if (this.#total === 0) return undefined;
    const from = this.#total - TAIL_BYTES;
    const chunks = [...(this.#previous?.chunks(from) ?? []), ...(this.#current?.chunks(from) ?? [])];
    return { chunks, totalBytes: this.#total };
  }

  /** What is kept from `fromOffset` on. Fewer than `maxBytes` do not mean the end: read on until `ended`. */
  async read(fromOffset: number, maxBytes: number): Promise<SpoolRead> {
    const chunks: OutputChunk[] = [];
    let offset = fromOffset;
    for (let room = maxBytes; room > 0 && offset < this.#total; ) {
      const next = this.#firstAfter(offset);
      const startOffset = next?.startOffset ?? this.#total;
      if (startOffset > offset) {
        chunks.push(this.#marker(offset, startOffset));
        offset = startOffset;
        continue;
      }
      const block = next instanceof Block ? next : (next?.block ?? (next && (await this.#load(next))));
      if (!block) continue;
      const found = block.chunks(offset, room);
      for (const chunk of found) {
        chunks.push(chunk);
        room -= chunk.data.length;
        offset = chunk.offset + chunk.data.length;
      }
      if (found.length === 0) break;
    }
    return { chunks, nextOffset: offset, ended: this.#ended && offset >= this.#total };
  }

  /** Resolves when everything that was written so far is on the disk or has failed to get there. */
  settled(): Promise<void> {
    return this.#disk;
  }

  /** Gives back the memory and the file. */
  async dispose(): Promise<void> {
    this.end();
    this.#listeners.clear();
    this.#failure ??= 'the output was disposed of';
    await this.#disk;
    if (this.#file) {
      await this.#file.close().catch(() => undefined);
      this.#file = undefined;
      await rm(this.#options.path, { force: true });
    }
    this.#previous = this.#current = undefined;
    this.#head.length = this.#ring.length = 0;
  }

  /** The first kept piece that ends after `offset`. */
  #firstAfter(offset: number): Stored | Block | undefined {
    const reaches = (piece: { endOffset: number }) => piece.endOffset > offset;
    const stored = this.#head.find((piece) => !piece.lost && reaches(piece)) ?? this.#ring.find(reaches);
    if (stored) return stored;
    return [this.#previous, this.#current].find((block) => block && reaches(block));
  }

  #marker(from: number, to: number): OutputChunk {
    const reason = this.#failure ? ` (${this.#failure})` : '';
    const text = `\n… ${formatSize(to - from)} left out${reason} …\n`;
    return { stream: Stream.SYSTEM, offset: from, atMs: 0, data: Buffer.from(text) };
  }

  /** Undefined when it was overwritten meanwhile. */
  async #load(stored: Stored): Promise<Block | undefined> {
    const encoded = Buffer.allocUnsafe(stored.length);
    outputBuffers.made(stored.length);
    try {
      const { bytesRead } = (await this.#file?.read(encoded, 0, stored.length, stored.position)) ?? { bytesRead: 0 };
      if (stored.lost) return undefined;
      if (bytesRead === stored.length) return Block.decode(stored.startOffset, encoded);
    } catch (error) {
      this.#failure ??= `the disk cannot be read: ${systemCode(error)}`;
    }
    this.#lose(stored);
    return undefined;
  }

  /** A full block moves on: to the disk, and to memory as the one before the current. */
  #seal(block: Block): void {
    outputBuffers.made(BUFFERS_PER_BLOCK * BLOCK_BYTES);
    this.#previous = block;
    this.#current = undefined;
    if (this.#failure) return;
    const encoded = block.encode();
    const stored = this.#place(
      block,
      encoded.reduce((length, piece) => length + piece.length, 0),
    );
    this.#unwritten++;
    this.#disk = this.#disk.then(() => this.#store(stored, encoded));
  }

  #place(block: Block, length: number): Stored {
    const { startOffset, endOffset } = block;
    if (!this.#headClosed && this.#headUsed + length <= this.#headBytes) {
      const stored = { startOffset, endOffset, position: this.#headUsed, length, block, lost: false };
      this.#headUsed += length;
      this.#head.push(stored);
      return stored;
    }
    this.#headClosed = true;
    const wraps = this.#ringNext + length > this.#ringBytes;
    const start = wraps ? 0 : this.#ringNext;
    const taken = (piece: Stored): boolean => {
      const at = piece.position - this.#headBytes;
      return (wraps && at >= this.#ringNext) || (at < start + length && at + piece.length > start);
    };
    for (let oldest = this.#ring[0]; oldest && taken(oldest); oldest = this.#ring[0]) this.#lose(oldest);
    const stored = { startOffset, endOffset, position: this.#headBytes + start, length, block, lost: false };
    this.#ringNext = start + length;
    this.#ring.push(stored);
    return stored;
  }

  #lose(stored: Stored): void {
    stored.lost = true;
    stored.block = undefined;
    if (this.#ring[0] === stored) this.#ring.shift();
    else if (this.#ring.includes(stored)) this.#ring.splice(this.#ring.indexOf(stored), 1);
  }

  async #store(stored: Stored, encoded: readonly Buffer[]): Promise<void> {
    try {
      if (!this.#failure && !stored.lost) {
        this.#file ??= await open(this.#options.path, 'w+', 0o600);
        await writeAll(this.#file, encoded, stored.position);
      }
    } catch (error) {
      this.#failure = systemCode(error) === 'ENOSPC' ? 'the disk is full' : `the disk failed: ${systemCode(error)}`;
    }
    if (this.#failure) this.#lose(stored);
    stored.block = undefined;
    this.#unwritten--;
    if (this.#unwritten >= UNWRITTEN_MAX) return;
    for (const resume of this.#drained.splice(0)) resume();
  }
}

/** Also where the disk takes only a part at a time. */
async function writeAll(file: FileHandle, pieces: readonly Buffer[], position: number): Promise<void> {
  let rest = pieces;
  for (let at = position; rest.length > 0; ) {
    const { bytesWritten } = await file.writev(rest, at);
    at += bytesWritten;
    rest = after(rest, bytesWritten);
  }
}

function after(pieces: readonly Buffer[], bytes: number): Buffer[] {
  let skip = bytes;
  return pieces.flatMap((piece) => {
    const left = piece.subarray(Math.min(skip, piece.length));
    skip -= piece.length - left.length;
    return left.length > 0 ? [left] : [];
  });
}
