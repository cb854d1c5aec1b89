import type { Clock } from '../../common/clock.js';
import { MeshError } from '../../common/errors.js';
import type { Identity } from '../../common/identity/identity.js';
import type { Service } from '../../common/lifecycle.js';
import type { Logger } from '../../common/log.js';
import { Loop } from '../../common/loop.js';
import type { CertificateStore } from '../ports.js';

/** Revocations made through another coordinator or a CA directory are seen within this time. */
const REFRESH_MS = 1000;

/** Revoked serials in memory, asked on every RPC; live sockets of a newly revoked identity are closed at once. */
export class Denylist implements Service {
  readonly name = 'denylist';
  #serials = new Set<string>();
  readonly #refresh: Loop;

  constructor(
    private readonly certificates: CertificateStore,
    private readonly clock: Clock,
    private readonly log: Logger,
    private readonly onRevoked: (isRevoked: (identity: Identity) => boolean) => void,
  ) {
    this.#refresh = new Loop({
      name: 'denylist.refresh',
      clock,
      everyMs: REFRESH_MS,
      turn: async () => this.add(await certificates.revokedSerials()),
      onError: (error) => log.warn({ event: 'denylist.stale', err: error }, 'could not read the revocations'),
    });
  }

  async start(): Promise<void> {
    this.#serials = new Set(await this.certificates.revokedSerials());
    this.log.debug({ event: 'denylist.loaded', revoked: this.#serials.size });
    await this.#refresh.start();
  }

  async stop(): Promise<void> {
    await this.#refresh.stop();
  }

  add(serials: readonly string[]): void {
    const before = this.#serials.size;
    for (const serial of serials) this.#serials.add(serial);
    if (this.#serials.size > before) this.onRevoked((identity) => this.#serials.has(identity.serial));
  }

  /** Identity is fixed per connection; whether it still holds is asked on every call. @throws MeshError REVOKED */
  check(identity: Identity): void {
    if (this.#serials.has(identity.serial))
      throw new MeshError('REVOKED', `the certificate ${identity.serial} of ${identity.name} is revoked`);
    const nowMs = this.clock.wallMs();
    if (nowMs > identity.notAfterMs) {
      const [ended, now] = [new Date(identity.notAfterMs).toISOString(), new Date(nowMs).toISOString()];
      throw new MeshError('BAD_CERTIFICATE', `the certificate expired at ${ended}; here it is ${now}`);
    }
  }
}
