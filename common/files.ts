import { randomBytes } from 'node:crypto';
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { MeshError, systemCode } from './errors.js';

/**
 * Creates a directory and its parents. Not `mkdirSync` with `recursive`: that one never returns where a parent is there
 * and yet nothing can be made in it with ENOENT as the reason, as below /proc.
 * @param mode of those that are made, less the umask
 * @throws MeshError DATA_DIR
 */
export function makeDirs(path: string, mode = 0o777): void {
  try {
    mkdirSync(path, { mode });
  } catch (error) {
    const code = systemCode(error);
    if (code === 'EEXIST' && statSync(path).isDirectory()) return;
    const parent = dirname(path);
    if (code !== 'ENOENT' || parent === path || existsSync(parent))
      throw new MeshError('DATA_DIR', `cannot create ${path} (${code})`, { cause: error });
    makeDirs(parent, mode);
    makeDirs(path, mode);
  }
}

/** Takes back a directory that was made for nothing; one that holds something stays. */
export function removeIfEmpty(path: string): void {
  try {
    rmdirSync(path);
  } catch {
    // Somebody has put something there, or removed it already.
  }
}

/** Creates a directory that only its owner can enter. Existing directories keep their mode. */
export function makePrivateDir(path: string): void {
  makeDirs(path, 0o700);
}

/** As `makePrivateDir`, and removes what an earlier life of the process left in it. */
export function emptyPrivateDir(path: string): void {
  makePrivateDir(path);
  for (const name of readdirSync(path)) rmSync(join(path, name), { recursive: true, force: true });
}

/** Replaces a file at once or not at all, and survives a power cut. */
export function writeFileAtomic(path: string, content: string | Uint8Array, mode = 0o644): void {
  const temporary = `${path}.${randomBytes(4).toString('hex')}.tmp`;
  try {
    const descriptor = openSync(temporary, 'wx', mode);
    try {
      const bytes = typeof content === 'string' ? Buffer.from(content) : content;
      for (let done = 0; done < bytes.length; ) done += writeSync(descriptor, bytes, done);
      fsyncSync(descriptor);
    } finally {
      closeSync(descriptor);
    }
    renameSync(temporary, path);
    syncDirectory(dirname(path));
  } catch (error) {
    rmSync(temporary, { force: true });
    throw new MeshError('DATA_DIR', `cannot write ${path} (${systemCode(error) ?? 'unknown'})`, { cause: error });
  }
}

/** Without it the rename itself may be lost. Where directories cannot be opened the system does what it can. */
export function syncDirectory(path: string): void {
  if (process.platform === 'win32') return;
  const descriptor = openSync(path, 'r');
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}

/** The file's text, or undefined when it does not exist. */
export function readIfExists(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw new MeshError('DATA_DIR', `cannot read ${path} (${systemCode(error)})`, {
      hint: 'run it as the user who owns it',
      cause: error,
    });
  }
}

/** Written for whoever waits for a process to be ready; atomic, so a reader never sees half of it. */
export function writeReadyFile(path: string, content: Record<string, unknown>): void {
  makeDirs(dirname(path), 0o777);
  writeFileAtomic(path, `${JSON.stringify(content)}\n`);
}

/** Where data lives without `--data`: `MESH_HOME`, or the XDG data directory. */
export function defaultDataDir(part: 'coordinator' | 'agent', environment: NodeJS.ProcessEnv): string {
  const home = environment.MESH_HOME;
  if (home) return join(home, part);
  return join(environment.XDG_DATA_HOME || join(homedir(), '.local', 'share'), 'planetary-mesh', part);
}
