import { existsSync, readdirSync } from 'node:fs';
import { join, relative, sep } from 'node:path';

export interface InstalledPackage {
  /** `fastify`, `@grpc/grpc-js`. */
  name: string;
  /** Below the root, with forward slashes: a package may be there in several versions. */
  path: string;
  /** What belongs to its license: absolute path here, name in the package. */
  files: { source: string; path: string }[];
}

const LICENSE_FILE = /^(licen[cs]e|copying)(?!.*\.(c|m)?(j|t)s(x|on|\.map)?$)/i;

/** Every package below `<root>/node_modules`, nested and scoped ones too, in order of their paths. */
export function installedPackages(root: string): InstalledPackage[] {
  const found: InstalledPackage[] = [];
  collect(join(root, 'node_modules'), root, found);
  return found.sort((a, b) => (a.path < b.path ? -1 : 1));
}

/** Links are left out: they lead to packages that are somewhere else, or in circles. */
function collect(folder: string, root: string, found: InstalledPackage[]): void {
  if (!existsSync(folder)) return;
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    if (!entry.isDirectory() || entry.name.startsWith('.')) continue;
    const path = join(folder, entry.name);
    if (entry.name.startsWith('@')) collect(path, root, found);
    else addPackage(path, root, found);
  }
}

function addPackage(folder: string, root: string, found: InstalledPackage[]): void {
  const entries = readdirSync(folder, { withFileTypes: true });
  const names = entries.filter((entry) => entry.isFile()).map((entry) => entry.name);
  if (names.includes('package.json')) {
    const files = names
      .filter((name) => name === 'package.json' || LICENSE_FILE.test(name))
      .map((name) => ({ source: join(folder, name), path: name }));
    const path = relative(root, folder).split(sep).join('/');
    found.push({ name: path.split('node_modules/').at(-1) ?? path, path, files });
  }
  collect(join(folder, 'node_modules'), root, found);
}
