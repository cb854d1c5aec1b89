import { accessSync, constants, existsSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { MeshError, systemCode } from '../common/errors.js';
import { makeDirs, readIfExists, writeFileAtomic } from '../common/files.js';
import { readRoots } from '../common/identity/roots.js';

export interface Target {
  directory: string;
  name: string;
  p12: boolean;
  /** Replace what is there. */
  force: boolean;
}

export interface TargetPaths {
  certificate: string;
  key: string;
  ca: string;
  p12: string | undefined;
}

const pathsOf = ({ directory, name, p12 }: Target): TargetPaths => ({
  certificate: join(directory, `${name}.crt`),
  key: join(directory, `${name}.key`),
  ca: join(directory, 'ca.crt'),
  p12: p12 ? join(directory, `${name}.p12`) : undefined,
});

/**
 * Before anything is issued: the folder can be written and nothing in it would be overwritten.
 * @throws MeshError CONFLICT, DATA_DIR
 */
export function prepareTarget(target: Target): TargetPaths {
  const paths = pathsOf(target);
  try {
    makeDirs(target.directory);
    accessSync(target.directory, constants.W_OK);
  } catch (error) {
    const code = systemCode(error instanceof MeshError ? error.cause : error);
    throw new MeshError('DATA_DIR', `cannot write into ${target.directory} (${code})`, {
      hint: 'name a writable folder with --out',
      cause: error,
    });
  }
  const taken = [paths.certificate, paths.key, paths.p12].find((path) => path !== undefined && existsSync(path));
  if (taken && !target.force)
    throw new MeshError('CONFLICT', `${taken} exists already`, { hint: 'name another folder, or add --force' });
  return paths;
}

export interface IssuedFiles {
  chainPem: string;
  keyPem: string;
  rootPem: string;
  p12: Buffer | undefined;
}

/**
 * Writes all files under temporary names, then gives them theirs, the certificate last: half an identity is never seen.
 * @throws MeshError CONFLICT when another mesh's ca.crt is there, DATA_DIR
 */
export function writeIssued(target: Target, content: IssuedFiles): TargetPaths {
  const paths = pathsOf(target);
  const known = readIfExists(paths.ca);
  if (known !== undefined && !target.force && !sameMesh(known, content.rootPem))
    throw new MeshError('CONFLICT', `${paths.ca} is the root of another mesh`, {
      hint: 'name another folder, or add --force',
    });
  const writes: [string, string | Buffer, number][] = [
    [paths.key, content.keyPem, 0o600],
    [paths.ca, content.rootPem, 0o644],
    [paths.certificate, content.chainPem, 0o644],
  ];
  if (paths.p12 && content.p12) writes.unshift([paths.p12, content.p12, 0o600]);
  const fresh = writes.map(([path]) => path).filter((path) => !existsSync(path));
  const staged = (path: string) => `${path}.new`;
  try {
    for (const [path, bytes, mode] of writes) writeFileAtomic(staged(path), bytes, mode);
    for (const [path] of writes) renameSync(staged(path), path);
  } catch (error) {
    for (const path of [...writes.map(([path]) => staged(path)), ...fresh]) rmSync(path, { force: true });
    if (error instanceof MeshError) throw error;
    throw new MeshError('DATA_DIR', `cannot write into ${target.directory} (${systemCode(error)})`, { cause: error });
  }
  return paths;
}

function sameMesh(left: string, right: string): boolean {
  try {
    return readRoots(left).meshId === readRoots(right).meshId;
  } catch {
    return false;
  }
}

/** The first line of a file that holds a password. @throws MeshError USAGE */
export function readPasswordFile(path: string): string {
  try {
    return readFileSync(path, 'utf8').split(/\r?\n/)[0] ?? '';
  } catch (error) {
    throw new MeshError('USAGE', `cannot read the password file ${path} (${systemCode(error)})`, { cause: error });
  }
}
