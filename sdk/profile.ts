/**
 * A profile is a folder that says which mesh somebody works with and proves who they are: `profile.json` (mesh id and
 * known addresses), `client.crt` (leaf, then intermediate), `client.key` (0600) and `ca.crt` (the root).
 */
import { existsSync } from 'node:fs';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { MeshError } from '../common/errors.js';
import { formatEndpoint, knownEndpoints } from '../link/endpoints.js';
import { defaultDataDir, makePrivateDir, readIfExists, writeFileAtomic } from '../common/files.js';

/** As many addresses as a profile remembers; the latest come first. */
export const ADDRESSES_MAX = 16;

export interface ProfileFile {
  meshId: string;
  /** `host:port`, the one that last answered first. */
  coordinators: string[];
}

export interface Profile extends ProfileFile {
  directory: string;
}

const profileJson = (directory: string): string => join(directory, 'profile.json');

/** Where `mesh login` writes when no place is named. */
export function userProfileDir(environment: NodeJS.ProcessEnv): string {
  return join(environment.XDG_CONFIG_HOME || join(homedir(), '.config'), 'planetary-mesh', 'profile');
}

/**
 * The folder to connect with: the flag, `MESH_PROFILE`, the user's own, the `admin/` of the local coordinator. A folder
 * that was named is taken even if it is not there, so that the error is about that folder.
 * @throws MeshError NO_PROFILE
 */
export function findProfileDir(flag: string | undefined, environment: NodeJS.ProcessEnv): string {
  const named = flag ?? (environment.MESH_PROFILE || undefined);
  if (named !== undefined) return resolve(named);
  const candidates = [userProfileDir(environment), join(defaultDataDir('coordinator', environment), 'admin')];
  const found = candidates.find((directory) => existsSync(profileJson(directory)));
  if (found) return found;
  throw new MeshError('NO_PROFILE', 'there is no profile on this machine');
}

/**
 * An address that cannot be read is passed over, here and in what is written next: where the mesh was is a hint.
 * @throws MeshError NO_PROFILE when the folder holds none, BAD_CONFIG when it is damaged
 */
export function readProfile(directory: string): Profile {
  const path = profileJson(directory);
  const text = readIfExists(path);
  if (text === undefined) throw new MeshError('NO_PROFILE', `there is no profile in ${directory}`);
  let content: Partial<ProfileFile> | null;
  try {
    content = JSON.parse(text) as Partial<ProfileFile> | null;
  } catch (error) {
    throw new MeshError('BAD_CONFIG', `${path} is not valid JSON`, { hint: 'log in again: mesh login', cause: error });
  }
  const { meshId, coordinators } = content ?? {};
  const addresses = Array.isArray(coordinators) && coordinators.every((address) => typeof address === 'string');
  if (typeof meshId !== 'string' || meshId === '' || !addresses)
    throw new MeshError('BAD_CONFIG', `${path} needs meshId and coordinators`, { hint: 'log in again: mesh login' });
  return { directory, meshId, coordinators: knownEndpoints(coordinators).map(formatEndpoint) };
}

/** The mesh that the profile in a folder belongs to; undefined when there is none that can be read. */
export function meshIdIn(directory: string): string | undefined {
  try {
    return readProfile(directory).meshId;
  } catch {
    return undefined;
  }
}

export function writeProfile(directory: string, content: ProfileFile): void {
  makePrivateDir(directory);
  const { meshId, coordinators } = content;
  const text = JSON.stringify({ meshId, coordinators: coordinators.slice(0, ADDRESSES_MAX) }, null, 2);
  writeFileAtomic(profileJson(directory), `${text}\n`, 0o600);
}

/** Puts `address` first among the known ones; undefined when nothing changes. */
export function withAddress(known: readonly string[], address: string): string[] | undefined {
  if (known[0] === address) return undefined;
  return [address, ...known.filter((other) => other !== address)].slice(0, ADDRESSES_MAX);
}
