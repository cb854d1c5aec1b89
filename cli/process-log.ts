import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { safe } from './render/terminal.js';

const TAIL_BYTES = 64 * 1024;
const LINE_CHARACTERS_MAX = 300;

interface LogLine {
  level?: unknown;
  event?: unknown;
  message?: unknown;
  err?: { message?: unknown };
}

/** The last errors in a log of ours, oldest first: JSON lines of level error or fatal, and whatever is no JSON. */
export function lastErrorLines(path: string, count = 3): string[] {
  const found: string[] = [];
  for (const line of tail(path).split('\n').reverse()) {
    const error = errorIn(line.trim());
    if (error && !found.includes(error)) found.push(error);
    if (found.length === count) break;
  }
  return found.reverse();
}

function errorIn(line: string): string | undefined {
  if (line === '') return undefined;
  let entry: LogLine;
  try {
    entry = JSON.parse(line) as LogLine;
  } catch {
    // A stack's lines and Node's own remarks say nothing to people.
    return /^(at |node:|Node\.js v|\^|\(node:|\(Use )/.test(line) ? undefined : shown(line);
  }
  if (entry?.level !== 'error' && entry?.level !== 'fatal') return undefined;
  const parts = [entry.message ?? entry.event, entry.err?.message].filter((part) => typeof part === 'string');
  return shown(parts.join(': '));
}

const shown = (text: string): string => safe(text).trim().slice(0, LINE_CHARACTERS_MAX);

function tail(path: string): string {
  let descriptor: number;
  try {
    descriptor = openSync(path, 'r');
  } catch {
    return '';
  }
  try {
    const { size } = fstatSync(descriptor);
    const length = Math.min(size, TAIL_BYTES);
    const buffer = Buffer.alloc(length);
    const read = readSync(descriptor, buffer, 0, length, size - length);
    const text = buffer.toString('utf8', 0, read);
    return size > length ? text.slice(text.indexOf('\n') + 1) : text;
  } finally {
    closeSync(descriptor);
  }
}
