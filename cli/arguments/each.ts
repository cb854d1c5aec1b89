/**
 * `--each GLOB|FILE|-`: one task per line or per file.
 *
 * - `-`: the lines of standard input.
 * - an existing file or pipe, such as bash's <(…), written without glob characters: its lines.
 * - anything else is a glob, or a directory: one task per matching file, which is shipped to the node. It keeps its path
 *   relative to the current directory; files outside are placed relative to the fixed part of the glob.
 *
 * Blank lines are no tasks. The number of items must be known before the first is sent, so standard input is spooled to
 * a temporary file and files are read twice; neither is ever held in memory as a whole.
 */
import { createReadStream, createWriteStream, existsSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative, resolve, sep } from 'node:path';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { MeshError, systemCode } from '../../common/errors.js';
import { readLines } from './lines.js';

export interface EachLines {
  kind: 'lines';
  count: number;
  /** The lines again, from the start. */
  open(): AsyncIterable<string>;
  /** Removes the spool, if there is one. */
  close(): void;
}

export interface EachFiles {
  kind: 'files';
  count: number;
  /** Where each file is here, and where it goes in its task's directory. */
  files: { source: string; path: string }[];
  close(): void;
}

export type Each = EachLines | EachFiles;

const GLOB_CHARACTERS = /[*?[\]{}!()]/;

/** @throws MeshError USAGE when nothing matches or there are no lines */
export async function openEach(text: string, cwd: string, stdin: () => Readable): Promise<Each> {
  if (text === '-') return spoolLines(stdin());
  const path = resolve(cwd, text);
  const there = GLOB_CHARACTERS.test(text) ? undefined : statSync(path, { throwIfNoEntry: false });
  if (there?.isFile()) return fileLines(path, text);
  if (there?.isFIFO()) return spoolLines(createReadStream(path), text);
  return matchingFiles(text, cwd);
}

async function countLines(path: string): Promise<number> {
  let count = 0;
  for await (const _line of readLines(path)) count++;
  return count;
}

async function fileLines(path: string, shown: string): Promise<EachLines> {
  try {
    return await nonEmpty(path, shown, () => undefined);
  } catch (error) {
    if (error instanceof MeshError) throw error;
    throw new MeshError('USAGE', `--each: cannot read ${shown} (${systemCode(error)})`, { cause: error });
  }
}

async function spoolLines(input: Readable, shown = 'standard input'): Promise<EachLines> {
  const folder = mkdtempSync(join(tmpdir(), 'mesh-each-'));
  const remove = () => {
    process.removeListener('exit', remove);
    rmSync(folder, { recursive: true, force: true });
  };
  process.once('exit', remove);
  try {
    const path = join(folder, 'lines');
    await pipeline(input, createWriteStream(path, { mode: 0o600 }));
    return await nonEmpty(path, shown, remove);
  } catch (error) {
    remove();
    throw error;
  }
}

async function nonEmpty(path: string, shown: string, close: () => void): Promise<EachLines> {
  const count = await countLines(path);
  if (count === 0)
    throw new MeshError('USAGE', `--each: ${shown} has no lines`, {
      hint: 'give one line per task, or a glob of files',
    });
  return { kind: 'lines', count, open: () => readLines(path), close };
}

async function matchingFiles(pattern: string, cwd: string): Promise<EachFiles> {
  const { glob } = await import('tinyglobby');
  const slashed = sep === '\\' ? pattern.replaceAll('\\', '/') : pattern;
  const found = await glob(slashed, { cwd, absolute: true, onlyFiles: true, followSymbolicLinks: false });
  if (found.length === 0)
    throw new MeshError('USAGE', `--each: nothing matches "${pattern}"`, {
      hint: "name a file of lines, or a glob in quotes such as 'frames/*.png'; use - for standard input",
    });
  const strange = found.find((file) => file.includes('\ufffd') && !existsSync(file));
  if (strange !== undefined)
    throw new MeshError('USAGE', `--each: the name of ${strange} is not UTF-8`, {
      hint: 'rename it, or name the others by a narrower glob',
    });
  const order = new Intl.Collator('en', { numeric: true });
  const inside = found.every((file) => !outside(relative(cwd, file)));
  const base = inside ? cwd : fixedPart(resolve(cwd, pattern));
  const files = found
    .map((source) => ({ source, path: relative(base, source).split(sep).join('/') }))
    .sort((a, b) => order.compare(a.path, b.path));
  return { kind: 'files', count: files.length, files, close: () => undefined };
}

const outside = (path: string): boolean => path === '..' || path.startsWith(`..${sep}`) || resolve(path) === path;

/** The folders of a pattern before the first glob character. */
function fixedPart(pattern: string): string {
  const parts = pattern.split(sep);
  const first = parts.findIndex((part) => GLOB_CHARACTERS.test(part));
  const fixed = first < 0 ? parts : parts.slice(0, first);
  return fixed.join(sep) || sep;
}
