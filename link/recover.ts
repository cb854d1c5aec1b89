/**
 * Coming back after a machine was off past the end of its certificate: the expired certificate is presented once more,
 * to prove that its key is here, and buys a new one, if the policy of the mesh allows it and nothing has happened since
 * to the name. Everything else is refused to such a peer.
 */
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { Metadata } from '@grpc/grpc-js';
import type { Clock } from '../common/clock.js';
import { MeshError } from '../common/errors.js';
import { fromServiceError } from '../common/grpc-errors.js';
import { makeCsr } from '../common/identity/csr.js';
import { readRoots } from '../common/identity/roots.js';
import type { Logger } from '../common/log.js';
import { EnrollServiceClient, type RecoverResponse } from '../proto/gen/mesh/v1/enroll.js';
import { type Credential, channelCredentials, channelOptions } from './credentials.js';
import type { Discovery } from './discovery.js';
import { type Endpoint, formatEndpoint, grpcTarget } from './endpoints.js';
import { reach } from './reach.js';

export interface RecoverOptions {
  /** The expired one. */
  credential: Credential;
  /** PEM. Asking again with the same key brings the same certificate. */
  privateKey: string;
  addresses: readonly Endpoint[];
  discover: boolean | Discovery;
  clock: Clock;
  signal?: AbortSignal | undefined;
  log: Logger;
  timeoutMs?: number;
}

const RECOVER_MS_MAX = 30_000;

export const expiredAtMs = (credential: Credential): number =>
  Date.parse(new X509Certificate(credential.certificateChain).validTo);

/**
 * @throws MeshError DENIED, REVOKED or CONFLICT when the mesh does not give it a new certificate, UNREACHABLE, INTERRUPTED
 */
export function recover(options: RecoverOptions): Promise<Credential> {
  const { credential, privateKey, clock, log } = options;
  const { meshId } = readRoots(credential.root);
  const csr = makeCsr(createPrivateKey(privateKey), 'recovery');
  return reach({
    ...{ meshId, credential, addresses: options.addresses, discover: options.discover, clock, log },
    ...{ signal: options.signal, timeoutMs: options.timeoutMs ?? RECOVER_MS_MAX },
    try: async (endpoint, signal) => {
      log.info({ event: 'recovery.asking', coordinator: formatEndpoint(endpoint), mesh: meshId });
      const { certificateChain, root } = await callRecover(endpoint, credential, meshId, csr, clock, signal);
      if (!new X509Certificate(certificateChain).checkPrivateKey(createPrivateKey(privateKey)))
        throw new MeshError('BAD_CERTIFICATE', 'the coordinator answered with a certificate for another key');
      return { certificateChain, privateKey, root };
    },
  });
}

function callRecover(
  endpoint: Endpoint,
  credential: Credential,
  meshId: string,
  csr: Buffer,
  clock: Clock,
  signal: AbortSignal,
): Promise<RecoverResponse> {
  const client = new EnrollServiceClient(
    grpcTarget(endpoint),
    channelCredentials(credential, meshId, clock),
    channelOptions,
  );
  return new Promise<RecoverResponse>((resolve, reject) => {
    const options = { deadline: clock.wallMs() + RECOVER_MS_MAX };
    const call = client.recover({ csr }, new Metadata(), options, (error, response) =>
      error ? reject(fromServiceError(error)) : resolve(response),
    );
    signal.addEventListener('abort', () => call.cancel(), { once: true });
  }).finally(() => client.close());
}
