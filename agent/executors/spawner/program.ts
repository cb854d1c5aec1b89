import { accessSync, constants } from 'node:fs';
import { join } from 'node:path';
import { packageRoot } from '../../../common/package.js';

/** Where the build puts the program for this machine. */
export const spawnerPath = (root: string = packageRoot): string =>
  join(root, 'dist', 'native', `mesh-spawner-${process.platform}-${process.arch}`);

/** Undefined where none was built. */
export function findSpawner(path: string = spawnerPath()): string | undefined {
  try {
    accessSync(path, constants.X_OK);
    return path;
  } catch {
    return undefined;
  }
}
