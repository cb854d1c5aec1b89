/**
 * The house rules: import arrows, a pure core, one clock, file sizes, tests that neither sleep nor hide, and nothing
 * of one machine. Each is a row in a table: zones.ts, text-rules.ts, tracked.ts.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { globSync } from 'tinyglobby';
import { checkArrows, checkCoreReach } from './arrows.js';
import { readSource, type Source } from './source.js';
import { checkTexts } from './text-rules.js';
import { checkTracked, listTracked } from './tracked.js';
import type { Violation } from './violation.js';

const IGNORE = ['**/node_modules/**', 'dist/**', '.tap/**', '.quickstart/**', 'coverage/**'];

function readSources(root: string): Map<string, Source> {
  const paths = globSync(['**/*.ts', '**/*.mts', '**/*.cts', '**/*.mjs'], { cwd: root, ignore: IGNORE, dot: true });
  return new Map(paths.sort().map((path) => [path, readSource(path, readFileSync(join(root, path), 'utf8'))]));
}

function readDependencies(root: string): Set<string> {
  const path = join(root, 'package.json');
  if (!existsSync(path)) return new Set();
  return new Set(Object.keys((JSON.parse(readFileSync(path, 'utf8')) as { dependencies?: object }).dependencies ?? {}));
}

/** Every violation in the tree below `root`, by path and line. Without a git repository the tracked rules are left out. */
export function checkHouse(root: string): Violation[] {
  const sources = readSources(root);
  const tracked = listTracked(root);
  return [
    ...checkArrows(sources, readDependencies(root)),
    ...checkCoreReach(sources),
    ...checkTexts(sources),
    ...(tracked ? checkTracked(root, tracked) : []),
  ].sort((a, b) => a.path.localeCompare(b.path) || a.line - b.line);
}
