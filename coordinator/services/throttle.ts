/**
 * What one caller may ask of this coordinator, over all its connections: requests a second and calls at a time, and of
 * an agent messages, output and sessions. Callers are known by role and name, those without a certificate of this mesh
 * by their address. Requests beyond a rate are refused with the time to come back; streams are read no faster.
 */
import type { Clock } from '../../common/clock.js';
import { MeshError } from '../../common/errors.js';
import type { Identity } from '../../common/identity/identity.js';
import { type Rate, type TokenBucket, TokenBuckets } from '../../common/token-bucket.js';
import { formatDuration } from '../../common/units.js';
import { BURST_SECONDS, flagOf, type Limits, shownLimit } from './limits.js';

/** Calls end at their own time; who has too many open is told to come back so much later. */
const CALLS_RETRY_MS = 1000;

/** An OVERLOADED that says for how long. */
export class Throttled extends MeshError {
  constructor(
    message: string,
    limit: keyof Limits,
    readonly retryMs: number,
  ) {
    super('OVERLOADED', message, {
      hint: `try again in ${formatDuration(retryMs)}; the limit is ${flagOf(limit)} of the coordinator`,
    });
  }
}

export class Throttle {
  readonly #limits: Limits;
  readonly #clock: Clock;
  readonly #people: TokenBuckets;
  readonly #agents: TokenBuckets;
  readonly #strangers: TokenBuckets;
  readonly #sessions: TokenBuckets;
  readonly #messages: TokenBuckets;
  readonly #output: TokenBuckets;
  readonly #open = new Map<string, number>();

  /** @param onRefused hears of every refusal, however many: it must be cheap, and say one thing once */
  constructor(
    limits: Limits,
    clock: Clock,
    private readonly onRefused: (who: string, why: string) => void,
  ) {
    this.#limits = limits;
    this.#clock = clock;
    this.#people = new TokenBuckets(perSecond(limits.maxRequestRate));
    this.#agents = new TokenBuckets(perSecond(limits.maxAgentRequestRate));
    this.#strangers = new TokenBuckets(perSecond(limits.maxStrangerRate));
    this.#sessions = new TokenBuckets({ perSecond: limits.maxSessionStarts / 60, burst: limits.maxSessionStarts });
    this.#messages = new TokenBuckets(perSecond(limits.maxSessionRate));
    this.#output = new TokenBuckets(perSecond(limits.maxLogRate));
  }

  /** One request of somebody, or of whoever is at this address. @throws Throttled */
  request(identity: Identity | undefined, address: string): void {
    if (!identity) this.#take(this.#strangers, 'maxStrangerRate', address, 'asks without a certificate of this mesh');
    else if (identity.role === 'agent') this.#take(this.#agents, 'maxAgentRequestRate', keyOf(identity), 'calls');
    else this.#take(this.#people, 'maxRequestRate', keyOf(identity), 'asks');
  }

  /** An agent begins a session. @throws Throttled */
  session(identity: Identity): void {
    this.#take(this.#sessions, 'maxSessionStarts', keyOf(identity), 'begins sessions');
  }

  #take(buckets: TokenBuckets, limit: keyof Limits, key: string, does: string): void {
    const waitMs = buckets.take(key, this.#clock.monotonicMs());
    if (waitMs === 0) return;
    this.#refuse(key, `${does} more often than ${shownLimit(this.#limits, limit)}`, limit, waitMs);
  }

  #refuse(who: string, what: string, limit: keyof Limits, retryMs: number): never {
    this.onRefused(who, `${what} (${flagOf(limit)})`);
    throw new Throttled(`${who} ${what}`, limit, retryMs);
  }

  /** A call that is open until what is returned is called, once. @throws Throttled */
  call(identity: Identity | undefined): () => void {
    if (!identity) return () => undefined;
    const key = keyOf(identity);
    const open = this.#open.get(key) ?? 0;
    if (open >= this.#limits.maxOpenCalls)
      this.#refuse(key, `has ${open} calls under way, the most there may be`, 'maxOpenCalls', CALLS_RETRY_MS);
    this.#open.set(key, open + 1);
    return () => {
      const left = (this.#open.get(key) ?? 1) - 1;
      if (left > 0) this.#open.set(key, left);
      else this.#open.delete(key);
    };
  }

  /** What an agent says in its sessions, in messages. */
  messagesOf(identity: Identity): TokenBucket {
    return this.#messages.of(keyOf(identity), this.#clock.monotonicMs());
  }

  /** Output of tasks that an agent streams, in bytes. */
  outputOf(identity: Identity): TokenBucket {
    return this.#output.of(keyOf(identity), this.#clock.monotonicMs());
  }
}

const perSecond = (rate: number): Rate => ({ perSecond: rate, burst: rate * BURST_SECONDS });

const keyOf = ({ role, name }: Identity): string => `${role}/${name}`;
