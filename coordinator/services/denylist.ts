import type { Clock } from '../../common/clock.js';
import { MeshError } from '../../common/errors.js';
import type { Identity } from '../../common/identity/identity.js';
import type { Service } from '../../common/lifecycle.js';
import type { Logger } from '../../common/log.js';
import { Loop } from '../../common/loop.js';
import type { CertificateStore, RevokedCertificate } from '../ports.js';

/** Revocations made through another coordinator are seen within this time. */
const REFRESH_MS = 1000;

export interface DenylistOptions {
  certificates: Pick<CertificateStore, 'revoked'>;
  clock: Clock;
  log: Logger;
  /** Closes what is open under these serials, at once. */
  cut: (isRevoked: (identity: Identity) => boolean) => void;
  /** Shuts agents out whose last certificate this was. What fails is tried again at the next look. */
  fence: (agents: readonly string[]) => Promise<void>;
}

/**
 * Revoked serials in memory, asked on every RPC. It holds those that have not expired: expired ones are refused for
 * that. What is newly revoked, here or elsewhere, is cut first and fenced then; while the database is away nothing new
 * is learned, and nothing known is forgotten.
 */
export class Denylist implements Service {
  readonly name = 'denylist';
  readonly #options: DenylistOptions;
  /** When the certificate ends, by serial. */
  readonly #revoked = new Map<string, number>();
  readonly #unfenced = new Set<string>();
  readonly #refresh: Loop;

  constructor(options: DenylistOptions) {
    this.#options = options;
    const { clock, log } = options;
    this.#refresh = new Loop({
      name: 'denylist.refresh',
      clock,
      everyMs: REFRESH_MS,
      turn: () => this.#look(),
      onError: (error) => log.warn({ event: 'denylist.stale', err: error }, 'could not read the revocations'),
    });
  }

  async start(): Promise<void> {
    await this.#look();
    this.#options.log.debug({ event: 'denylist.loaded', revoked: this.#revoked.size });
    await this.#refresh.start();
  }

  async stop(): Promise<void> {
    await this.#refresh.stop();
  }

  /** How many serials it holds. */
  get size(): number {
    return this.#revoked.size;
  }

  /** When it resolves, nothing that was open under these is open any more, and agents are shut out or soon will be. */
  async add(certificates: readonly RevokedCertificate[]): Promise<void> {
    const fresh = certificates.filter(({ serial }) => !this.#revoked.has(serial));
    for (const { serial, role, name, notAfterMs } of fresh) {
      this.#revoked.set(serial, notAfterMs);
      if (role === 'agent') this.#unfenced.add(name);
    }
    if (fresh.length > 0) this.#options.cut((identity) => this.#revoked.has(identity.serial));
    if (this.#unfenced.size === 0) return;
    const names = [...this.#unfenced];
    try {
      await this.#options.fence(names);
      for (const name of names) this.#unfenced.delete(name);
    } catch (error) {
      this.#options.log.warn({ event: 'denylist.unfenced', nodes: names, err: error }, 'will be shut out in a moment');
    }
  }

  /** Identity is fixed per connection; whether it still holds is asked on every call. @throws MeshError REVOKED, EXPIRED */
  check(identity: Identity): void {
    if (this.#revoked.has(identity.serial))
      throw new MeshError('REVOKED', `the certificate ${identity.serial} of ${identity.name} is revoked`);
    const nowMs = this.#options.clock.wallMs();
    if (nowMs > identity.notAfterMs) {
      const [ended, now] = [new Date(identity.notAfterMs).toISOString(), new Date(nowMs).toISOString()];
      throw new MeshError('EXPIRED', `the certificate expired at ${ended}; here it is ${now}`);
    }
  }

  async #look(): Promise<void> {
    await this.add(await this.#options.certificates.revoked());
    const nowMs = this.#options.clock.wallMs();
    for (const [serial, notAfterMs] of this.#revoked) if (notAfterMs < nowMs) this.#revoked.delete(serial);
  }
}
