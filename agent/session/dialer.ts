/**
 * How an agent gets at a coordinator: the network in the product, a simulated one in the simulator. Everything above it
 * (connection, session, log streamer) only sees these two interfaces.
 */
import type { Endpoint } from '../../link/endpoints.js';
import type { AgentServiceClient } from '../../proto/gen/mesh/v1/agent.js';
import type { CaServiceClient } from '../../proto/gen/mesh/v1/ca.js';

/** What an agent asks of a coordinator. */
export type AgentCalls = Pick<AgentServiceClient, 'session' | 'streamLogs' | 'fetchBlob'>;

/** A coordinator that proved to be one of this mesh. */
export interface Line {
  readonly endpoint: Endpoint;
  /** For the session and nothing else, so that a heartbeat never queues behind bytes. */
  readonly agents: AgentCalls;
  /** For logs and files: a connection of its own, made when it is first asked for. */
  bulk(): AgentCalls;
  /** For renewals: made when it is first asked for. */
  authority(): CaServiceClient;
  /** Ends every connection of the line. */
  close(): void;
}

export interface Dialer {
  /**
   * Offers coordinators to `open`, one at a time, until it takes one: those of `known` and whatever else the dialer
   * finds. The line that `open` resolved with stays open; lines it refused are closed.
   * @throws MeshError UNREACHABLE when nobody answered, INTERRUPTED, or what a coordinator refused for good with
   */
  dial<T>(known: readonly Endpoint[], open: (line: Line) => Promise<T>, signal: AbortSignal): Promise<T>;
}
