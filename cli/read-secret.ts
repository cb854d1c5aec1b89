/** Reads a value that must not be seen: from a terminal without showing it, from anything else as it comes. */
import type { ReadStream } from 'node:tty';
import { MeshError } from '../common/errors.js';
import { readUnseen } from '../common/passphrase.js';

/** More than any secret may have: reading ends there. */
const BYTES_MAX = 1024 * 1024;

/** Without one line break at the end: it is nearly always the writer's, not the value's. @throws MeshError USAGE */
export async function readSecret(name: string, input: ReadStream = process.stdin): Promise<Buffer> {
  const value = input.isTTY ? await askFor(name, input) : await readAll(input);
  const end = value.length - (value.at(-1) === 0x0a ? (value.at(-2) === 0x0d ? 2 : 1) : 0);
  if (end > 0) return value.subarray(0, end);
  throw new MeshError('USAGE', `no value was given for ${name}`, { hint: 'type it, pipe it in, or use --from-file' });
}

async function askFor(name: string, terminal: ReadStream): Promise<Buffer> {
  process.stderr.write(`value of ${name} (not shown): `);
  try {
    return Buffer.from(await readUnseen(terminal));
  } finally {
    process.stderr.write('\n');
  }
}

async function readAll(input: AsyncIterable<Buffer | string>): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of input) {
    chunks.push(Buffer.from(chunk as Buffer));
    bytes += chunk.length;
    if (bytes > BYTES_MAX)
      throw new MeshError('USAGE', 'the value is much larger than a secret may be', {
        hint: 'a secret has at most 64 KiB',
      });
  }
  return Buffer.concat(chunks);
}
