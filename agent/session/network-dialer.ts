/**
 * Coordinators over mutual TLS, at known addresses and wherever mDNS finds them. With a certificate that has expired, by
 * the coordinator's clock (this one may be wrong), a new one is bought.
 */
import type { Clock } from '../../common/clock.js';
import { toMeshError } from '../../common/errors.js';
import type { Logger } from '../../common/log.js';
import { type Credential, channelCredentials, channelOptions } from '../../link/credentials.js';
import { type Endpoint, grpcTarget } from '../../link/endpoints.js';
import { reach } from '../../link/reach.js';
import type { AgentServiceClient } from '../../proto/gen/mesh/v1/agent.js';
import { CaServiceClient } from '../../proto/gen/mesh/v1/ca.js';
import type { Dialer, Line } from './dialer.js';
import { AgentClient } from './output-message.js';

const REACH_MS = 30_000;

/** Heartbeats tell sooner than pings would whether anybody is there; a thousand agents' pings are a thousand answers. */
const SESSION_OPTIONS = { ...channelOptions, 'grpc.keepalive_time_ms': 2 ** 31 - 1 };
/** These are open for long and used for moments; a call that is under way is looked after. */
const OTHER_OPTIONS = { ...channelOptions, 'grpc.keepalive_permit_without_calls': 0 };

export interface NetworkDialerOptions {
  meshId: string;
  /** The one to prove who we are with, at every dial. */
  credential: () => Credential;
  /** Replaces a credential whose certificate has expired. @throws MeshError when the mesh does not allow it */
  recover: (known: readonly Endpoint[], signal: AbortSignal) => Promise<void>;
  /** Whether to look on the network too. */
  discover: boolean;
  clock: Clock;
  log: Logger;
}

export class NetworkDialer implements Dialer {
  readonly #options: NetworkDialerOptions;

  constructor(options: NetworkDialerOptions) {
    this.#options = options;
  }

  async dial<T>(known: readonly Endpoint[], open: (line: Line) => Promise<T>, signal: AbortSignal): Promise<T> {
    try {
      return await this.#reach(known, open, signal);
    } catch (error) {
      if (toMeshError(error).code !== 'EXPIRED') throw error;
      await this.#options.recover(known, signal);
      return this.#reach(known, open, signal);
    }
  }

  #reach<T>(known: readonly Endpoint[], open: (line: Line) => Promise<T>, signal: AbortSignal): Promise<T> {
    const { meshId, credential, discover, clock, log } = this.#options;
    return reach({
      ...{ meshId, credential: credential(), addresses: known, discover, clock, log, signal, timeoutMs: REACH_MS },
      try: async (endpoint) => {
        const line = new NetworkLine(endpoint, meshId, credential);
        try {
          return await open(line);
        } catch (error) {
          line.close();
          throw error;
        }
      },
    });
  }
}

class NetworkLine implements Line {
  readonly agents: AgentServiceClient;
  #bulk: AgentServiceClient | undefined;
  #authority: CaServiceClient | undefined;

  constructor(
    readonly endpoint: Endpoint,
    private readonly meshId: string,
    private readonly credential: () => Credential,
  ) {
    this.agents = this.#client(AgentClient, SESSION_OPTIONS);
  }

  bulk(): AgentServiceClient {
    this.#bulk ??= this.#client(AgentClient, OTHER_OPTIONS);
    return this.#bulk;
  }

  authority(): CaServiceClient {
    this.#authority ??= this.#client(CaServiceClient, OTHER_OPTIONS);
    return this.#authority;
  }

  close(): void {
    for (const client of [this.agents, this.#bulk, this.#authority]) client?.close();
  }

  #client<C>(
    make: new (target: string, ...rest: [ReturnType<typeof channelCredentials>, object]) => C,
    options: typeof channelOptions,
  ): C {
    return new make(grpcTarget(this.endpoint), channelCredentials(this.credential(), this.meshId), options);
  }
}
