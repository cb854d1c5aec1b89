import type { Clock } from '../../common/clock.js';
import type { CertificateStore } from '../ports.js';
import type { Crl, Signer } from './issuance.js';

/** How long one list is handed out: a fraction of its life, so that nobody gets one that is about to end. */
const FRESH_MS = 15 * 60_000;

export interface RevocationListOptions {
  certificates: Pick<CertificateStore, 'revokedRows'>;
  signer: Pick<Signer, 'signCrl' | 'crlLifetimeMs'>;
  clock: Clock;
}

/**
 * The list of what this coordinator's intermediate has signed and is revoked, for programs that verify certificates of the
 * mesh by themselves. Anyone may ask for it, so it is signed when something was revoked or it grows old, never for a
 * request.
 */
export class RevocationList {
  readonly #options: RevocationListOptions;
  #latest: Promise<Crl> | undefined;

  constructor(options: RevocationListOptions) {
    this.#options = options;
  }

  /** Something was revoked: the next who asks gets a new list. */
  outdated(): void {
    this.#latest = undefined;
  }

  /** DER. @throws MeshError DATABASE_DOWN, DATA_DIR */
  async current(): Promise<Buffer> {
    const latest = (this.#latest ??= this.#sign());
    try {
      const { der, thisUpdateMs } = await latest;
      const ageMs = this.#options.clock.wallMs() - thisUpdateMs;
      if (ageMs >= 0 && ageMs < FRESH_MS) return der;
    } catch (error) {
      if (this.#latest === latest) this.#latest = undefined;
      throw error;
    }
    if (this.#latest === latest) this.#latest = undefined;
    return this.current();
  }

  async #sign(): Promise<Crl> {
    const { certificates, signer, clock } = this.#options;
    const nowMs = clock.wallMs();
    return signer.signCrl(await certificates.revokedRows(nowMs - signer.crlLifetimeMs), nowMs);
  }
}
