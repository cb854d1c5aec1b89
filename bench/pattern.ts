/**
 * Output of which every byte is known from its place, so that a reader can tell whether something is missing, repeated,
 * wrong or out of order: blocks of the same size, each begun by the task's number and its own, then a line with how long
 * printing took.
 */
const BLOCK_BYTES = 10_000;
const CHUNK_BYTES = 1_000_000;
/** "#07 00001234\n" */
const HEADER_BYTES = 13;
/** "took 0000012345 ms\n" */
const END_BYTES = 19;

const header = (task: number, block: number): string =>
  `#${String(task).padStart(2, '0')} ${String(block).padStart(8, '0')}\n`;

const FILLER = Buffer.from(`${'.'.repeat(99)}\n`.repeat(BLOCK_BYTES / 100));

/** Everything a task prints that prints `chunks` chunks of CHUNK_BYTES. */
export const printedBytes = (chunks: number): number => chunks * CHUNK_BYTES + END_BYTES;

/**
 * The program of task {index}: prints `chunks` megabytes, `perSecond` of them a second, each at its own time whatever the
 * one before cost, for as long as its output is taken.
 */
export const printer = (chunks: number, perSecond: number): string[] => [
  process.execPath,
  '-e',
  `const chunk = Buffer.from(('.'.repeat(99) + '\\n').repeat(${CHUNK_BYTES / 100}));
  const task = '{index}'.padStart(2, '0');
  const from = performance.now();
  const print = (sent) => {
    for (let at = 0, block = sent * ${CHUNK_BYTES / BLOCK_BYTES}; at < chunk.length; at += ${BLOCK_BYTES}, block++)
      chunk.write('#' + task + ' ' + String(block).padStart(8, '0') + '\\n', at);
    process.stdout.write(chunk, () => {
      if (sent + 1 < ${chunks})
        return setTimeout(print, Math.max(0, from + (sent + 1) * ${1000 / perSecond} - performance.now()), sent + 1);
      process.stdout.write('took ' + Math.round(performance.now() - from).toString().padStart(10, '0') + ' ms\\n');
    });
  };
  print(0);`,
];

/** What one reader saw of one task. */
export class PatternReader {
  #position = 0;
  #leftOut = 0;
  #firstGap: number | undefined;
  #end = '';

  constructor(
    private readonly task: number,
    private readonly chunks: number,
  ) {}

  /** @throws when a byte is not the one that belongs there */
  take(data: Uint8Array): void {
    const pattern = this.chunks * CHUNK_BYTES;
    for (let at = 0; at < data.length; ) {
      if (this.#position >= pattern) {
        this.#end += Buffer.from(data.subarray(at)).toString('latin1');
        this.#position += data.length - at;
        return;
      }
      const block = Math.floor(this.#position / BLOCK_BYTES);
      const inBlock = this.#position % BLOCK_BYTES;
      const inHeader = inBlock < HEADER_BYTES;
      const expected = inHeader ? Buffer.from(header(this.task, block)) : FILLER;
      const bytes = Math.min(expected.length - inBlock, data.length - at);
      if (expected.compare(data, at, at + bytes, inBlock, inBlock + bytes) !== 0)
        throw new Error(`task ${this.task}: wrong output at ${this.#position}`);
      at += bytes;
      this.#position += bytes;
    }
  }

  /** A note in place of output. @throws when it does not say how much */
  skip(note: string): void {
    const found = /^\[(\d+) bytes of output left out\]\n$/.exec(note);
    if (!found) throw new Error(`task ${this.task}: a note that says nothing of its size: ${note}`);
    this.#firstGap ??= this.#position;
    this.#position += Number(found[1]);
    this.#leftOut += Number(found[1]);
  }

  /**
   * @returns how much was seen before the first gap, how much was left out, and how long the task printed
   * @throws when what was seen and what was left out are not all that was printed
   */
  finish(): { leftOutBytes: number; seenBytes: number; headBytes: number; tookMs: number } {
    if (this.#position !== printedBytes(this.chunks))
      throw new Error(`task ${this.task}: ${this.#position} bytes of ${printedBytes(this.chunks)}`);
    const took = /^took (\d+) ms\n$/.exec(this.#end);
    if (!took) throw new Error(`task ${this.task}: the end is ${this.#end}`);
    return {
      leftOutBytes: this.#leftOut,
      seenBytes: this.#position - this.#leftOut,
      headBytes: this.#firstGap ?? this.#position,
      tookMs: Number(took[1]),
    };
  }
}
