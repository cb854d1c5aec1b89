import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { packageRoot } from '../common/package.js';

/** A module of the build, typed as its source. */
export const built = async <Module>(path: string): Promise<Module> =>
  (await import(pathToFileURL(join(packageRoot, 'dist', path)).href)) as Module;
