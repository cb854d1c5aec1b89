/**
 * How an agent that was off past the end of its certificate comes back without anybody's help. It presents the expired
 * certificate: TLS proved that its key is there, and the door that it was a good one at its end. What remains is asked
 * here: whether the policy of the mesh allows it, and whether anything has happened to the name since. A certificate buys
 * one other and no more: it must be the last that was issued to its name, so a stolen backup is worth nothing once the
 * machine itself is back. Asking again with the same key brings the same certificate, for answers get lost.
 */
import type { Clock } from '../../common/clock.js';
import { MeshError, toMeshError } from '../../common/errors.js';
import type { Identity } from '../../common/identity/identity.js';
import { askedLifetimeMs } from '../../common/identity/profile.js';
import type { Logger } from '../../common/log.js';
import type { CertificateRow, CertificateStore, NodeStore } from '../ports.js';
import { actorOf, type Audit } from './audit.js';
import type { Issuance } from './issuance.js';
import { formatDays } from './lifetimes.js';

export interface RecoveryOptions {
  certificates: CertificateStore;
  nodes: NodeStore;
  issuance: Issuance;
  audit: Audit;
  clock: Clock;
  log: Logger;
  /** How long after its end a certificate may still buy another; 0: never. */
  withinMs: number;
}

const iso = (ms: number): string => new Date(ms).toISOString();

export class Recovery {
  readonly #options: RecoveryOptions;

  constructor(options: RecoveryOptions) {
    this.#options = options;
  }

  /**
   * @param expired who the peer was, by its expired certificate, which the door has judged
   * @throws MeshError EXPIRED, REVOKED or CONFLICT with what to do instead, BAD_CERTIFICATE for the request
   */
  async recover(expired: Identity, csr: Uint8Array, address: string): Promise<CertificateRow> {
    const { audit, log } = this.#options;
    const actor = actorOf({ identity: expired, address });
    try {
      return await this.#recover(expired, csr, address);
    } catch (error) {
      const { code, message: why } = toMeshError(error);
      audit.tally(actor, 'recovery.refused', `${expired.role}/${expired.name}`, { code, why });
      log.warn({ event: 'recovery.refused', name: expired.name, serial: expired.serial, address, code, why });
      throw error;
    }
  }

  async #recover(expired: Identity, csr: Uint8Array, address: string): Promise<CertificateRow> {
    const { certificates, issuance, log } = this.#options;
    const { role, name, serial } = expired;
    this.#checkPolicy(expired);
    const keyDigest = issuance.publicKeyDigest(csr);
    const row = await certificates.get(serial);
    if (!row || row.fingerprint !== expired.fingerprint)
      throw refused('EXPIRED', `the certificate ${serial} of ${name} is not known here`, name);
    if (row.revokedAtMs !== undefined)
      throw refused('REVOKED', `the certificate ${serial} of ${name} was revoked at ${iso(row.revokedAtMs)}`, name);
    const latest = await certificates.latest(role, name);
    if (latest && latest.serial !== serial) {
      if (latest.publicKeyDigest === keyDigest && latest.revokedAtMs === undefined) return latest;
      throw refused('EXPIRED', `the certificate ${serial} of ${name} is not the latest one of this name`, name);
    }
    if ((await this.#options.nodes.revokedNames()).includes(name))
      throw refused('REVOKED', `the node ${name} is revoked`, name);
    const actor = actorOf({ identity: expired, address });
    const common = { csr, role, name, actor, tokenId: undefined, lifetimeMs: askedLifetimeMs(row) };
    // Of two that ask at the same time with different keys the store refuses one.
    const recovered = await issuance.sign({ ...common, action: 'certificate.recovered' });
    await issuance.requireStanding(serial, recovered);
    const expiredAt = iso(expired.notAfterMs);
    log.info({ event: 'certificate.recovered', name, serial: recovered.serial, former: serial, expiredAt, address });
    return recovered;
  }

  #checkPolicy({ role, name, notAfterMs }: Identity): void {
    const { clock, withinMs } = this.#options;
    const ended = `the certificate of ${role} ${name} expired at ${iso(notAfterMs)}`;
    if (role !== 'agent')
      throw new MeshError('EXPIRED', `${ended}, and only agents come back by themselves`, {
        hint: role === 'coordinator' ? 'start the coordinator again' : 'log in again: mesh login TOKEN',
      });
    if (withinMs === 0) throw refused('EXPIRED', `${ended}, and this mesh takes nobody back by an expired one`, name);
    if (clock.wallMs() - notAfterMs > withinMs)
      throw refused('EXPIRED', `${ended}, longer ago than --recover-within allows (${formatDays(withinMs)})`, name);
  }
}

const refused = (code: 'EXPIRED' | 'REVOKED', message: string, name: string): MeshError =>
  new MeshError(code, message, {
    hint: `make a token for it (mesh token create --name ${name} --replace) and start the agent with --join TOKEN`,
  });
