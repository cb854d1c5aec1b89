import type { Clock } from '../common/clock.js';
import { type Logger, silentLogger } from '../common/log.js';
import { rootsOf, type Trust } from './credentials.js';
import { Discovery } from './discovery.js';
import type { Endpoint } from './endpoints.js';
import { probeCoordinator } from './probe.js';
import { race } from './race.js';

export interface ReachOptions<T> {
  meshId: string;
  credential: Trust;
  /** Given by flag or remembered from last time. */
  addresses: readonly Endpoint[];
  /** Whether to look on the network too; or the discovery that does so already. */
  discover: boolean | Discovery;
  clock: Clock;
  signal?: AbortSignal | undefined;
  /** How long to look. Without discovery it ends earlier, when every address has failed. */
  timeoutMs: number;
  /** Uses a coordinator that proved to be one of this mesh; when it fails in passing, the next one is tried. */
  try: (endpoint: Endpoint, signal: AbortSignal) => Promise<T>;
  log?: Logger;
}

/**
 * Reaches a coordinator of this mesh: all addresses and everything mDNS claims are asked at once, and the first that
 * passes TLS and the profile for this mesh is used.
 * @throws MeshError UNREACHABLE with each reason in one line, INTERRUPTED, or what the coordinator refused with
 */
export async function reach<T>(options: ReachOptions<T>): Promise<T> {
  const { meshId, credential, clock } = options;
  const { certificates: roots, digests } = rootsOf(credential);
  return withDiscovery(options.discover, digests, clock, options.log, (discovery) =>
    race({
      what: `mesh ${meshId}`,
      addresses: options.addresses,
      discovery,
      clock,
      log: options.log ?? silentLogger,
      signal: options.signal,
      timeoutMs: options.timeoutMs,
      probe: (endpoint, signal, reached) =>
        probeCoordinator(endpoint, { roots, meshId }, clock.wallMs(), signal, reached),
      commit: (endpoint, _identity, signal) => options.try(endpoint, signal),
    }),
  );
}

/** Runs `act` with mDNS browsing, if wanted: the given one, or one of its own for just as long as it takes. */
export async function withDiscovery<T>(
  wanted: boolean | Discovery,
  rootDigests: readonly string[],
  clock: Clock,
  log: Logger | undefined,
  act: (discovery: Discovery | undefined) => Promise<T>,
): Promise<T> {
  if (!wanted) return act(undefined);
  if (wanted instanceof Discovery) return act(wanted);
  const discovery = new Discovery({ clock, log: log ?? silentLogger, rootDigests });
  await discovery.start();
  try {
    return await act(discovery);
  } finally {
    await discovery.stop();
  }
}
