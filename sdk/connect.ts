/**
 * The connection of a person or a program to a mesh: a profile, a channel to the first known address that proves to be a
 * coordinator of that mesh, and typed calls over it. Only when no known address answers is the network searched; mDNS
 * and everything it needs are loaded then and not before, because a command should answer at once.
 */
import { X509Certificate } from 'node:crypto';
import { Client } from '@grpc/grpc-js';
import { systemClock } from '../common/clock.js';
import { MeshError } from '../common/errors.js';
import { CredentialStore } from '../link/credential-store.js';
import { type Credential, channelCredentials, channelOptions } from '../link/credentials.js';
import { type Endpoint, formatEndpoint, grpcTarget, knownEndpoints, parseEndpoint } from '../link/endpoints.js';
import { AuditServiceService } from '../proto/gen/mesh/v1/audit.js';
import { CaServiceService } from '../proto/gen/mesh/v1/ca.js';
import { DoctorServiceService } from '../proto/gen/mesh/v1/doctor.js';
import { MeshServiceService } from '../proto/gen/mesh/v1/mesh.js';
import { NamespaceServiceService } from '../proto/gen/mesh/v1/namespace.js';
import { NodeServiceService } from '../proto/gen/mesh/v1/node.js';
import { SecretServiceService } from '../proto/gen/mesh/v1/secret.js';
import { RotationServiceService } from '../proto/gen/mesh/v1/rotation.js';
import type { Api } from './api.js';
import { readyClient } from './channel.js';
import { Lead, makeFollowingApi } from './follow.js';
import { findProfileDir, type Profile, readProfile, withAddress, writeProfile } from './profile.js';
import { keepRenewed } from './renewal.js';
import { Runs } from './runs.js';

export interface ConnectOptions {
  /** The profile's folder; otherwise it is looked up, see `findProfileDir`. */
  profile?: string | undefined;
  /** `HOST[:PORT]`, tried instead of everything else. */
  coordinator?: string | undefined;
  environment?: NodeJS.ProcessEnv;
}

export interface MeshConnection {
  readonly mesh: Api<typeof MeshServiceService>;
  readonly nodes: Api<typeof NodeServiceService>;
  readonly ca: Api<typeof CaServiceService>;
  readonly rotation: Api<typeof RotationServiceService>;
  readonly namespaces: Api<typeof NamespaceServiceService>;
  readonly audit: Api<typeof AuditServiceService>;
  readonly doctor: Api<typeof DoctorServiceService>;
  readonly secrets: Api<typeof SecretServiceService>;
  readonly profile: Profile;
  /** The address that answered, `host:port`. */
  readonly address: string;
  /** Ends running calls and waits, for a moment, for a renewal under way. */
  close(): Promise<void>;
}

/** How long known addresses have before the network is searched, and how long the search lasts. */
const KNOWN_MS = 2000;
const SEARCH_MS = 5000;

/** @throws MeshError NO_PROFILE, BAD_CONFIG, BAD_CERTIFICATE, UNREACHABLE */
export async function connect(options: ConnectOptions = {}): Promise<MeshConnection> {
  const profile = readProfile(findProfileDir(options.profile, options.environment ?? process.env));
  const credential = readCredential(profile);
  const addresses =
    options.coordinator === undefined ? knownEndpoints(profile.coordinators) : [parseEndpoint(options.coordinator)];
  const open = (endpoint: Endpoint) => openClient(endpoint, credential, profile.meshId);
  const reached =
    (await readyClient(addresses, open, KNOWN_MS)) ??
    (await search(profile, credential, addresses, options.coordinator === undefined, open));
  const address = formatEndpoint(reached.endpoint);
  remember(profile, withAddress(profile.coordinators, address));
  const lead = new Lead({
    ...{ client: reached.client, address, open, addresses: profile.coordinators },
    onMoved: (leader) => remember(profile, withAddress(profile.coordinators, leader)),
    onLearned: (others) => remember(profile, [...profile.coordinators, ...others]),
  });
  return makeConnection(lead, profile, address);
}

/** Calls over a client that is there already; `connect` does everything that comes before. */
export function makeConnection(lead: Lead, profile: Profile, address: string): MeshConnection {
  const ca = makeFollowingApi(lead, CaServiceService);
  const renewal = keepRenewed(profile.directory, async (csr) => ca.renew({ csr: Buffer.from(csr) }));
  lead.onRenewalWanted = () => renewal.now();
  const mesh = makeFollowingApi(lead, MeshServiceService);
  const runs = new Runs(mesh);
  return {
    mesh: { ...mesh, runJob: (request, options) => runs.run(request, options) },
    nodes: makeFollowingApi(lead, NodeServiceService),
    ca,
    rotation: makeFollowingApi(lead, RotationServiceService),
    namespaces: makeFollowingApi(lead, NamespaceServiceService),
    audit: makeFollowingApi(lead, AuditServiceService),
    doctor: makeFollowingApi(lead, DoctorServiceService),
    secrets: makeFollowingApi(lead, SecretServiceService),
    profile,
    address,
    close: async () => {
      await renewal.stop();
      runs.close();
      lead.close();
    },
  };
}

function readCredential(profile: Profile): Credential {
  const credential = new CredentialStore(profile.directory, 'client').load();
  if (!credential)
    throw new MeshError('NO_PROFILE', `the profile ${profile.directory} has no certificate`, {
      hint: 'log in again: mesh login TOKEN',
    });
  const until = new X509Certificate(credential.certificateChain).validTo;
  if (Date.parse(until) < systemClock.wallMs())
    throw new MeshError('EXPIRED', `your certificate in ${profile.directory} expired on ${until}`, {
      hint: 'log in again with a token that names you: mesh login TOKEN',
    });
  return credential;
}

const openClient = (endpoint: Endpoint, credential: Credential, meshId: string): Client =>
  new Client(grpcTarget(endpoint), channelCredentials(credential, meshId), channelOptions);

/** Asks every address again and the network too; what failed is said here. */
async function search(
  profile: Profile,
  credential: Credential,
  addresses: Endpoint[],
  discover: boolean,
  open: (endpoint: Endpoint) => Client,
): Promise<{ client: Client; endpoint: Endpoint }> {
  const { reach } = await import('../link/reach.js');
  return reach({
    meshId: profile.meshId,
    credential,
    addresses,
    discover,
    clock: systemClock,
    timeoutMs: SEARCH_MS,
    try: async (endpoint) => {
      const reached = await readyClient([endpoint], open, SEARCH_MS);
      if (!reached) throw new MeshError('UNREACHABLE', 'it closed the connection');
      return reached;
    },
  });
}

/** Writes them down, if they changed. Best effort: somebody else's profile may be read-only to us. */
function remember(profile: Profile, coordinators: string[] | undefined): void {
  if (!coordinators) return;
  profile.coordinators = coordinators;
  try {
    writeProfile(profile.directory, profile);
  } catch {
    // The next command searches again.
  }
}
