/**
 * Keeps a session: reaches a coordinator (known addresses and mDNS at once), opens a session, serves it to its end, and
 * starts over with backoff, never later than a third of the lease. A renewed certificate replaces the session by a new
 * one; attempts are reconciled by the hello and nothing re-runs.
 */
import { type Clock, pause } from '../../common/clock.js';
import { MeshError, toMeshError } from '../../common/errors.js';
import type { Service } from '../../common/lifecycle.js';
import type { Logger } from '../../common/log.js';
import { PROTOCOL, packageVersion } from '../../common/package.js';
import { backoffMs } from '../../common/retry.js';
import { type Credential, channelCredentials, channelOptions } from '../../link/credentials.js';
import { type Endpoint, formatEndpoint, grpcTarget, parseEndpoint } from '../../link/endpoints.js';
import { reach } from '../../link/reach.js';
import { AgentServiceClient, type Welcome } from '../../proto/gen/mesh/v1/agent.js';
import { CaServiceClient } from '../../proto/gen/mesh/v1/ca.js';
import type { Capabilities } from '../../proto/gen/mesh/v1/common.js';
import { LeaseClock } from '../core/lease.js';
import { LoadMeter } from './load.js';
import type { LogStreamer } from './log-streamer.js';
import { Session } from './session.js';
import type { Work } from './work.js';

const REACH_MS = 30_000;
const LEASE_MS_DEFAULT = 15_000;
const BACKOFF_BASE_MS = 200;
const ADDRESSES_MAX = 16;

/** Refusals that no retry can mend. */
const FATAL = new Set(['REVOKED', 'UNAUTHENTICATED', 'BAD_CERTIFICATE', 'PROTOCOL', 'DENIED']);

export interface ConnectionOptions {
  meshId: string;
  credential: () => Credential;
  capabilities: Capabilities;
  bootId: string;
  /** Given by flag: the only place to look. */
  coordinator: Endpoint | undefined;
  /** Whether to look on the network when no coordinator was given. */
  discover: boolean;
  /** Where a coordinator was last time; rewritten when that changes. */
  remembered: readonly string[];
  remember: (addresses: string[]) => void;
  work: Work;
  clock: Clock;
  log: Logger;
  random: () => number;
  onRegistered: (welcome: Welcome, endpoint: Endpoint) => void;
  onFatal: (error: MeshError) => void;
}

export class Connection implements Service {
  readonly name = 'connection';
  readonly #options: ConnectionOptions;
  readonly #stopping = new AbortController();
  readonly #lease = new LeaseClock(LEASE_MS_DEFAULT);
  readonly #load = new LoadMeter();
  #logs: LogStreamer | undefined;
  #session: Session | undefined;
  #bulk: AgentServiceClient | undefined;
  #authority: CaServiceClient | undefined;
  #endpoint: Endpoint | undefined;
  #running: Promise<void> | undefined;
  #epoch = 0;
  #heartbeatMs = 2000;
  #leaseMs = LEASE_MS_DEFAULT;
  #addresses: string[];

  constructor(options: ConnectionOptions) {
    this.#options = options;
    this.#addresses = [...options.remembered];
  }

  /** The streamer needs the bulk client and this needs the streamer. */
  attach(logs: LogStreamer): void {
    this.#logs = logs;
  }

  async start(): Promise<void> {
    this.#running = this.#keep();
  }

  /** Says goodbye, so that the coordinator need not wait for the lease. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#session?.close();
    await this.#running;
    this.#closeClients();
  }

  /** For bulk bytes: a connection of its own, made when it is first needed. */
  bulk(): AgentServiceClient | undefined {
    if (!this.#endpoint || !this.#session) return undefined;
    this.#bulk ??= this.#client(AgentServiceClient, this.#endpoint);
    return this.#bulk;
  }

  /** @throws MeshError UNREACHABLE while there is no session */
  authority(): CaServiceClient {
    if (!this.#endpoint || !this.#session) throw new MeshError('UNREACHABLE', 'no coordinator is connected');
    this.#authority ??= this.#client(CaServiceClient, this.#endpoint);
    return this.#authority;
  }

  /** Uses the present credential from now on. */
  renewed(): void {
    this.#session?.abandon('the certificate was renewed');
  }

  beatNow(): void {
    this.#session?.beatNow(this.#heartbeatMs);
  }

  async #keep(): Promise<void> {
    const { clock, log, random, onFatal } = this.#options;
    for (let failures = 0; !this.#stopping.signal.aborted; ) {
      try {
        const reason = await this.#once(() => (failures = 0));
        if (!this.#stopping.signal.aborted)
          log.warn({ event: 'session.ended', reason: reason.message }, 'the session ended; reconnecting');
      } catch (error) {
        const failure = toMeshError(error);
        if (this.#stopping.signal.aborted) return;
        if (FATAL.has(failure.code)) return onFatal(failure);
        log.warn({ event: 'session.failed', code: failure.code, reason: failure.message });
      }
      failures++;
      const waitMs = backoffMs({ baseMs: BACKOFF_BASE_MS, capMs: this.#leaseMs / 3 }, failures, random());
      await pause(clock, failures === 1 ? Math.min(waitMs, BACKOFF_BASE_MS) : waitMs, this.#stopping.signal);
    }
  }

  /** One session from reaching to its end; returns why it ended. */
  async #once(onOpen: () => void): Promise<MeshError> {
    const { meshId, credential, clock, log, coordinator } = this.#options;
    const known = coordinator ? [coordinator] : this.#addresses.map(parseEndpoint);
    const { session, endpoint, welcome } = await reach({
      meshId,
      credential: credential(),
      addresses: known,
      discover: this.#options.discover && coordinator === undefined,
      clock,
      log,
      signal: this.#stopping.signal,
      timeoutMs: REACH_MS,
      try: (endpoint) => this.#open(endpoint),
    });
    onOpen();
    return this.#serve(session, endpoint, welcome);
  }

  async #open(endpoint: Endpoint): Promise<{ session: Session; endpoint: Endpoint; welcome: Welcome }> {
    const { work, clock, log, bootId, capabilities } = this.#options;
    const client = this.#client(AgentServiceClient, endpoint);
    const session = new Session({
      ...{ client, work, clock, log, lease: this.#lease, load: this.#load },
      hello: {
        protocol: PROTOCOL,
        bootId,
        version: packageVersion,
        capabilities,
        ...work.report(),
        runningAgeMs: [],
        epoch: this.#epoch,
      },
      epoch: () => this.#epoch,
      onEpoch: (epoch) => {
        this.#epoch = Math.max(this.#epoch, epoch);
      },
    });
    void session.ended.then(() => client.close());
    return { session, endpoint, welcome: await session.open() };
  }

  async #serve(session: Session, endpoint: Endpoint, welcome: Welcome): Promise<MeshError> {
    const { work, log, onRegistered } = this.#options;
    this.#closeClients();
    this.#session = session;
    this.#endpoint = endpoint;
    this.#heartbeatMs = welcome.heartbeatMs;
    this.#leaseMs = welcome.leaseMs;
    this.#lease.setLease(welcome.leaseMs);
    this.#rememberAll(endpoint, welcome.coordinators);
    log.info({
      event: 'session.open',
      coordinator: formatEndpoint(endpoint),
      name: welcome.name,
      epoch: welcome.epoch,
    });
    session.beat(welcome.heartbeatMs);
    const resent = work.connected(session, welcome.superseded ?? { jobs: [], indexes: [], generations: [] });
    session.listen();
    await resent;
    this.#logs?.reconnected();
    onRegistered(welcome, endpoint);
    const reason = await session.ended;
    this.#session = undefined;
    work.disconnected();
    this.#logs?.disconnected();
    return reason;
  }

  #rememberAll(endpoint: Endpoint, others: readonly string[]): void {
    const addresses = [...new Set([formatEndpoint(endpoint), ...others, ...this.#addresses])].slice(0, ADDRESSES_MAX);
    if (addresses.join() === this.#addresses.join()) return;
    this.#addresses = addresses;
    this.#options.remember(addresses);
  }

  #client<C>(
    make: new (target: string, ...rest: [ReturnType<typeof channelCredentials>, object]) => C,
    endpoint: Endpoint,
  ): C {
    const { credential, meshId } = this.#options;
    return new make(grpcTarget(endpoint), channelCredentials(credential(), meshId), {
      ...channelOptions,
      'grpc.use_local_subchannel_pool': 1,
    });
  }

  #closeClients(): void {
    this.#bulk?.close();
    this.#authority?.close();
    this.#bulk = undefined;
    this.#authority = undefined;
  }
}
