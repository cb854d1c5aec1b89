import {
  type CallOptions,
  type ChannelCredentials,
  type ChannelOptions,
  Metadata,
  type ServiceError,
} from '@grpc/grpc-js';
import type { Clock } from '../common/clock.js';
import { fromServiceError } from '../common/grpc-errors.js';
import { type Credential, channelCredentials, channelOptions } from '../link/credentials.js';
import { grpcTarget, parseEndpoint } from '../link/endpoints.js';

const CALL_MS_MAX = 10_000;

export interface Peer {
  /** `host:port`. */
  address: string;
  credential: Credential;
  meshId: string;
  clock: Clock;
}

type Service<C> = new (address: string, credentials: ChannelCredentials, options: Partial<ChannelOptions>) => C;
type Answer<R> = (error: ServiceError | null, response: R) => void;

/** One call from this coordinator to another one, with its own certificate. @throws MeshError as the other one refuses */
export async function callPeer<C extends { close(): void }, R>(
  peer: Peer,
  Client: Service<C>,
  call: (client: C, metadata: Metadata, options: CallOptions, answer: Answer<R>) => void,
): Promise<R> {
  const { address, credential, meshId, clock } = peer;
  const client = new Client(
    grpcTarget(parseEndpoint(address)),
    channelCredentials(credential, meshId, clock),
    channelOptions,
  );
  try {
    return await new Promise<R>((resolve, reject) =>
      call(client, new Metadata(), { deadline: clock.wallMs() + CALL_MS_MAX }, (error, response) =>
        error ? reject(fromServiceError(error)) : resolve(response),
      ),
    );
  } finally {
    client.close();
  }
}
