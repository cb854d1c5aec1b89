/** Reads a value that must not be seen: from a terminal without echo, from anything else as it comes. */
import { createInterface } from 'node:readline';
import { Writable } from 'node:stream';
import { MeshError } from '../common/errors.js';

/** More than any secret may have: reading ends there. */
const BYTES_MAX = 1024 * 1024;

/** Without one line break at the end: it is nearly always the writer's, not the value's. @throws MeshError USAGE */
export async function readSecret(
  name: string,
  input: NodeJS.ReadStream = process.stdin,
  prompt: Pick<NodeJS.WriteStream, 'write'> = process.stderr,
): Promise<Buffer> {
  const value = input.isTTY ? await askFor(name, input, prompt) : await readAll(input);
  const end = value.length - (value.at(-1) === 0x0a ? (value.at(-2) === 0x0d ? 2 : 1) : 0);
  if (end === 0)
    throw new MeshError('USAGE', `no value was given for ${name}`, { hint: 'type it, pipe it in, or use --from-file' });
  return value.subarray(0, end);
}

/** The terminal is in raw mode as long as the question lasts, so it shows nothing; readline does the editing. */
async function askFor(name: string, input: NodeJS.ReadStream, prompt: Pick<NodeJS.WriteStream, 'write'>) {
  prompt.write(`value of ${name} (not shown): `);
  const nowhere = new Writable({ write: (_chunk, _encoding, done) => done() });
  const lines = createInterface({ input, output: nowhere, terminal: true, historySize: 0 });
  try {
    return await new Promise<Buffer>((resolve, reject) => {
      lines.once('line', (line) => resolve(Buffer.from(line)));
      lines.once('SIGINT', () => reject(new MeshError('INTERRUPTED', 'interrupted', { hint: 'nothing was set' })));
      lines.once('close', () => resolve(Buffer.alloc(0)));
    });
  } finally {
    lines.close();
    prompt.write('\n');
  }
}

async function readAll(input: AsyncIterable<Buffer | string>): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of input) {
    chunks.push(Buffer.from(chunk as Buffer));
    bytes += chunk.length;
    if (bytes > BYTES_MAX) throw new MeshError('USAGE', 'the value is much larger than a secret may be');
  }
  return Buffer.concat(chunks);
}
