/**
 * Rules on everything that would be committed, whatever it is written in: nothing in the repository may depend on the
 * machine it was made on.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { lineAt } from './source.js';
import type { Violation } from './violation.js';

/** Spelled apart so that this file does not break its own rule. */
const MACHINE_PATHS = new RegExp(`(?<![\\w.}/])/(?:${['work', 'root'].join('|')})/`, 'g');
const BYTES_MAX = 4 * 1024 * 1024;

/** Files in git or about to be: tracked, or new and not ignored. Undefined where there is no repository. */
export function listTracked(root: string): string[] | undefined {
  if (!existsSync(join(root, '.git'))) return undefined;
  const args = ['ls-files', '-z', '--cached', '--others', '--exclude-standard'];
  const output = execFileSync('git', args, { cwd: root, encoding: 'utf8', maxBuffer: 64 * 1024 * 1024 });
  return [...new Set(output.split('\0'))].filter((path) => path !== '' && isFile(join(root, path)));
}

const isFile = (path: string): boolean => statSync(path, { throwIfNoEntry: false })?.isFile() ?? false;

function checkFile(path: string, content: Buffer): Violation[] {
  if (content.length > BYTES_MAX || content.subarray(0, 8000).includes(0)) return [];
  const text = content.toString('utf8');
  const at = (index: number, rule: string, what: string): Violation => ({
    path,
    line: lineAt(text, index),
    rule,
    what,
  });
  const violations = [...text.matchAll(MACHINE_PATHS)].map((match) =>
    at(match.index, 'no machine paths', `${match[0]} is a path of one machine`),
  );
  if (path.endsWith('package-lock.json')) {
    const found = text.indexOf('"resolved"');
    if (found >= 0) violations.push(at(found, 'lockfile', 'holds "resolved" addresses: remove them (CONTRIBUTING.md)'));
  }
  if (path.endsWith('.npmrc')) {
    const found = /^\s*(?:\S+:)?registry\s*=|_auth/m.exec(text);
    if (found) violations.push(at(found.index, 'lockfile', 'names a registry'));
  }
  return violations;
}

export function checkTracked(root: string, files: readonly string[]): Violation[] {
  return files.flatMap((path) => checkFile(path, readFileSync(join(root, path))));
}
