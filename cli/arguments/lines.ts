import { createReadStream } from 'node:fs';
import { MeshError } from '../../common/errors.js';

/** A line is an item of a job; see BATCH_BYTES of sdk/submit.ts. */
const LINE_CHARACTERS_MAX = 1024 * 1024;

/**
 * The lines of a file that are not blank, `\n` or `\r\n` ended. node:readline also ends lines at U+2028, which may be
 * inside a line of JSON.
 * @throws MeshError USAGE for a line of more than a mebibyte
 */
export async function* readLines(path: string): AsyncGenerator<string> {
  let rest = '';
  for await (const chunk of createReadStream(path, { encoding: 'utf8' }) as AsyncIterable<string>) {
    const parts = (rest + chunk).split('\n');
    rest = parts.pop() ?? '';
    for (const part of parts) {
      const line = withoutReturn(part);
      if (line !== '') yield line;
    }
    if (rest.length > LINE_CHARACTERS_MAX)
      throw new MeshError('USAGE', '--each: a line has more than 1 MiB', { hint: 'ship large input as files' });
  }
  const last = withoutReturn(rest);
  if (last !== '') yield last;
}

function withoutReturn(text: string): string {
  const line = text.endsWith('\r') ? text.slice(0, -1) : text;
  return line.trim() === '' ? '' : line;
}
