import type { Identity, Role } from '../../common/identity/identity.js';
import { isRole } from '../../common/identity/identity.js';
import type { Clock } from '../../common/clock.js';
import { MeshError, toMeshError } from '../../common/errors.js';
import { askedLifetimeMs } from '../../common/identity/profile.js';
import { isName } from '../../common/ids.js';
import type { Logger } from '../../common/log.js';
import type { CertificateRow, CertificateStore } from '../ports.js';
import { type Actor, actorOf, type Audit, type AuditAction } from './audit.js';
import type { Denylist } from './denylist.js';

/** What the embedded CA does for the coordinator; implemented over `ca/` in the composition root. */
export interface Signer {
  /** Every root to trust, PEM: what is handed out with each certificate. */
  readonly rootPem: string;
  /** SHA-256 of the root whose chain coordinators present, hex: what new tokens pin. */
  readonly rootDigest: string;
  /** Of every root to trust. */
  readonly rootDigests: readonly string[];
  /** Signs the public key of a CSR after its signature proved possession. @throws MeshError BAD_CERTIFICATE */
  sign(request: { csr: Uint8Array; role: Role; name: string; lifetimeMs: number | undefined; nowMs: number }): Issued;
  /** SHA-256 of the CSR's public key, lower-case hex; proves possession too. */
  publicKeyDigest(csr: Uint8Array): string;
  /** Whether the root's key is here, which signs intermediates. */
  readonly hasRootKey: boolean;
  /**
   * An intermediate for another coordinator's issuing key, PEM; of the CSR only the key is taken.
   * @param rootDigest of the root that is to sign it; the one that coordinators present when absent
   * @throws MeshError BAD_CERTIFICATE when possession is not proven, CONFLICT when that root is not here
   */
  signIssuer(csr: Uint8Array, nowMs: number, rootDigest?: string): string;
  /** How long a revocation list is good for. */
  readonly crlLifetimeMs: number;
  /** A revocation list of this issuer. Of the rows those count that it has signed. */
  signCrl(revoked: readonly CertificateRow[], nowMs: number): Promise<Crl>;
}

export interface Crl {
  der: Buffer;
  thisUpdateMs: number;
}

export interface Issued {
  /** Leaf, then intermediate. */
  chainPem: string;
  serial: string;
  fingerprint: string;
  publicKeyDigest: string;
  notBeforeMs: number;
  notAfterMs: number;
  /** SHA-256 of the root it leads to, hex. */
  root: string;
}

export interface IssuanceOptions {
  signer: Signer;
  certificates: CertificateStore;
  audit: Audit;
  denylist: Denylist;
  clock: Clock;
  log: Logger;
  /** Of a certificate for which nobody asked for another. */
  lifetimeOf: (role: Role) => number;
}

const DAY_MS = 86_400_000;

/** Every certificate this mesh hands out passes here: signed, recorded, audited. */
export class Issuance {
  readonly #options: IssuanceOptions;

  constructor(options: IssuanceOptions) {
    this.#options = options;
  }

  get rootPem(): string {
    return this.#options.signer.rootPem;
  }

  get rootDigest(): string {
    return this.#options.signer.rootDigest;
  }

  get rootDigests(): readonly string[] {
    return this.#options.signer.rootDigests;
  }

  publicKeyDigest(csr: Uint8Array): string {
    return this.#options.signer.publicKeyDigest(csr);
  }

  async holders(role: Role, name: string): Promise<CertificateRow[]> {
    return this.#options.certificates.holders(role, name);
  }

  /** For an operator: any role, any free name. */
  async issue(
    actor: Actor,
    request: { csr: Uint8Array; role: string; name: string; days: number },
  ): Promise<CertificateRow> {
    if (!isRole(request.role)) throw new MeshError('USAGE', `"${request.role}" is not a role`);
    if (!isName(request.name)) throw new MeshError('BAD_NAME', `"${request.name}" is not a name`);
    const lifetimeMs = request.days > 0 ? request.days * DAY_MS : undefined;
    return this.sign({ ...request, role: request.role, lifetimeMs, actor, tokenId: undefined });
  }

  /**
   * The caller's own identity with a new key, for as long as was asked for when it was issued, or as is usual today. A
   * revocation that raced it covers the new certificate too. @throws MeshError REVOKED
   */
  async renew(caller: Identity, csr: Uint8Array, address: string): Promise<CertificateRow> {
    const { role, name } = caller;
    const actor = actorOf({ identity: caller, address });
    const before = await this.#options.certificates.get(caller.serial);
    const lifetimeMs = askedLifetimeMs(before ?? caller);
    const row = await this.sign({ csr, role, name, lifetimeMs, actor, tokenId: undefined, sameHolder: true });
    await this.requireStanding(caller.serial, row);
    return row;
  }

  /**
   * That the certificate for which `successor` was made was not revoked meanwhile; both are revoked if it was.
   * @throws MeshError REVOKED
   */
  async requireStanding(serial: string, successor: CertificateRow): Promise<void> {
    const { certificates, audit } = this.#options;
    if ((await certificates.get(serial))?.revokedAtMs === undefined) return;
    await this.revoke(audit.self, successor.serial, `${serial}, which it renews, is revoked`).catch(
      (error: unknown) => {
        if (toMeshError(error).code !== 'NOT_FOUND') throw error;
      },
    );
    throw new MeshError('REVOKED', `the certificate ${serial} of ${successor.name} is revoked`);
  }

  async sign(request: {
    csr: Uint8Array;
    role: Role;
    name: string;
    lifetimeMs: number | undefined;
    actor: Actor;
    tokenId: string | undefined;
    sameHolder?: boolean;
    action?: AuditAction;
  }): Promise<CertificateRow> {
    const { signer, certificates, audit, clock, log } = this.#options;
    const { lifetimeMs = this.#options.lifetimeOf(request.role) } = request;
    const issued = signer.sign({ ...request, lifetimeMs, nowMs: clock.wallMs() });
    const row: CertificateRow = {
      serial: issued.serial,
      role: request.role,
      name: request.name,
      fingerprint: issued.fingerprint,
      publicKeyDigest: issued.publicKeyDigest,
      notBeforeMs: issued.notBeforeMs,
      notAfterMs: issued.notAfterMs,
      revokedAtMs: undefined,
      tokenId: request.tokenId,
      pem: issued.chainPem,
      ...{ lifetimeMs: request.lifetimeMs, root: issued.root, trusts: signer.rootDigests },
    };
    await certificates.record(row, { sameHolder: request.sameHolder ?? false });
    const action = request.action ?? (request.sameHolder ? 'certificate.renewed' : 'certificate.issued');
    const notAfter = new Date(row.notAfterMs).toISOString();
    await audit.record(request.actor, action, `${row.role}/${row.name}`, { serial: row.serial, notAfter });
    log.info({ event: 'certificate.issued', role: row.role, name: row.name, serial: row.serial });
    return row;
  }

  /** Throws unless this coordinator could sign an intermediate for this key. @throws MeshError CONFLICT, BAD_CERTIFICATE */
  checkIssuer(csr: Uint8Array): void {
    const { signer } = this.#options;
    if (!signer.hasRootKey)
      throw new MeshError(
        'CONFLICT',
        'the root key ca.key is not on this coordinator, so it cannot admit or renew others',
        {
          hint: 'let the coordinator lead whose data directory holds ca/ca.key, or bring the key back: mesh-ca root import',
        },
      );
    if (csr.length === 0)
      throw new MeshError('USAGE', 'a coordinator joins with a request for its issuing key too', {
        hint: 'join with: mesh-coordinator --database-url URL --join TOKEN',
      });
    signer.publicKeyDigest(csr);
  }

  /** An intermediate for the coordinator `name`, PEM. @throws MeshError CONFLICT when the root's key is elsewhere */
  async signIssuer(actor: Actor, name: string, csr: Uint8Array, rootDigest?: string): Promise<string> {
    const { signer, audit, clock, log } = this.#options;
    this.checkIssuer(csr);
    const pem = signer.signIssuer(csr, clock.wallMs(), rootDigest);
    const detail = { publicKeyDigest: signer.publicKeyDigest(csr) };
    await audit.record(actor, 'issuer.signed', `coordinator/${name}`, detail);
    log.info({ event: 'issuer.signed', name });
    return pem;
  }

  async list(): Promise<CertificateRow[]> {
    return this.#options.certificates.list();
  }

  /**
   * Every certificate of this holder, and nobody's who has the same name in another role. The latest is one of them even
   * when it has expired, for it may buy another (recovery.ts).
   */
  async revokeHolder(actor: Actor, role: Role, name: string, why?: string): Promise<CertificateRow[]> {
    const serials = new Set((await this.holders(role, name)).map(({ serial }) => serial));
    const latest = await this.#options.certificates.latest(role, name);
    if (latest && latest.revokedAtMs === undefined) serials.add(latest.serial);
    const revoked: CertificateRow[] = [];
    for (const serial of serials) revoked.push(...(await this.revoke(actor, serial, why)));
    return revoked;
  }

  /** @throws MeshError NOT_FOUND when nothing unrevoked goes by this name or serial */
  async revoke(actor: Actor, nameOrSerial: string, why?: string): Promise<CertificateRow[]> {
    const { certificates, audit, denylist, log } = this.#options;
    const revoked = await certificates.revoke(nameOrSerial);
    // A renewal that was under way has recorded its certificate behind the first pass's back; a second one sees it.
    if (revoked.length > 0) revoked.push(...(await certificates.revoke(nameOrSerial)));
    if (revoked.length === 0)
      throw new MeshError('NOT_FOUND', `no unrevoked certificate has the name or serial "${nameOrSerial}"`, {
        hint: 'see: mesh-ca list',
      });
    await denylist.add(revoked);
    for (const row of revoked) {
      const target = `${row.role}/${row.name}`;
      await audit.record(actor, 'certificate.revoked', target, { serial: row.serial, why });
      log.warn({ event: 'certificate.revoked', role: row.role, name: row.name, serial: row.serial, actor: actor.name });
    }
    return revoked;
  }
}
