/**
 * How one more coordinator comes into a mesh: with a token of that role it gets an intermediate of its own from the
 * coordinator that leads and has the root's key, for an issuing key that never leaves this machine. From then on it
 * issues its own certificates, as the first coordinator does. Both keys of the request wait on disk until the answer is
 * there, so joining again with the same token after a crash brings the same name.
 */
import { rmSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { initAdopted, keyForIssuer } from '../ca/directory.js';
import { waitingKey } from '../ca/keys.js';
import { knownRoots } from '../ca/next-root.js';
import type { Clock } from '../common/clock.js';
import { MeshError } from '../common/errors.js';
import { makePrivateDir, readIfExists, writeFileAtomic } from '../common/files.js';
import { decodeToken } from '../common/identity/token.js';
import { nameFrom } from '../common/ids.js';
import type { Logger } from '../common/log.js';
import type { Passphrase } from '../common/passphrase.js';
import { parseEndpoint } from '../link/endpoints.js';
import { join as joinMesh } from '../link/join.js';
import { EmbeddedAuthority } from './authority.js';
import type { CoordinatorConfig } from './coordinator.js';

const nameFile = (dataDir: string): string => join(dataDir, 'coordinator.name');

/** The name this coordinator joined under, if it did. */
export const joinedName = (dataDir: string): string | undefined => readIfExists(nameFile(dataDir))?.trim() || undefined;

export const foreignDatabase = (owner: string, ours: string): MeshError =>
  new MeshError('DATABASE_FOREIGN', `the database belongs to ${owner}; this data directory ${ours}`, {
    hint: 'to add a coordinator to that mesh make a token there (mesh token create --role coordinator) and start with --join TOKEN; otherwise use an empty database',
  });

interface Around {
  clock: Clock;
  log: Logger;
  signal: AbortSignal;
  /** Encrypts the keys made here. */
  passphrase: Passphrase | undefined;
}

/**
 * Joins when the data directory has no CA and a token was given.
 * @param owner the mesh the database belongs to
 * @throws MeshError DATABASE_FOREIGN, USAGE, CONFLICT, BAD_TOKEN, and what the coordinator refuses with
 */
export async function joinIfAsked(config: CoordinatorConfig, owner: string | undefined, around: Around): Promise<void> {
  const { dataDir } = config;
  const isMember = EmbeddedAuthority.isIn(dataDir);
  if (config.join === undefined) {
    if (owner !== undefined && !isMember) throw foreignDatabase(owner, 'is new');
    return;
  }
  const { rootDigest } = decodeToken(config.join);
  if (isMember) {
    if (knownRoots(join(dataDir, 'ca')).includes(rootDigest)) return;
    throw new MeshError('CONFLICT', 'this data directory belongs to one mesh, the token to another', {
      hint: 'name another directory with --data, or leave --join out',
    });
  }
  if (config.databaseUrl === undefined)
    throw new MeshError('USAGE', 'a coordinator that joins needs the database of the mesh', {
      hint: 'start it with the --database-url that the other coordinator uses',
    });
  if (owner === undefined)
    throw new MeshError('USAGE', 'the database belongs to no mesh yet, so there is none to join there', {
      hint: 'name the database that the other coordinator uses with --database-url',
    });
  await joinAs(config, config.join, around);
}

async function joinAs(
  config: CoordinatorConfig,
  token: string,
  { clock, log, signal, passphrase }: Around,
): Promise<void> {
  const directory = join(config.dataDir, 'ca');
  makePrivateDir(directory);
  const keyFile = join(directory, 'join.key');
  const joined = await joinMesh({
    ...{ token, clock, log, signal, roles: ['coordinator'] as const },
    privateKey: waitingKey(keyFile, passphrase).export({ type: 'pkcs8', format: 'pem' }) as string,
    name: config.name ?? nameFrom(hostname(), 'coordinator'),
    addresses: config.coordinator === undefined ? [] : [parseEndpoint(config.coordinator)],
    discover: config.coordinator === undefined && config.mdns,
    issuerKey: keyForIssuer(directory, passphrase),
  });
  if (joined.role !== 'coordinator')
    throw new MeshError('USAGE', `the token is for the role ${joined.role}`, {
      hint: 'make one with: mesh token create --role coordinator',
    });
  const { root: rootPem } = joined.credential;
  writeFileAtomic(nameFile(config.dataDir), `${joined.name}\n`);
  await initAdopted(directory, { rootPem, issuerPem: joined.issuer, nowMs: clock.wallMs(), passphrase });
  rmSync(keyFile, { force: true });
  log.info({ event: 'coordinator.joined', mesh: joined.meshId, name: joined.name });
}
