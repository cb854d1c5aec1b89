/**
 * Entering a mesh with a token. The token pins the root certificate, so the coordinator is verified before anything is
 * said to it: its chain is read from a connection that sends nothing, its root compared with the token's digest, the
 * chain and the leaf checked. Only then is a channel opened that trusts this root alone, and the token sent over it.
 */
import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import { Metadata } from '@grpc/grpc-js';
import type { Clock } from '../common/clock.js';
import { MeshError } from '../common/errors.js';
import { fromServiceError } from '../common/grpc-errors.js';
import { chainFromPem, checkPresented } from '../common/identity/chain.js';
import { fingerprintOf, readMeshId } from '../common/identity/check.js';
import { readRoots } from '../common/identity/roots.js';
import { makeCsr } from '../common/identity/csr.js';
import type { Role } from '../common/identity/identity.js';
import { makeKeyPair } from '../common/identity/keys.js';
import { decodeToken } from '../common/identity/token.js';
import type { Logger } from '../common/log.js';
import { EnrollServiceClient, type JoinRequest, type JoinResponse } from '../proto/gen/mesh/v1/enroll.js';
import { type Credential, channelCredentials, channelOptions } from './credentials.js';
import type { Discovery } from './discovery.js';
import { type Endpoint, formatEndpoint, grpcTarget } from './endpoints.js';
import { Impostor, presentedChain, verifyCoordinator } from './probe.js';
import { race } from './race.js';
import { withDiscovery } from './reach.js';

export interface JoinOptions {
  token: string;
  /** A wish; the token may bind another, and a taken one gets a suffix. */
  name: string;
  addresses: readonly Endpoint[];
  /** Whether to look on the network too; or the discovery that does so already. */
  discover: boolean | Discovery;
  clock: Clock;
  signal?: AbortSignal | undefined;
  log: Logger;
  /** How long to look for a coordinator; 30 s when absent. */
  timeoutMs?: number;
  /** PEM. Joining again with the same key and token brings the same certificate; a new key when absent. */
  privateKey?: string;
  /** Of a coordinator: the key it will issue with. */
  issuerKey?: KeyObject;
  /** What it can be: a token for another role is refused, and not spent. */
  roles: readonly Role[];
  /** Asked before and waits for approval: not worth a line of the log each time. */
  again?: boolean;
  /** When this machine belongs to a mesh already: the only one it joins, whatever the token says. */
  meshId?: string | undefined;
}

export interface Joined {
  credential: Credential;
  meshId: string;
  role: Role;
  name: string;
  /** Other addresses the mesh can be reached at, as `host:port`. */
  coordinators: string[];
  /** The one that answered. */
  endpoint: Endpoint;
  /** For a coordinator: the intermediate for `issuerKey`, PEM; empty otherwise. */
  issuer: string;
}

const JOIN_MS_MAX = 30_000;

/** A mesh that proved to be the token's. */
interface Proven {
  root: X509Certificate;
  meshId: string;
}

/**
 * @throws MeshError BAD_TOKEN, TOKEN_REFUSED and whatever else the coordinator refuses with; UNREACHABLE when none of the
 * token's mesh answered
 */
export async function join(options: JoinOptions): Promise<Joined> {
  const { clock, log } = options;
  const { rootDigest } = decodeToken(options.token);
  const privateKeyPem = options.privateKey ?? makeKeyPair().privateKeyPem;
  const csr = makeCsr(createPrivateKey(privateKeyPem), options.name);
  const { issuerKey } = options;
  const issuerCsr = issuerKey === undefined ? Buffer.alloc(0) : makeCsr(issuerKey, options.name);
  const request: JoinRequest = {
    ...{ token: options.token.trim(), csr, name: options.name, issuerCsr },
    roles: [...options.roles],
  };
  let foreign: MeshError | undefined;
  const probe = async (endpoint: Endpoint, signal: AbortSignal, reached: () => void): Promise<Proven> => {
    const proven = await prove(endpoint, rootDigest, clock.wallMs(), signal, reached);
    if (options.meshId === undefined || options.meshId === proven.meshId) return proven;
    foreign = otherMesh(options.meshId, proven.meshId);
    throw foreign;
  };
  return withDiscovery(options.discover, [rootDigest], clock, log, (discovery) =>
    race({
      what: 'the mesh this token is for',
      addresses: options.addresses,
      discovery,
      clock,
      log,
      signal: options.signal,
      timeoutMs: options.timeoutMs ?? JOIN_MS_MAX,
      probe,
      commit: async (endpoint, proven, signal) => {
        log[options.again ? 'debug' : 'info']({
          event: 'join.asking',
          coordinator: formatEndpoint(endpoint),
          mesh: proven.meshId,
        });
        const response = await callJoin(endpoint, proven, request, clock, signal);
        return accept(response, proven, privateKeyPem, endpoint, clock.wallMs());
      },
    }),
  ).catch((error: unknown) => {
    throw foreign ?? error;
  });
}

const otherMesh = (ours: string, theirs: string): MeshError =>
  new MeshError('CONFLICT', `this directory belongs to the mesh ${ours}, the token to ${theirs}`, {
    hint: 'name another directory, or remove this one',
  });

/** @throws Impostor when the endpoint is not of the token's mesh, MeshError BAD_CERTIFICATE when it does not fit otherwise */
async function prove(
  endpoint: Endpoint,
  rootDigest: string,
  nowMs: number,
  signal: AbortSignal,
  reached: () => void,
): Promise<Proven> {
  const chain = await presentedChain(endpoint, signal, reached);
  const root = chain.at(-1) as X509Certificate;
  if (fingerprintOf(root) !== rootDigest) throw new Impostor('belongs to another mesh than the token');
  const meshId = readMeshId(root);
  verifyCoordinator(chain, [root], meshId, nowMs);
  return { root, meshId };
}

function callJoin(
  endpoint: Endpoint,
  { root, meshId }: Proven,
  request: JoinRequest,
  clock: Clock,
  signal: AbortSignal,
): Promise<JoinResponse> {
  const client = new EnrollServiceClient(
    grpcTarget(endpoint),
    channelCredentials({ root: root.toString() }, meshId, clock),
    channelOptions,
  );
  return new Promise<JoinResponse>((resolve, reject) => {
    const call = client.join(request, new Metadata(), { deadline: clock.wallMs() + JOIN_MS_MAX }, (error, response) =>
      error ? reject(fromServiceError(error)) : resolve(response),
    );
    signal.addEventListener('abort', () => call.cancel(), { once: true });
  }).finally(() => client.close());
}

/**
 * What came back is held against the key, the roots and the profile, like everything else from outside. Which roots there
 * are is said by a coordinator that the pinned one vouches for: while it is being replaced there are two.
 */
function accept(response: JoinResponse, proven: Proven, privateKey: string, endpoint: Endpoint, nowMs: number): Joined {
  const chain = chainFromPem(response.certificateChain);
  const roots = readRoots(response.root);
  if (roots.meshId !== proven.meshId)
    throw new MeshError(
      'BAD_CERTIFICATE',
      `the coordinator of ${proven.meshId} answered with roots of ${roots.meshId}`,
    );
  const { role, name } = checkPresented(chain, roots.certificates, { ...roots, purpose: 'client', nowMs });
  if (!chain[0]?.checkPrivateKey(createPrivateKey(privateKey)))
    throw new MeshError('BAD_CERTIFICATE', 'the coordinator answered with a certificate for another key');
  const credential = { certificateChain: response.certificateChain, privateKey, root: response.root };
  return {
    ...{ credential, meshId: proven.meshId, role, name, endpoint },
    ...{ coordinators: response.coordinators, issuer: response.issuer },
  };
}
