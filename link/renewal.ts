/**
 * Keeps a certificate alive: renews it between 50 and 80 % of its life (the share follows from its fingerprint, see
 * `renewalAtMs`), each time with a new key.
 *
 * The wall clock is used for one thing only, to compare it with the certificate's dates, and is read again at least once
 * a minute, so it may jump either way: forward, and the renewal comes early; back, and it waits. A renewal that fails is
 * tried again with backoff for as long as the service runs, also past the end of the certificate, because it may be the
 * clock that is wrong.
 */
import { X509Certificate } from 'node:crypto';
import { Metadata } from '@grpc/grpc-js';
import type { Clock, Timer } from '../common/clock.js';
import { MeshError } from '../common/errors.js';
import { fromServiceError } from '../common/grpc-errors.js';
import { fieldsOf, fingerprintOf } from '../common/identity/check.js';
import { makeCsr } from '../common/identity/csr.js';
import { makeKeyPair } from '../common/identity/keys.js';
import { BACKDATE_MS, renewalAtMs } from '../common/identity/profile.js';
import type { Service } from '../common/lifecycle.js';
import type { Logger } from '../common/log.js';
import { type Backoff, backoffMs } from '../common/retry.js';
import type { CaServiceClient } from '../proto/gen/mesh/v1/ca.js';
import type { Credential } from './credentials.js';

export interface Issued {
  /** PEM: leaf first, then the intermediate. */
  certificateChain: string;
  root: string;
}

export interface RenewalOptions {
  clock: Clock;
  log: Logger;
  credential: Credential;
  /** Turns a request (PKCS#10, DER) into a certificate: over the wire, or at an authority in this process. */
  issue: (csr: Uint8Array, signal: AbortSignal) => Promise<Issued>;
  /** Stores and uses it. When it throws the renewal counts as failed and is tried again. */
  onRenewed: (credential: Credential) => Promise<void> | void;
  /** In [0, 1), for the backoff and the spread. */
  random?: () => number;
  /**
   * What is due when this starts is renewed within so long, and within a tenth of what is left of it: machines that all
   * come back from a power cut do not all ask at once. At once when absent.
   */
  spreadMs?: number;
}

const CHECK_MS_MAX = 60_000;
/** A short certificate is tried more often: the cap is a tenth of its life, at most 5 minutes. */
const BACKOFF: Backoff = { baseMs: 1000, capMs: 5 * 60_000 };

export class Renewal implements Service {
  readonly name = 'renewal';
  readonly #options: RenewalOptions;
  #dates: Dates;
  #timer: Timer | undefined;
  #running: Promise<void> | undefined;
  #stopped = new AbortController();
  #failures = 0;
  /** Monotonic; no renewal is tried before. */
  #restUntilMs = Number.NEGATIVE_INFINITY;
  /** Monotonic; after a failure not even one that is asked for. */
  #retryAtMs = Number.NEGATIVE_INFINITY;
  /** The step of a rotation that the present certificate is known to satisfy, and the one that was asked for. */
  #generation = 0;
  #asked = 0;

  constructor(options: RenewalOptions) {
    this.#options = options;
    this.#dates = datesOf(options.credential);
  }

  async start(): Promise<void> {
    this.#stopped = new AbortController();
    const { clock, random = Math.random, spreadMs = 0 } = this.#options;
    const nowMs = clock.wallMs();
    const isDue = renewalAtMs(this.#dates) <= nowMs;
    const withinMs = Math.min(spreadMs, Math.max(0, this.#dates.notAfterMs - nowMs) / 10);
    this.#schedule(isDue ? random() * withinMs : 0);
  }

  async stop(): Promise<void> {
    this.#stopped.abort();
    this.#timer?.cancel();
    await this.#running;
  }

  /** Renews now, whatever the dates say. */
  renewNow(): void {
    if (this.#stopped.signal.aborted || this.#running) return;
    this.#timer?.cancel();
    this.#running = this.#renew();
  }

  /**
   * The mesh asks for a renewal: its root is being replaced, and `generation` counts the steps of that. Once for each
   * step is enough, however often it is asked for.
   */
  wanted(generation: number): void {
    if (generation <= this.#generation || this.#running) return;
    if (this.#options.clock.monotonicMs() < this.#retryAtMs) return;
    this.#asked = generation;
    this.renewNow();
  }

  /** The certificate came from somewhere else: what is due follows its dates. */
  adopt(credential: Credential): void {
    this.#dates = datesOf(credential);
  }

  #schedule(delayMs: number): void {
    if (this.#stopped.signal.aborted) return;
    this.#timer = this.#options.clock.after(Math.min(delayMs, CHECK_MS_MAX), () => this.#check(), { background: true });
  }

  #check(): void {
    const { clock } = this.#options;
    const dueMs = renewalAtMs(this.#dates) - clock.wallMs();
    const leftMs = Math.max(dueMs, this.#restUntilMs - clock.monotonicMs());
    if (leftMs > 0) this.#schedule(leftMs);
    else this.renewNow();
  }

  async #renew(): Promise<void> {
    const { log } = this.#options;
    // Also after a success: by a clock that runs ahead the new certificate may be due at once.
    let delayMs = Math.min(CHECK_MS_MAX, this.#lifeMs() / 10);
    const asked = this.#asked;
    try {
      const renewed = await this.#issue();
      await this.#options.onRenewed(renewed);
      this.#dates = datesOf(renewed);
      this.#failures = 0;
      this.#generation = asked;
      log.info({ event: 'certificate.renewed', notAfter: new Date(this.#dates.notAfterMs).toISOString() });
    } catch (error) {
      delayMs = this.#backoffMs(++this.#failures);
      this.#retryAtMs = this.#options.clock.monotonicMs() + delayMs;
      if (!this.#stopped.signal.aborted)
        log.warn(
          { event: 'certificate.renewal_failed', err: error, retryInMs: delayMs },
          'renewal failed, trying again',
        );
    }
    this.#running = undefined;
    this.#restUntilMs = this.#options.clock.monotonicMs() + delayMs;
    this.#schedule(delayMs);
  }

  async #issue(): Promise<Credential> {
    const { privateKey, privateKeyPem } = makeKeyPair();
    const { certificateChain, root } = await this.#options.issue(makeCsr(privateKey, 'renewal'), this.#stopped.signal);
    if (!new X509Certificate(certificateChain).checkPrivateKey(privateKey))
      throw new MeshError('BAD_CERTIFICATE', 'the renewed certificate is for another key');
    return { certificateChain, privateKey: privateKeyPem, root };
  }

  /** From when it was made: that it is valid since before is for clocks that differ. */
  #lifeMs(): number {
    return this.#dates.notAfterMs - this.#dates.notBeforeMs - BACKDATE_MS;
  }

  #backoffMs(failures: number): number {
    const capMs = Math.max(BACKOFF.baseMs, Math.min(BACKOFF.capMs, this.#lifeMs() / 10));
    // Never at once: a coordinator that refuses would be asked without end.
    return BACKOFF.baseMs + backoffMs({ ...BACKOFF, capMs }, failures, (this.#options.random ?? Math.random)());
  }
}

const CALL_MS_MAX = 30_000;

/** The issuance call of agents and people: `CaService.Renew` over a client that holds the present certificate. */
export const renewOver =
  (client: () => CaServiceClient, clock: Clock) =>
  (csr: Uint8Array, signal: AbortSignal): Promise<Issued> =>
    new Promise((resolve, reject) => {
      const options = { deadline: clock.wallMs() + CALL_MS_MAX };
      const call = client().renew({ csr: Buffer.from(csr) }, new Metadata(), options, (error, response) =>
        error ? reject(fromServiceError(error)) : resolve(response),
      );
      signal.addEventListener('abort', () => call.cancel(), { once: true });
    });

interface Dates {
  notBeforeMs: number;
  notAfterMs: number;
  fingerprint: string;
}

function datesOf(credential: Credential): Dates {
  const certificate = new X509Certificate(credential.certificateChain);
  const { notBeforeMs, notAfterMs } = fieldsOf(certificate);
  return { notBeforeMs, notAfterMs, fingerprint: fingerprintOf(certificate) };
}
