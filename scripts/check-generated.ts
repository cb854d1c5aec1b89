/**
 * What is generated and committed must be what its source generates: the TypeScript of the wire contract, and the
 * pages of `docs/` that are made from the program. Generates aside and compares; changes nothing.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { globSync } from 'tinyglobby';
import { packageRoot } from '../common/package.js';

/** Paths, relative, that are missing on one side or differ between the two folders. */
export function differences(committed: string, fresh: string): string[] {
  const list = (folder: string): string[] => (existsSync(folder) ? globSync('**/*', { cwd: folder, dot: true }) : []);
  const paths = new Set([...list(committed), ...list(fresh)]);
  const content = (folder: string, path: string): string | undefined =>
    existsSync(join(folder, path)) ? readFileSync(join(folder, path), 'utf8') : undefined;
  return [...paths].filter((path) => content(committed, path) !== content(fresh, path)).sort();
}

function checkProto(): string[] {
  const folder = mkdtempSync(join(tmpdir(), 'mesh-generated-'));
  try {
    const buf = join(packageRoot, 'node_modules', '.bin', 'buf');
    execFileSync(buf, ['generate', '--output', folder], { cwd: packageRoot, stdio: ['ignore', 'ignore', 'inherit'] });
    return differences(join(packageRoot, 'proto', 'gen'), join(folder, 'proto', 'gen'));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Runs the generator of the documentation, which names what is out of date itself. */
function checkDocs(): boolean {
  const script = join(packageRoot, 'scripts', 'generate-docs.ts');
  if (!existsSync(script)) return true;
  try {
    execFileSync(process.execPath, ['--import=tsx', script, '--check'], { cwd: packageRoot, stdio: 'inherit' });
    return true;
  } catch {
    return false;
  }
}

if (process.argv[1] === import.meta.filename) {
  const stale = checkProto();
  for (const path of stale) process.stderr.write(`proto/gen/${path} is not what proto/ generates: npm run proto\n`);
  if (!checkDocs() || stale.length > 0) process.exitCode = 1;
}
