/**
 * Keeps a session: dials a coordinator, opens a session, serves it to its end, and starts over with backoff, never later
 * than a third of the lease.
 *
 * A renewed certificate replaces the session by a new one without a gap: the coordinator is dialled while the old session
 * still serves, and that one is left in the moment in which the new one says hello; attempts are reconciled by the hello
 * and nothing re-runs. What is under way on the old bulk connection comes to its end there.
 *
 * A coordinator that stands by says who leads, one that stops says where to go; both are remembered, before everything
 * that was known. One that dismisses the agent for good (a person must act) is left alone for a minute or two, unless
 * what it refuses the next hello with can be mended by nobody but a person here: then the agent ends. One whose
 * certificate has expired and buys no other waits in the same way, because the mesh may be set to take it back.
 */
import { type Clock, pause } from '../../common/clock.js';
import { MeshError, toMeshError } from '../../common/errors.js';
import type { Service } from '../../common/lifecycle.js';
import type { Logger } from '../../common/log.js';
import { PROTOCOL, packageVersion } from '../../common/package.js';
import { backoffMs } from '../../common/retry.js';
import { type Endpoint, formatEndpoint } from '../../link/endpoints.js';
import type { Welcome } from '../../proto/gen/mesh/v1/agent.js';
import type { CaServiceClient } from '../../proto/gen/mesh/v1/ca.js';
import type { Capabilities } from '../../proto/gen/mesh/v1/common.js';
import { emptyRefs } from '../core/refs.js';
import type { LeaseClock } from '../core/lease.js';
import { Addresses } from './addresses.js';
import type { AgentCalls, Dialer, Line } from './dialer.js';
import type { Fence } from './fence.js';
import type { LoadSource } from './load.js';
import type { LogStreamer } from './log-streamer.js';
import { Session } from './session.js';
import type { SteadyTime } from './steady-time.js';
import type { Work } from './work.js';

export const LEASE_MS_DEFAULT = 15_000;
const BACKOFF_BASE_MS = 200;
/** After a coordinator has dismissed the agent: this, and up to as much again. */
const DISMISSED_MS = 60_000;
/** Since which version a welcome may give attempts back under another generation. */
const READOPTS_SINCE = 2;

/** Refusals that no retry can mend. */
const FATAL = new Set(['REVOKED', 'UNAUTHENTICATED', 'BAD_CERTIFICATE', 'PROTOCOL', 'DENIED']);

export interface ConnectionOptions {
  dialer: Dialer;
  capabilities: Capabilities;
  bootId: string;
  /** Given by a person: dialled before what is remembered, whatever was learned since. */
  coordinator: Endpoint | undefined;
  /** Where coordinators were last time; rewritten when that changes. */
  remembered: readonly string[];
  remember: (addresses: string[]) => void;
  work: Work;
  lease: LeaseClock;
  time: SteadyTime;
  fence: Fence;
  load: LoadSource;
  clock: Clock;
  log: Logger;
  random: () => number;
  onRegistered: (welcome: Welcome, endpoint: Endpoint) => void;
  onRenewalWanted?: ((generation: number) => void) | undefined;
  onFatal: (error: MeshError) => void;
}

interface Opened {
  line: Line;
  session: Session;
  welcome: Welcome;
}

export class Connection implements Service {
  readonly name = 'connection';
  readonly #options: ConnectionOptions;
  readonly #stopping = new AbortController();
  readonly #addresses: Addresses;
  #logs: LogStreamer | undefined;
  #session: Session | undefined;
  #line: Line | undefined;
  /** The session that replaces the present one; rejects when nobody could be dialled. */
  #successor: Promise<Opened> | undefined;
  #running: Promise<void> | undefined;
  #epoch = 0;
  #heartbeatMs = 2000;
  #leaseMs = LEASE_MS_DEFAULT;

  constructor(options: ConnectionOptions) {
    this.#options = options;
    this.#addresses = new Addresses(options.remembered, options.remember);
  }

  /** The streamer needs the bulk calls and this needs the streamer. */
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
    await this.#successor?.then(
      ({ session }) => session.close(),
      () => undefined,
    );
  }

  /** For bulk bytes; undefined while there is no session. */
  bulk(): AgentCalls | undefined {
    return this.#line?.bulk();
  }

  /** @throws MeshError UNREACHABLE while there is no session */
  authority(): CaServiceClient {
    if (!this.#line) throw new MeshError('UNREACHABLE', 'no coordinator is connected');
    return this.#line.authority();
  }

  /** Uses the present credential from now on. */
  renewed(): void {
    if (this.#session && this.#line) void this.#replace(this.#session, this.#line.endpoint);
  }

  /** Until it is done, or the old session is over anyway. */
  async #replace(old: Session, endpoint: Endpoint): Promise<void> {
    const { clock, log, random } = this.#options;
    for (let failures = 1; this.#session === old && !this.#stopping.signal.aborted; failures++) {
      const successor = this.#dialAny([endpoint]);
      this.#successor = successor;
      const failure = await successor.then(
        () => undefined,
        (error: unknown) => toMeshError(error),
      );
      // Whoever waits for it hears what came of it; nobody does while the old session lives.
      if (!failure || this.#session !== old) return;
      this.#successor = undefined;
      log.warn({ event: 'session.not-replaced', code: failure.code, reason: failure.message });
      const waitMs = backoffMs({ baseMs: BACKOFF_BASE_MS, capMs: this.#leaseMs / 3 }, failures, random());
      await pause(clock, waitMs, this.#stopping.signal);
    }
  }

  #next(): Promise<Opened> {
    const successor = this.#successor;
    this.#successor = undefined;
    return successor ?? this.#dial();
  }

  beatNow(): void {
    this.#session?.beatNow(this.#heartbeatMs);
  }

  async #keep(): Promise<void> {
    const { clock, log, random, onFatal } = this.#options;
    for (let failures = 0; !this.#stopping.signal.aborted; ) {
      let dismissed = false;
      try {
        const opened = await this.#next();
        const openedMs = clock.monotonicMs();
        const reason = await this.#serve(opened);
        dismissed = opened.session.dismissed;
        // One that ends as soon as it has begun is no better than none.
        if (clock.monotonicMs() - openedMs > this.#heartbeatMs) failures = 0;
        if (this.#successor) continue;
        if (!this.#stopping.signal.aborted)
          log.warn({ event: 'session.ended', reason: reason.message }, 'the session ended; reconnecting');
      } catch (error) {
        const failure = toMeshError(error);
        if (this.#stopping.signal.aborted) return;
        if (FATAL.has(failure.code)) return onFatal(failure);
        dismissed = failure.code === 'EXPIRED';
        log.warn({ event: 'session.failed', code: failure.code, reason: failure.message, hint: failure.hint });
      }
      failures++;
      const waitMs = backoffMs({ baseMs: BACKOFF_BASE_MS, capMs: this.#leaseMs / 3 }, failures, random());
      await pause(clock, dismissed ? DISMISSED_MS * (1 + random()) : waitMs, this.#stopping.signal);
    }
  }

  #dial(): Promise<Opened> {
    const { coordinator } = this.#options;
    const known = coordinator ? [coordinator, ...this.#addresses.endpoints] : this.#addresses.endpoints;
    const unique = new Map(known.map((endpoint) => [formatEndpoint(endpoint), endpoint]));
    return this.#dialAny([...unique.values()]);
  }

  #dialAny(endpoints: readonly Endpoint[]): Promise<Opened> {
    return this.#options.dialer.dial(endpoints, (line) => this.#open(line), this.#stopping.signal);
  }

  async #open(line: Line): Promise<Opened> {
    const { work, bootId, capabilities, lease, time, fence, load, clock, log } = this.#options;
    // What this machine may not run any more dies before anybody is told what it runs.
    fence.check();
    this.#session?.abandon('a session with the renewed certificate replaces it');
    const session = new Session({
      ...{ client: line.agents, work, lease, time, fence, load, clock, log },
      hello: {
        ...{ protocol: PROTOCOL, bootId, version: packageVersion, capabilities, epoch: this.#epoch },
        ...work.report(),
      },
      epoch: () => this.#epoch,
      onEpoch: (epoch) => {
        this.#epoch = Math.max(this.#epoch, epoch);
      },
      onCoordinators: (addresses, source) =>
        this.#addresses.prefer(source === 'goodbye' ? addresses : [formatEndpoint(line.endpoint), ...addresses]),
      onRenewalWanted: this.#options.onRenewalWanted,
    });
    void session.ended.then(() => line.close());
    try {
      return { line, session, welcome: await session.open() };
    } catch (error) {
      this.#addresses.prefer(toMeshError(error).coordinators);
      throw error;
    }
  }

  async #serve({ line, session, welcome }: Opened): Promise<MeshError> {
    const { work, log, onRegistered } = this.#options;
    this.#session = session;
    this.#line = line;
    this.#heartbeatMs = welcome.heartbeatMs;
    this.#leaseMs = welcome.leaseMs;
    this.#addresses.prefer([formatEndpoint(line.endpoint), ...welcome.coordinators]);
    log.info({
      event: 'session.open',
      coordinator: formatEndpoint(line.endpoint),
      name: welcome.name,
      epoch: welcome.epoch,
    });
    session.beat(welcome.heartbeatMs);
    const resent = work.connected(session, {
      superseded: welcome.superseded ?? emptyRefs(),
      readopted: welcome.protocol >= READOPTS_SINCE ? welcome.readopted : undefined,
    });
    session.listen();
    await resent;
    this.#logs?.reconnected();
    onRegistered(welcome, line.endpoint);
    const reason = await session.ended;
    this.#session = undefined;
    this.#line = undefined;
    work.disconnected();
    this.#logs?.disconnected();
    return reason;
  }
}
