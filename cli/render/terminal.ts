/**
 * What strangers wrote (job names, node names, output of tasks) must not command the terminal of whoever reads it:
 * names lose their control characters, output keeps its lines and tabs and shows every other control as a picture.
 */
import { stripVTControlCharacters, styleText, TextDecoder } from 'node:util';
import { systemCode } from '../../common/errors.js';
import { outputLost } from '../../common/program.js';

/** Controls (C0, DEL, C1), and the characters that reorder or hide text. */
const UNSAFE = /[\p{Cc}\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/gu;
const UNSAFE_IN_OUTPUT = /(?![\n\t])[\p{Cc}\u202a-\u202e\u2066-\u2069]/gu;
const C1 = /[\u007f-\u009f\u2028\u2029]/g;

/** One line of text from elsewhere, fit to be shown. */
export function safe(text: string): string {
  return stripVTControlCharacters(text).replace(UNSAFE, (c) => (/\s/.test(c) ? ' ' : ''));
}

/** An ellipsis says that there was more. */
export const shorten = (text: string, width: number): string =>
  text.length > width ? `${text.slice(0, width - 1)}…` : text;

/** U+2400 shows NUL, U+241B escape, U+2421 delete; what has no picture becomes U+FFFD. */
function picture(character: string): string {
  const code = character.charCodeAt(0);
  if (code < 0x20) return String.fromCharCode(0x2400 + code);
  return code === 0x7f ? '\u2421' : '\ufffd';
}

/** Output of a task for a terminal: newlines and tabs stay, `\r\n` becomes a newline, the rest becomes pictures. */
export const neutralise = (text: string): string => text.replaceAll('\r\n', '\n').replace(UNSAFE_IN_OUTPUT, picture);

/** `neutralise` for a stream of chunks: characters and `\r\n` that are split between chunks stay whole. */
export class OutputFilter {
  readonly #decoder = new TextDecoder();
  #held = '';

  push(chunk: Uint8Array): string {
    const text = this.#held + this.#decoder.decode(chunk, { stream: true });
    this.#held = text.endsWith('\r') ? '\r' : '';
    return neutralise(this.#held ? text.slice(0, -1) : text);
  }

  end(): string {
    return neutralise(this.#held + this.#decoder.decode());
  }
}

/** JSON on one line. JSON.stringify leaves DEL and C1 controls as they are; some terminals obey them. */
export const jsonLine = (value: unknown): string =>
  `${JSON.stringify(value).replace(C1, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`)}\n`;

export const usesColour = (stream: { isTTY?: boolean }, environment: NodeJS.ProcessEnv): boolean =>
  stream.isTTY === true && !environment.NO_COLOR && environment.TERM !== 'dumb';

const STATUS_COLOURS: Record<string, 'green' | 'red' | 'yellow' | 'cyan' | 'gray'> = {
  COMPLETED: 'green',
  HEALTHY: 'green',
  FAILED: 'red',
  OFFLINE: 'red',
  revoked: 'red',
  RUNNING: 'cyan',
  PARTIALLY_COMPLETED: 'yellow',
  RETRYING: 'yellow',
  SUSPECT: 'yellow',
  draining: 'yellow',
  suspended: 'red',
  CANCELLED: 'gray',
  ok: 'green',
  notice: 'cyan',
  weak: 'yellow',
  problem: 'red',
};

/** A status in its colour, where standard output shows colours. */
export function paintStatus(status: string): string {
  const colour = STATUS_COLOURS[status];
  const text = safe(status);
  return colour && usesColour(process.stdout, process.env) ? styleText(colour, text) : text;
}

export const bold = (text: string): string =>
  usesColour(process.stdout, process.env) ? styleText('bold', text) : text;

/**
 * Writes and waits while the reader is slow, so that a fast stream does not pile up in memory.
 * @throws what the system said when it cannot be written; a reader who has gone ends the program (common/program.ts)
 */
export async function write(stream: NodeJS.WriteStream, data: string | Uint8Array): Promise<void> {
  if (data.length === 0) return;
  await new Promise<void>((resolve, reject) => {
    stream.write(data, (error) => {
      if (!error) resolve();
      else if (systemCode(error) !== 'EPIPE') reject(outputLost(error));
    });
  });
}

/** `1 task`, `2 tasks`. */
export const counted = (count: number, one: string, many = `${one}s`): string => `${count} ${count === 1 ? one : many}`;

/** How long ago, in one unit: `3 min`. */
export function ago(iso: string | null, nowMs: number): string {
  if (iso === null) return '-';
  const seconds = Math.max(0, Math.round((nowMs - Date.parse(iso)) / 1000));
  if (seconds < 120) return `${seconds} s ago`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min ago`;
  return seconds < 172_800 ? `${Math.round(seconds / 3600)} h ago` : `${Math.round(seconds / 86_400)} d ago`;
}
