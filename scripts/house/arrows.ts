import { posix } from 'node:path';
import { isBuiltin } from 'node:module';
import type { Import, Source } from './source.js';
import type { Violation } from './violation.js';
import { PACKAGE_HOMES, zoneOf } from './zones.js';

/** The file of the tree that an import names, or undefined for a package. `.js` stands for the `.ts` it is built from. */
export function resolveLocal(from: string, specifier: string, known: ReadonlyMap<string, Source>): string | undefined {
  if (!specifier.startsWith('.')) return undefined;
  const path = posix.normalize(posix.join(posix.dirname(from), specifier));
  return known.has(path) ? path : path.replace(/\.([cm]?)js$/, '.$1ts');
}

/** `@scope/name/deep` → `@scope/name`. */
export const packageName = (specifier: string): string =>
  specifier
    .split('/')
    .slice(0, specifier.startsWith('@') ? 2 : 1)
    .join('/');

function checkLocal(source: Source, found: Import, target: string): string | undefined {
  const zone = zoneOf(source.path);
  const other = zoneOf(target);
  if (!zone) return undefined;
  if (!other) return target.startsWith('..') ? 'leaves the tree' : undefined;
  if (zone === other || zone.from.includes('*') || zone.from.includes(other.name)) return undefined;
  if (zone.typesFrom?.includes(other.name)) {
    return found.typeOnly ? undefined : `${zone.name} may import only types from ${other.name}: ${found.specifier}`;
  }
  return `${zone.name} may not import ${other.name === 'outside' ? 'tests, benches or scripts' : other.name}: ${found.specifier}`;
}

function checkPackage(source: Source, found: Import, dependencies: ReadonlySet<string>): string | undefined {
  if (isBuiltin(found.specifier)) {
    return found.specifier.startsWith('node:') ? undefined : `write it node:${found.specifier}`;
  }
  const name = packageName(found.specifier);
  const home = PACKAGE_HOMES[name];
  if (zoneOf(source.path)?.name === 'outside') return undefined;
  if (home && !home.test(source.path)) return `${name} lives in ${home.source} alone`;
  return dependencies.has(name) ? undefined : `${name} is not among the dependencies of package.json`;
}

/** The arrows of imports between folders, the homes of packages, and that what is imported is declared. */
export function checkArrows(sources: ReadonlyMap<string, Source>, dependencies: ReadonlySet<string>): Violation[] {
  const violations: Violation[] = [];
  for (const source of sources.values()) {
    if (!zoneOf(source.path))
      violations.push({ path: source.path, line: 1, rule: 'arrows', what: 'is in no zone of scripts/house/zones.ts' });
    for (const found of source.imports) {
      const target = resolveLocal(source.path, found.specifier, sources);
      const what = target === undefined ? checkPackage(source, found, dependencies) : checkLocal(source, found, target);
      if (what) violations.push({ path: source.path, line: found.line, rule: target ? 'arrows' : 'packages', what });
    }
  }
  return violations;
}

/**
 * What is loaded with a core file is as pure as the core: following the imports of `core/` that load something, no file
 * may import a built-in module that reaches the outside. Reported at the import in `core/` that starts the path.
 */
export function checkCoreReach(sources: ReadonlyMap<string, Source>): Violation[] {
  const violations: Violation[] = [];
  for (const source of sources.values()) {
    if (!/(?:^|\/)core\//.test(source.path) || source.path.endsWith('.test.ts')) continue;
    for (const found of source.imports) {
      if (found.typeOnly) continue;
      const target = resolveLocal(source.path, found.specifier, sources);
      const path = target === undefined ? impureImport(found) : findImpure(target, sources);
      if (!path) continue;
      violations.push({ path: source.path, line: found.line, rule: 'core is pure', what: `it would load ${path}` });
    }
  }
  return violations;
}

const impureImport = (found: Import): string | undefined =>
  isBuiltin(found.specifier) && !found.typeOnly ? found.specifier : undefined;

/** `common/files.ts → node:fs`, or undefined when nothing reached from `start` is impure. */
function findImpure(start: string, sources: ReadonlyMap<string, Source>): string | undefined {
  const cameFrom = new Map<string, string | undefined>([[start, undefined]]);
  for (const path of cameFrom.keys()) {
    for (const found of sources.get(path)?.imports ?? []) {
      if (found.typeOnly) continue;
      const target = resolveLocal(path, found.specifier, sources);
      if (target !== undefined && !cameFrom.has(target)) cameFrom.set(target, path);
      const impure = target === undefined ? impureImport(found) : undefined;
      if (!impure) continue;
      const steps: string[] = [impure];
      for (let step: string | undefined = path; step !== undefined; step = cameFrom.get(step)) steps.unshift(step);
      return steps.join(' → ');
    }
  }
  return undefined;
}
