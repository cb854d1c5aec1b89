/**
 * Asks many candidates at once and takes the first that proves itself. Proving (a probe) is bounded in number and time
 * and runs in parallel; what changes the world (a commit: joining, opening a session) runs one at a time, in the order
 * the probes passed. Known addresses come the most promising first, and that one has a start: the others follow when it
 * fails, or every half second twice as many, unless somebody there has accepted the connection: whoever is busy is not
 * helped by being asked at every address. A coordinator that a thousand agents come back to at once is so asked by each
 * once, and not at every address it has. A candidate that fails makes room and may come again; a refusal by a proven coordinator that
 * another would only repeat (a spent token, a revoked certificate) ends the race.
 */
import type { Clock, Timer } from '../common/clock.js';
import { type ErrorCode, MeshError } from '../common/errors.js';
import type { Logger } from '../common/log.js';
import type { Discovery } from './discovery.js';
import { type Endpoint, formatEndpoint, knownEndpoints } from './endpoints.js';
import { Impostor, reasonOf } from './probe.js';

export interface RaceOptions<P, T> {
  /** For messages: `mesh abc`. */
  what: string;
  /** The most promising first. Tried again and again for as long as there is reason to wait. */
  addresses: readonly Endpoint[];
  discovery: Discovery | undefined;
  clock: Clock;
  log: Logger;
  signal?: AbortSignal | undefined;
  timeoutMs: number;
  /** Calls `reached` when a connection is there and the proof is still to come. */
  probe: (endpoint: Endpoint, signal: AbortSignal, reached: () => void) => Promise<P>;
  commit: (endpoint: Endpoint, proof: P, signal: AbortSignal) => Promise<T>;
}

const PROBES_MAX = 8;
const PROBE_MS_MAX = 4000;
/** A commit that hangs lets the next one try; it is told by its signal. */
const COMMIT_MS_MAX = 10_000;
/** An address that failed is left alone this long. */
const AGAIN_MS = 1000;
/** What the most promising address is given before the next ones are asked too. */
const START_MS = 500;
const REASONS_SHOWN_MAX = 3;
const REASONS_MAX = 256;

/** What another coordinator might answer differently. Everything else that a commit throws is final. */
const PASSING: ReadonlySet<ErrorCode> = new Set([
  'UNREACHABLE',
  'NOT_READY',
  'NOT_LEADER',
  'TIMED_OUT',
  'OVERLOADED',
  'LEADERSHIP_LOST',
  'INTERRUPTED',
  'INTERNAL',
]);

/** @throws MeshError UNREACHABLE with every reason, INTERRUPTED, or what a proven coordinator refused with */
export function race<P, T>(options: RaceOptions<P, T>): Promise<T> {
  return new Race(options).run();
}

class Race<P, T> {
  readonly #options: RaceOptions<P, T>;
  readonly #ended = new AbortController();
  readonly #waiting: Endpoint[] = [];
  /** Known addresses whose turn has not come. */
  readonly #later: Endpoint[];
  readonly #proven: { endpoint: Endpoint; proof: P }[] = [];
  /** Waiting, being asked, or proven. */
  readonly #active = new Set<string>();
  readonly #failedAtMs = new Map<string, number>();
  readonly #reasons = new Map<string, string>();
  readonly #timers = new Set<Timer>();
  #probing = 0;
  /** Of those, connected. */
  #reached = 0;
  /** Addresses that will be offered again: a coordinator that stands by may lead in a moment. */
  #returning = 0;
  #committing = false;
  #discovered = 0;
  /** Of a coordinator that answered and was refused: better than to ask whether it runs. */
  #hint: string | undefined;
  #resolve!: (value: T) => void;
  #reject!: (error: unknown) => void;

  constructor(options: RaceOptions<P, T>) {
    this.#options = options;
    this.#later = [...options.addresses];
  }

  async run(): Promise<T> {
    const { discovery, signal, timeoutMs } = this.#options;
    const outcome = new Promise<T>((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    const interrupt = () => this.#reject(new MeshError('INTERRUPTED', 'stopped looking for a coordinator'));
    signal?.addEventListener('abort', interrupt, { once: true });
    if (signal?.aborted) interrupt();
    this.#after(timeoutMs, () => this.#reject(this.#lost(true)));
    this.#next(1);
    const unsubscribe = discovery?.onCandidate((candidate) => {
      this.#discovered++;
      this.#offer({ host: candidate.host, port: candidate.port });
    });
    this.#pump();
    try {
      return await outcome;
    } finally {
      this.#ended.abort();
      unsubscribe?.();
      signal?.removeEventListener('abort', interrupt);
      for (const timer of this.#timers) timer.cancel();
    }
  }

  /** Asks so many more of the known addresses now, and twice as many after a while, unless one has proved itself. */
  #next(count: number): void {
    for (const endpoint of this.#later.splice(0, count)) this.#offer(endpoint);
    if (this.#later.length === 0) return;
    this.#after(START_MS, () => this.#next(this.#committing || this.#reached > 0 ? 0 : Math.max(1, count * 2)));
  }

  #offer(endpoint: Endpoint): void {
    const key = formatEndpoint(endpoint);
    if (this.#ended.signal.aborted || this.#active.has(key)) return;
    const failedAtMs = this.#failedAtMs.get(key);
    if (failedAtMs !== undefined && this.#options.clock.monotonicMs() - failedAtMs < AGAIN_MS) {
      this.#options.discovery?.forget(endpoint);
      return;
    }
    this.#active.add(key);
    this.#waiting.push(endpoint);
    this.#pump();
  }

  #pump(): void {
    while (this.#probing < PROBES_MAX && this.#waiting.length > 0) void this.#probe(this.#waiting.shift() as Endpoint);
    if (this.#proven.length > 0 && !this.#committing) void this.#commit();
    const idle = this.#active.size === 0 && this.#later.length === 0 && !this.#committing && this.#returning === 0;
    if (idle && !this.#options.discovery) this.#reject(this.#lost(false));
  }

  async #probe(endpoint: Endpoint): Promise<void> {
    this.#probing++;
    let reached = 0;
    const onReached = () => {
      this.#reached += 1 - reached;
      reached = 1;
    };
    try {
      const proof = await this.#within(PROBE_MS_MAX, (signal) => this.#options.probe(endpoint, signal, onReached));
      this.#proven.push({ endpoint, proof });
    } catch (error) {
      this.#fail(endpoint, error);
    }
    this.#probing--;
    this.#reached -= reached;
    // Whoever is reached later, by what was given up, is none of them.
    reached = 1;
    if (!this.#ended.signal.aborted) this.#pump();
  }

  async #commit(): Promise<void> {
    const { endpoint, proof } = this.#proven.shift() as { endpoint: Endpoint; proof: P };
    this.#committing = true;
    try {
      this.#resolve(await this.#within(COMMIT_MS_MAX, (signal) => this.#options.commit(endpoint, proof, signal)));
      // At once, not when the winner's caller runs: a second proven candidate must not be committed to as well.
      this.#ended.abort();
    } catch (error) {
      if (error instanceof MeshError && !PASSING.has(error.code)) this.#reject(error);
      this.#fail(endpoint, error);
    }
    this.#committing = false;
    if (!this.#ended.signal.aborted) this.#pump();
  }

  #fail(endpoint: Endpoint, error: unknown): void {
    const key = formatEndpoint(endpoint);
    this.#active.delete(key);
    if (this.#ended.signal.aborted) return;
    this.#failedAtMs.set(key, this.#options.clock.monotonicMs());
    this.#note(key, error);
    for (const endpoint of this.#later.splice(0, 1)) this.#offer(endpoint);
    this.#options.discovery?.forget(endpoint);
    if (error instanceof MeshError && error.code === 'BAD_CERTIFICATE') this.#hint = error.hint;
    const standsBy = error instanceof MeshError && error.code === 'NOT_LEADER';
    if (standsBy) this.#follow(error.coordinators);
    if (standsBy || (this.#options.discovery && this.#options.addresses.includes(endpoint))) {
      this.#returning++;
      this.#after(AGAIN_MS, () => {
        this.#returning--;
        this.#failedAtMs.delete(key);
        this.#offer(endpoint);
        this.#pump();
      });
    }
  }

  /** Somebody who claims to be a coordinator of this mesh and is none is news, once. */
  #note(where: string, error: unknown): void {
    const [former, reason] = [this.#reasons.get(where), reasonOf(error)];
    if (former === reason || (former === undefined && this.#reasons.size >= REASONS_MAX)) return;
    this.#reasons.set(where, reason);
    const isFalse = error instanceof Impostor || (error instanceof MeshError && error.code === 'BAD_CERTIFICATE');
    if (isFalse) this.#options.log.warn({ event: 'coordinator.refused', address: where, reason });
  }

  /** What a proven coordinator names are candidates like any other: each must prove itself. */
  #follow(addresses: readonly string[]): void {
    for (const endpoint of knownEndpoints(addresses)) this.#offer(endpoint);
  }

  /** Runs `act` with a signal that aborts at the deadline or when the race ends; rejects at the deadline at the latest. */
  #within<R>(limitMs: number, act: (signal: AbortSignal) => Promise<R>): Promise<R> {
    const controller = new AbortController();
    const end = () => controller.abort();
    this.#ended.signal.addEventListener('abort', end, { once: true });
    return new Promise<R>((resolve, reject) => {
      const timer = this.#after(limitMs, () => {
        controller.abort();
        reject(new MeshError('TIMED_OUT', 'no answer in time'));
      });
      act(controller.signal)
        .then(resolve, reject)
        .finally(() => {
          timer.cancel();
          this.#timers.delete(timer);
          this.#ended.signal.removeEventListener('abort', end);
        });
    });
  }

  #after(delayMs: number, act: () => void): Timer {
    const timer = this.#options.clock.after(delayMs, () => {
      this.#timers.delete(timer);
      act();
    });
    this.#timers.add(timer);
    return timer;
  }

  /** One line that says what was tried, where, and what came of it. */
  #lost(timedOut: boolean): MeshError {
    const { what, discovery, addresses, timeoutMs } = this.#options;
    const tried = [...this.#reasons].map(([where, reason]) => `${where} ${reason}`);
    const pending = [...this.#active].filter((key) => !this.#reasons.has(key)).map((key) => `${key} did not answer`);
    const all = [...tried, ...pending];
    const parts = all.slice(0, REASONS_SHOWN_MAX);
    if (all.length > REASONS_SHOWN_MAX) parts.push(`${all.length - REASONS_SHOWN_MAX} more failed`);
    if (discovery && this.#discovered === 0) parts.push(noneFound(discovery));
    if (parts.length === 0) parts.push('no address was given and mDNS is off');
    const within = timedOut ? ` within ${Math.ceil(timeoutMs / 1000)} s` : '';
    const usual =
      addresses.length > 0 ? 'is it running, and is that its address?' : 'is it running? try --coordinator HOST';
    const hint = this.#hint ?? usual;
    return new MeshError('UNREACHABLE', `no coordinator of ${what} answered${within}: ${parts.join(', ')}`, { hint });
  }
}

function noneFound(discovery: Discovery): string {
  const where = discovery.interfaceNames.join(', ');
  if (where === '') return 'mDNS has no interface to look on';
  const others = discovery.foreign > 0 ? ' (other meshes are there)' : '';
  return `none found over mDNS on ${where}${others}`;
}
