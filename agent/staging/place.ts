import { constants } from 'node:fs';
import { chmod, chown, copyFile, mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { isDiskFull, MeshError, systemCode } from '../../common/errors.js';
import type { StagedFile } from '../../proto/gen/mesh/v1/common.js';
import { NodeFault } from '../core/types.js';

/** Gives the verified file of a digest to `use`; see StagingCache.withFile. */
export interface FileSource {
  withFile<T>(digest: string, use: (path: string) => Promise<T>): Promise<T>;
}

export interface Owner {
  uid: number;
  gid: number;
}

const PATH_BYTES_MAX = 4096;

/**
 * Relative, normalised, forward slashes, inside. The coordinator checks it too; a node does not have to believe it.
 * @throws MeshError BAD_SPEC that names the path
 */
export function checkStagedPath(path: string): void {
  const parts = path.split('/');
  const safe =
    path.length > 0 &&
    Buffer.byteLength(path) <= PATH_BYTES_MAX &&
    !path.includes('\0') &&
    !path.includes('\\') &&
    parts.every((part) => part !== '' && part !== '.' && part !== '..');
  if (!safe) throw new MeshError('BAD_SPEC', `the staged file ${JSON.stringify(path)} does not stay in its directory`);
}

/**
 * Copies files into a fresh private directory that nothing else writes to yet, so no link in it can lead out. Copies,
 * not hard links: a task may write to its files, the cache must not change. Copy on write where the file system can.
 * @throws MeshError BAD_SPEC for an unsafe path or two files in one place; NodeFault when the node cannot do it
 */
export async function placeFiles(
  files: readonly StagedFile[],
  directory: string,
  source: FileSource,
  owner: Owner | undefined,
): Promise<void> {
  const made = new Set<string>();
  for (const file of files) {
    checkStagedPath(file.path);
    const target = join(directory, file.path);
    try {
      await makeParents(dirname(file.path), directory, made, owner);
      await source.withFile(file.digest, (path) =>
        copyFile(path, target, constants.COPYFILE_FICLONE | constants.COPYFILE_EXCL),
      );
      await chmod(target, file.executable ? 0o755 : 0o644);
      if (owner) await chown(target, owner.uid, owner.gid);
    } catch (error) {
      throw placeProblem(file.path, error);
    }
  }
}

async function makeParents(folder: string, root: string, made: Set<string>, owner: Owner | undefined): Promise<void> {
  if (folder === '.' || made.has(folder)) return;
  await makeParents(dirname(folder), root, made, owner);
  await mkdir(join(root, folder), { mode: 0o755 });
  if (owner) await chown(join(root, folder), owner.uid, owner.gid);
  made.add(folder);
}

function placeProblem(path: string, error: unknown): Error {
  if (error instanceof NodeFault || error instanceof MeshError) return error;
  const code = systemCode(error);
  if (code === 'EEXIST' || code === 'ENOTDIR' || code === 'EISDIR')
    return new MeshError('BAD_SPEC', `the staged file ${path} is in the place of another one`, { cause: error });
  if (code === 'ENAMETOOLONG')
    return new MeshError('BAD_SPEC', `the name of the staged file ${path} is too long for this node`, { cause: error });
  if (isDiskFull(error)) return new NodeFault('the disk of the node is full', error);
  return new NodeFault(`the staged file ${path} could not be placed: ${code ?? String(error)}`, error);
}
