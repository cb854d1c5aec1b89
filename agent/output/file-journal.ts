/**
 * The journal in files: `results-N.log`, each at most 8 MiB and a record. An append is one write of one record, so a
 * batch of a thousand results costs what one costs.
 *
 * A record: magic, length and checksum of what follows, the wall clock, a FinishedBatch. After a kill the last record
 * may be torn: it was not told to anybody, and is cut off. A damaged record is skipped: reading goes on at the next
 * magic. A failed write is taken back by cutting the file, so that nothing half-written lies between records.
 *
 * Files of an earlier life are read and never written again; a file goes when nothing in it is wanted. Without `fsync` a
 * result survives the death of the process, not that of the machine: syncing every batch costs a few milliseconds each
 * and wears out the flash cards that small machines run on. Ages survive a restart by the wall clock, which may have
 * jumped: only what people read hangs on them.
 */
import { type FileHandle, open, readdir, readFile, rm } from 'node:fs/promises';
import { readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import type { Clock } from '../../common/clock.js';
import { systemCode } from '../../common/errors.js';
import { makePrivateDir } from '../../common/files.js';
import type { Logger } from '../../common/log.js';
import { FinishedBatch } from '../../proto/gen/mesh/v1/agent.js';
import { type Journal, type JournalSegment, resultsIn } from './journal.js';

const SEGMENT_BYTES = 8 * 2 ** 20;
/** The current segment is emptied when nothing in it is wanted and it has grown to this; below, it is not worth it. */
const EMPTY_OVER_BYTES = 64 * 1024;
/** Older segments than this many are looked at for a few results that keep them alive. */
const SEGMENTS_MAX = 4;
/** Few: this share of what a segment held. */
const CROWDED_SHARE = 0.1;
const MAGIC = Buffer.from('PMj1');
const HEADER_BYTES = 12;
const CLOCK_BYTES = 8;
const AGE_MS_MAX = 2 ** 32 - 1;
const NAME = /^results-(\d{1,15})\.log$/;

interface Segment {
  number: number;
  held: number;
  live: number;
}

/** Makes the directory ready for a new life: kept results stay, output that nobody can finish goes. Returns it. */
export function prepareOutbox(directory: string): string {
  makePrivateDir(directory);
  for (const name of readdirSync(directory)) {
    if (!NAME.test(name)) rmSync(join(directory, name), { recursive: true, force: true });
  }
  return directory;
}

export interface FileJournalOptions {
  directory: string;
  /** Whether results survive a power cut too. */
  fsync: boolean;
  clock: Clock;
  log: Logger;
}

export class FileJournal implements Journal {
  readonly #options: FileJournalOptions;
  readonly #segments = new Map<number, Segment>();
  #current: Segment | undefined;
  #file: FileHandle | undefined;
  #size = 0;
  #next = 1;
  #failing = false;
  /** One thing at a time is done to files. */
  #busy: Promise<unknown> = Promise.resolve();

  constructor(options: FileJournalOptions) {
    this.#options = options;
  }

  async load(): Promise<JournalSegment[]> {
    const { directory, log } = this.#options;
    const found: JournalSegment[] = [];
    for (const number of await this.#numbers()) {
      this.#next = number + 1;
      try {
        const batch = this.#decode(await readFile(this.#path(number)), number);
        const held = resultsIn(batch);
        if (held > 0) {
          found.push({ segment: number, ...batch });
          this.#segments.set(number, { number, held, live: held });
          continue;
        }
        await rm(this.#path(number), { force: true });
      } catch (err) {
        log.warn({ event: 'journal.unreadable', err, directory, number }, 'kept results cannot be read');
      }
    }
    return found;
  }

  append(batch: FinishedBatch): Promise<number | undefined> {
    return this.#inTurn(() => this.#append(batch));
  }

  release(number: number, count: number): void {
    const segment = this.#segments.get(number);
    if (!segment) return;
    segment.live -= count;
    if (segment.live > 0) return;
    if (segment !== this.#current) this.#drop(segment);
    else if (this.#size >= EMPTY_OVER_BYTES) void this.#inTurn(() => this.#empty(segment));
  }

  crowded(): number | undefined {
    if (this.#segments.size <= SEGMENTS_MAX) return undefined;
    for (const segment of this.#segments.values()) {
      if (segment !== this.#current && segment.live <= segment.held * CROWDED_SHARE) return segment.number;
    }
    return undefined;
  }

  async close(): Promise<void> {
    await this.#inTurn(async () => {
      await this.#file?.close().catch(() => undefined);
      this.#file = undefined;
      const last = this.#current;
      this.#current = undefined;
      if (last && last.live <= 0) this.#drop(last);
    });
    await this.#busy;
  }

  async #append(batch: FinishedBatch): Promise<number | undefined> {
    const { log, clock, fsync } = this.#options;
    const record = encodeRecord(batch, clock.wallMs());
    const count = resultsIn(batch);
    try {
      if (!this.#current || !this.#file || this.#size >= SEGMENT_BYTES) await this.#roll();
      const segment = this.#current as unknown as Segment;
      await this.#write(this.#file as unknown as FileHandle, record);
      if (fsync) await this.#file?.datasync();
      this.#size += record.length;
      segment.held += count;
      segment.live += count;
      if (this.#failing) log.info({ event: 'journal.recovered' }, 'results are kept on the disk again');
      this.#failing = false;
      return segment.number;
    } catch (err) {
      await this.#file?.truncate(this.#size).catch(() => undefined);
      if (!this.#failing) {
        const reason = systemCode(err) === 'ENOSPC' ? 'the disk is full' : `the disk failed: ${systemCode(err)}`;
        log.error({ event: 'journal.failed', err, reason }, 'results are kept in memory only');
      }
      this.#failing = true;
      return undefined;
    }
  }

  async #write(file: FileHandle, record: Buffer): Promise<void> {
    for (let done = 0; done < record.length; ) {
      const { bytesWritten } = await file.write(record, done, record.length - done, this.#size + done);
      done += bytesWritten;
    }
  }

  /** On to a new file. The one before goes when its last result is released. */
  async #roll(): Promise<void> {
    const number = this.#next;
    const file = await open(this.#path(number), 'w', 0o600);
    this.#next++;
    await this.#file?.close().catch(() => undefined);
    const before = this.#current;
    this.#file = file;
    this.#size = 0;
    this.#current = { number, held: 0, live: 0 };
    this.#segments.set(number, this.#current);
    if (before && before.live <= 0) this.#drop(before);
  }

  async #empty(segment: Segment): Promise<void> {
    // Meanwhile something may have been added, or the next one begun.
    if (segment.live > 0 || segment !== this.#current || !this.#file) return;
    try {
      await this.#file.truncate(0);
      this.#size = 0;
      segment.held = 0;
    } catch (err) {
      this.#options.log.debug({ event: 'journal.not-emptied', err });
    }
  }

  #drop(segment: Segment): void {
    this.#segments.delete(segment.number);
    void this.#inTurn(() => rm(this.#path(segment.number), { force: true }).catch(() => undefined));
  }

  #inTurn<T>(act: () => Promise<T>): Promise<T> {
    const turn = this.#busy.then(act);
    this.#busy = turn.catch(() => undefined);
    return turn;
  }

  async #numbers(): Promise<number[]> {
    const names = await readdir(this.#options.directory).catch(() => []);
    const numbers = names.map((name) => NAME.exec(name)?.[1]).filter((digits) => digits !== undefined);
    return numbers.map(Number).sort((a, b) => a - b);
  }

  #path(number: number): string {
    return join(this.#options.directory, `results-${number}.log`);
  }

  #decode(bytes: Buffer, number: number): FinishedBatch {
    const { clock, log } = this.#options;
    const found: FinishedBatch = { items: [], runs: [] };
    let damaged = 0;
    for (let at = 0; at < bytes.length; ) {
      const record = decodeRecord(bytes, at, clock.wallMs());
      if (record) {
        for (const item of record.batch.items) found.items.push(item);
        for (const run of record.batch.runs) found.runs.push(run);
        at += record.length;
        continue;
      }
      const next = bytes.indexOf(MAGIC, at + 1);
      if (next < 0) {
        log.info({ event: 'journal.cut', number, bytes: bytes.length - at }, 'the end of the kept results was torn');
        break;
      }
      damaged++;
      at = next;
    }
    if (damaged > 0) log.warn({ event: 'journal.damaged', number, damaged }, 'damaged results were skipped');
    return found;
  }
}

function encodeRecord(batch: FinishedBatch, wallMs: number): Buffer {
  const payload = FinishedBatch.encode(batch).finish();
  const record = Buffer.allocUnsafe(HEADER_BYTES + CLOCK_BYTES + payload.length);
  MAGIC.copy(record, 0);
  record.writeUInt32LE(CLOCK_BYTES + payload.length, 4);
  record.writeDoubleLE(wallMs, HEADER_BYTES);
  record.set(payload, HEADER_BYTES + CLOCK_BYTES);
  record.writeUInt32LE(crc32(record.subarray(HEADER_BYTES)), 8);
  return record;
}

/** Undefined unless a whole and undamaged record begins there. */
function decodeRecord(bytes: Buffer, at: number, nowMs: number): { batch: FinishedBatch; length: number } | undefined {
  if (bytes.length - at < HEADER_BYTES + CLOCK_BYTES || bytes.compare(MAGIC, 0, 4, at, at + 4) !== 0) return undefined;
  const bodyBytes = bytes.readUInt32LE(at + 4);
  const body = bytes.subarray(at + HEADER_BYTES, at + HEADER_BYTES + bodyBytes);
  if (bodyBytes < CLOCK_BYTES || body.length < bodyBytes || crc32(body) !== bytes.readUInt32LE(at + 8))
    return undefined;
  const passedMs = Math.max(0, nowMs - body.readDoubleLE(0));
  try {
    const batch = FinishedBatch.decode(body.subarray(CLOCK_BYTES));
    for (const result of [...batch.items, ...batch.runs])
      result.ageMs = Math.min(AGE_MS_MAX, Math.round(result.ageMs + passedMs));
    return { batch, length: HEADER_BYTES + bodyBytes };
  } catch {
    return undefined;
  }
}
