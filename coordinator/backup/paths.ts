/**
 * What of a coordinator's data directory is the mesh's identity. Whatever must survive the loss of the machine and is
 * in no table of the database gets a row here, and is then in every backup, with its mode. Paths are relative; a
 * directory means all below it. What is missing is left out.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { MeshError } from '../../common/errors.js';

export const IDENTITY_PATHS: readonly string[] = [
  'ca', // root, intermediate, their keys as they are (encrypted or not), the index of what mesh-ca issued
  'coordinator.id', // the holder of the lease
  'coordinator.name', // the name a joined coordinator was given
  'admin', // the first operator's profile
];

/** Bulk that a backup holds only when asked to: staged files, and the output of tasks. */
export const FILE_PATHS: readonly string[] = ['blobs', 'logs'];

/** Locks and files that are being written: of a process, not of the mesh. */
export const PASSING = /\.(?:lock|tmp|part|break)$/;

/** There while a restore is under way. */
export const UNFINISHED = 'restore.unfinished';

/** @throws MeshError DATA_DIR when a restore into the directory was interrupted */
export function assertRestored(dataDir: string): void {
  const path = join(dataDir, UNFINISHED);
  if (existsSync(path))
    throw new MeshError('DATA_DIR', `a restore into ${dataDir} was interrupted (${path})`, {
      hint: 'remove the directory and restore again',
    });
}
