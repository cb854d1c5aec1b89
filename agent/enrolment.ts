/**
 * How an agent comes to its certificate: the one in its data directory, files from `mesh-ca issue`, or a join token. The
 * token is used once and never kept. Where an operator has to approve new machines it asks again and again, with the
 * same key, until one has decided; that key is kept, so it may be stopped and started meanwhile.
 *
 * A certificate that has expired, because the machine was off, buys a new one where the mesh allows that
 * (link/recover.ts): here when there is a token to fall back on, otherwise with the first dial, for as long as it takes
 * until a coordinator answers.
 */
import { createPublicKey } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { type Clock, pause } from '../common/clock.js';
import { type ErrorCode, MeshError, systemCode, toMeshError } from '../common/errors.js';
import { readIfExists, writeFileAtomic } from '../common/files.js';
import { nameFrom } from '../common/ids.js';
import { chainFromPem, checkPresented } from '../common/identity/chain.js';
import type { Identity } from '../common/identity/identity.js';
import { approvalPhrase } from '../common/identity/phrase.js';
import { readRoots } from '../common/identity/roots.js';
import { decodeToken } from '../common/identity/token.js';
import type { Logger } from '../common/log.js';
import { CredentialStore } from '../link/credential-store.js';
import type { Credential } from '../link/credentials.js';
import { type Endpoint, formatEndpoint, knownEndpoints } from '../link/endpoints.js';
import { type Joined, join as joinMesh, type JoinOptions } from '../link/join.js';
import { expiredAtMs, recover } from '../link/recover.js';

export interface EnrolmentOptions {
  dataDir: string;
  token: string | undefined;
  files: { cert: string | undefined; key: string | undefined; ca: string | undefined };
  name: string | undefined;
  coordinator: Endpoint | undefined;
  discover: boolean;
  clock: Clock;
  log: Logger;
  signal: AbortSignal;
  /** Once, when an operator has to approve this machine first. */
  onWaiting: (waiting: WaitingForApproval) => void;
}

export interface WaitingForApproval {
  /** The words by which people tell this machine's key. */
  phrase: string;
  /** What the coordinator said to do. */
  hint: string;
}

export interface Enrolled {
  credential: Credential;
  store: CredentialStore;
  identity: Identity;
}

/** Asks are this far apart: soon at first, in case somebody stands by to approve. */
const ASK_AGAIN_MS = { first: 1000, most: 15_000 };

/** What may come between while an operator makes up their mind. */
const PASSING: ReadonlySet<ErrorCode> = new Set(['UNREACHABLE', 'OVERLOADED', 'TIMED_OUT']);

/** @throws MeshError USAGE when there is no way in, BAD_CERTIFICATE, BAD_TOKEN, TOKEN_REFUSED, DENIED, UNREACHABLE */
export async function enrol(options: EnrolmentOptions): Promise<Enrolled> {
  const store = new CredentialStore(options.dataDir, 'agent');
  const given = fromFiles(options.files);
  if (given) {
    identify(given, options.clock);
    store.save(newest(store.load(), given));
  }
  const stored = store.load();
  // A token that was spent before stays in unit files: it leads nowhere that the certificate does not.
  const isNews = options.token !== undefined && !store.knowsRoot(decodeToken(options.token).rootDigest);
  if (stored && !isNews) {
    const mayFallBack = options.token !== undefined && isExpired(stored, options.clock);
    const present = mayFallBack ? await recoverOr(options, store, stored) : stored;
    if (present) return { credential: present, store, identity: identify(present, options.clock) };
  }
  if (!options.token) throw noWayIn();
  const asking = {
    token: options.token,
    roles: ['agent'] as const,
    name: options.name ?? nameFrom(hostname(), 'node'),
    addresses: options.coordinator ? [options.coordinator] : [],
    discover: options.discover && options.coordinator === undefined,
    clock: options.clock,
    log: options.log,
    signal: options.signal,
    privateKey: store.keyForJoining(),
    meshId: stored && readRoots(stored.root).meshId,
  };
  const { credential, coordinators, endpoint } = await joinWhenApproved(asking, options);
  store.save(credential);
  rememberCoordinators(options.dataDir, [formatEndpoint(endpoint), ...coordinators]);
  return { credential, store, identity: identify(credential, options.clock) };
}

async function joinWhenApproved(
  asking: JoinOptions & { privateKey: string },
  { clock, log, signal, onWaiting }: EnrolmentOptions,
): Promise<Joined> {
  let askAgainMs = 0;
  for (;;) {
    try {
      return await joinMesh({ ...asking, again: askAgainMs > 0 });
    } catch (error) {
      const { code, hint } = toMeshError(error);
      const waits = code === 'NOT_APPROVED' || (askAgainMs > 0 && PASSING.has(code));
      if (!waits) throw error;
      if (askAgainMs === 0) onWaiting({ phrase: phraseOf(asking), hint });
      else log.debug({ event: 'join.still-waiting', code });
    }
    askAgainMs = Math.min(ASK_AGAIN_MS.most, 2 * askAgainMs || ASK_AGAIN_MS.first);
    await pause(clock, askAgainMs, signal);
  }
}

/** From our own key and the root that the token pins: nothing of it comes from outside. */
function phraseOf({ token, privateKey }: { token: string; privateKey: string }): string {
  const publicKeyDer = createPublicKey(privateKey).export({ type: 'spki', format: 'der' });
  return approvalPhrase(decodeToken(token).rootDigest, publicKeyDer);
}

const noWayIn = (): MeshError =>
  new MeshError('USAGE', 'this machine has not joined a mesh yet', {
    hint: 'make a token on the coordinator (mesh token create) and start with --join TOKEN',
  });

/** Undefined when the mesh does not want it back like this: then the token is tried. */
async function recoverOr(
  options: EnrolmentOptions,
  store: CredentialStore,
  expired: Credential,
): Promise<Credential | undefined> {
  const { coordinator, dataDir, log } = options;
  const addresses = coordinator ? [coordinator] : knownEndpoints(rememberedCoordinators(dataDir));
  try {
    return await recoverInto(store, expired, { ...options, addresses, discover: options.discover && !coordinator });
  } catch (error) {
    const { code, message } = toMeshError(error);
    if (code === 'INTERRUPTED') throw error;
    // Only who has expired may ask: by the coordinator's clock it has not, and it is this one that is ahead.
    if (code === 'DENIED') return expired;
    log.warn({ event: 'recovery.refused', code, reason: message }, 'joining with the token instead');
    return undefined;
  }
}

/** Buys a new certificate with an expired one and stores it. @throws MeshError as `recover` */
export async function recoverInto(
  store: CredentialStore,
  expired: Credential,
  around: Omit<Parameters<typeof recover>[0], 'credential' | 'privateKey'>,
): Promise<Credential> {
  const recovered = await recover({ ...around, credential: expired, privateKey: store.keyForJoining() });
  store.save(recovered);
  around.log.info({ event: 'certificate.recovered', notAfter: new Date(expiredAtMs(recovered)).toISOString() });
  return recovered;
}

/**
 * Our own certificate, judged as others will: what is wrong with it is better said here than by a refusal. That it has
 * expired can be mended.
 */
function identify(credential: Credential, clock: Clock): Identity {
  const { meshId, certificates } = readRoots(credential.root);
  const nowMs = Math.min(clock.wallMs(), expiredAtMs(credential));
  const rules = { meshId, roles: ['agent'], purpose: 'client', nowMs } as const;
  return checkPresented(chainFromPem(credential.certificateChain), certificates, rules);
}

const isExpired = (credential: Credential, clock: Clock): boolean => expiredAtMs(credential) <= clock.wallMs();

/** What was renewed since the files were made stays; files of another mesh replace it. */
function newest(stored: Credential | undefined, given: Credential): Credential {
  const same = stored !== undefined && readRoots(stored.root).meshId === readRoots(given.root).meshId;
  return same && expiredAtMs(stored) > expiredAtMs(given) ? stored : given;
}

function fromFiles({ cert, key, ca }: EnrolmentOptions['files']): Credential | undefined {
  if (!cert && !key && !ca) return undefined;
  if (!cert || !key || !ca) throw new MeshError('USAGE', '--cert, --key and --ca go together');
  return { certificateChain: read(cert), privateKey: read(key), root: read(ca) };
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new MeshError('USAGE', `cannot read ${path} (${systemCode(error)})`, {
      hint: 'check the path',
      cause: error,
    });
  }
}

const coordinatorsFile = (dataDir: string): string => join(dataDir, 'coordinators.json');

/** Where a coordinator was last time; a hint, so a damaged file is no error. */
export function rememberedCoordinators(dataDir: string): string[] {
  try {
    const list: unknown = JSON.parse(readIfExists(coordinatorsFile(dataDir)) ?? '[]');
    return Array.isArray(list) ? list.filter((entry) => typeof entry === 'string') : [];
  } catch {
    return [];
  }
}

export function rememberCoordinators(dataDir: string, addresses: readonly string[]): void {
  writeFileAtomic(coordinatorsFile(dataDir), `${JSON.stringify(addresses)}\n`);
}
