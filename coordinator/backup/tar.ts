/**
 * As much of tar (POSIX ustar) as a backup needs: plain files with a mode, one after the other, so that `tar -tf` shows
 * what is in one. Nothing of the format is trusted when it is read: a header must be exactly what we write, and names
 * are checked by whoever uses them.
 */
import { MeshError } from '../../common/errors.js';

const BLOCK = 512;
/** What eleven octal digits can say. */
export const ENTRY_BYTES_MAX = 8 ** 11 - 1;

export interface Entry {
  name: string;
  mode: number;
  bytes: number;
}

const octal = (value: number, width: number): string => `${value.toString(8).padStart(width - 1, '0')}\0`;

/** ustar splits a long name at a slash: up to 155 bytes before it, 100 behind. */
function splitName(name: string): [string, string] {
  if (Buffer.byteLength(name) <= 100) return ['', name];
  for (let at = name.indexOf('/'); at >= 0; at = name.indexOf('/', at + 1)) {
    const [prefix, rest] = [name.slice(0, at), name.slice(at + 1)];
    if (Buffer.byteLength(rest) <= 100 && Buffer.byteLength(prefix) <= 155) return [prefix, rest];
  }
  throw new MeshError('DATA_DIR', `the name ${name} is too long for a backup`);
}

function header({ name, mode, bytes }: Entry): Buffer {
  const [prefix, rest] = splitName(name);
  const block = Buffer.alloc(BLOCK);
  const put = (offset: number, text: string): void => void block.write(text, offset);
  put(0, rest);
  put(100, octal(mode, 8));
  put(108, octal(0, 8));
  put(116, octal(0, 8));
  put(124, octal(bytes, 12));
  put(136, octal(0, 12));
  put(148, ' '.repeat(8));
  put(156, '0');
  put(257, 'ustar\u000000');
  put(345, prefix);
  put(
    148,
    `${block
      .reduce((sum, byte) => sum + byte, 0)
      .toString(8)
      .padStart(6, '0')}\0 `,
  );
  return block;
}

const padding = (bytes: number): number => (BLOCK - (bytes % BLOCK)) % BLOCK;

/** One file. @throws MeshError DATA_DIR when the content is not as long as `entry` says */
export async function* tarEntry(entry: Entry, content: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  if (entry.bytes > ENTRY_BYTES_MAX)
    throw new MeshError('DATA_DIR', `${entry.name} is too large for a backup`, {
      hint: 'make it without --with-files',
    });
  yield header(entry);
  let done = 0;
  for await (const chunk of content) {
    done += chunk.length;
    yield chunk;
  }
  if (done !== entry.bytes) throw new MeshError('DATA_DIR', `${entry.name} changed while it was read`);
  yield Buffer.alloc(padding(done));
}

export const tarEnd = (): Buffer => Buffer.alloc(2 * BLOCK);

/** Takes exactly as many bytes as are asked for from chunks of any size. */
export class ByteReader {
  readonly #source: AsyncIterator<Buffer>;
  #rest: Buffer = Buffer.alloc(0);

  constructor(source: AsyncIterable<Buffer>) {
    this.#source = source[Symbol.asyncIterator]();
  }

  /** Fewer only at the end. */
  async read(bytes: number): Promise<Buffer> {
    const chunks: Buffer[] = [];
    let missing = bytes;
    for await (const chunk of this.stream(bytes)) {
      chunks.push(chunk);
      missing -= chunk.length;
    }
    return chunks.length === 1 && missing === 0 ? (chunks[0] as Buffer) : Buffer.concat(chunks);
  }

  async *stream(bytes: number): AsyncGenerator<Buffer> {
    for (let missing = bytes; missing > 0; ) {
      if (this.#rest.length === 0) {
        const next = await this.#source.next();
        if (next.done) return;
        this.#rest = next.value;
        continue;
      }
      const chunk = this.#rest.subarray(0, missing);
      this.#rest = this.#rest.subarray(chunk.length);
      missing -= chunk.length;
      yield chunk;
    }
  }
}

export const damaged = (why: string): MeshError =>
  new MeshError('DATA_DIR', `the backup is damaged: ${why}`, { hint: 'use another copy' });

/** Every file in turn; `content` must be read to its end before the next. @throws MeshError DATA_DIR */
export async function* readTar(
  source: AsyncIterable<Buffer>,
): AsyncGenerator<Entry & { content: AsyncGenerator<Buffer> }> {
  const reader = new ByteReader(source);
  for (;;) {
    const block = await reader.read(BLOCK);
    if (block.length < BLOCK) throw damaged('it is cut off');
    if (block.every((byte) => byte === 0)) {
      const second = await reader.read(BLOCK);
      if (second.length < BLOCK || second.some((byte) => byte !== 0)) throw damaged('it is cut off');
      if ((await reader.read(1)).length > 0) throw damaged('bytes follow its end');
      return;
    }
    const entry = parseHeader(block);
    let left = entry.bytes;
    async function* content(): AsyncGenerator<Buffer> {
      for await (const chunk of reader.stream(entry.bytes)) {
        left -= chunk.length;
        yield chunk;
      }
      if (left > 0) throw damaged('it is cut off');
    }
    yield { ...entry, content: content() };
    if (left > 0) throw new MeshError('INTERNAL', `${entry.name} was not read to its end`);
    await reader.read(padding(entry.bytes));
  }
}

function parseHeader(block: Buffer): Entry {
  const text = (from: number, to: number) => block.toString('utf8', from, to).split('\0', 1)[0] as string;
  const [prefix, rest] = [text(345, 500), text(0, 100)];
  const entry = {
    name: prefix === '' ? rest : `${prefix}/${rest}`,
    mode: Number.parseInt(text(100, 108), 8),
    bytes: Number.parseInt(text(124, 136), 8),
  };
  if (!(entry.bytes >= 0) || !(entry.mode >= 0) || !header(entry).equals(block))
    throw damaged('a header in it is wrong');
  return entry;
}
