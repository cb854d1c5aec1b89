/** Certificates, the tokens that buy them, and the machines that wait to be let in. */
import type { Role } from '../../common/identity/identity.js';

export interface CertificateRow {
  serial: string;
  role: Role;
  name: string;
  fingerprint: string;
  publicKeyDigest: string;
  notBeforeMs: number;
  notAfterMs: number;
  revokedAtMs: number | undefined;
  tokenId: string | undefined;
  pem: string;
  /** How long it was asked to live for; absent when nobody asked, and the policy of the day decided. */
  lifetimeMs?: number | undefined;
  /** SHA-256 of the root its chain leads to, hex; unknown of old ones. */
  root?: string | undefined;
  /** Those of the roots that were handed out with it. */
  trusts?: readonly string[] | undefined;
}

export type RevokedCertificate = Pick<CertificateRow, 'serial' | 'role' | 'name' | 'notAfterMs'>;
/** The latest certificate of an identity, when it is neither revoked nor expired. */
export type CurrentCertificate = Pick<CertificateRow, 'serial' | 'role' | 'name' | 'notAfterMs' | 'root' | 'trusts'>;

export interface CertificateStore {
  /** @throws MeshError CONFLICT when an unrevoked, unexpired certificate of this role and name belongs to another key and `sameHolder` is false */
  record(row: CertificateRow, options: { sameHolder: boolean }): Promise<void>;
  list(): Promise<CertificateRow[]>;
  get(serial: string): Promise<CertificateRow | undefined>;
  /** The one of this role and name that was recorded last, whatever has become of it. */
  latest(role: Role, name: string): Promise<CertificateRow | undefined>;
  /** One for each identity that has one. */
  current(): Promise<CurrentCertificate[]>;
  /** Unrevoked and unexpired ones of this role and name. */
  holders(role: Role, name: string): Promise<CertificateRow[]>;
  /** By name or serial; returns what was revoked now. */
  revoke(nameOrSerial: string): Promise<CertificateRow[]>;
  /** Revoked and not yet expired: the denylist. */
  revoked(): Promise<RevokedCertificate[]>;
  /** Revoked, and ending after that moment: what a revocation list names. */
  revokedRows(endAfterMs: number): Promise<CertificateRow[]>;
}

export interface TokenRow {
  id: string;
  secretDigest: string;
  role: Role;
  name: string | undefined;
  replace: boolean;
  usesLeft: number;
  /** What it was spent for: the digest of a public key, and of a repeated purchase the serial it replaces too. */
  spentBy?: readonly string[];
  expiresAtMs: number;
  createdBy: string;
}

export interface TokenStore {
  create(row: TokenRow): Promise<void>;
  list(): Promise<TokenRow[]>;
  revoke(id: string): Promise<boolean>;
  /** The token, whatever its state; undefined when unknown. */
  get(id: string): Promise<TokenRow | undefined>;
  /**
   * Takes one use for this purchase if it is unexpired and has one left; exactly one of many racing callers gets the
   * last. For a purchase that has one it is true again and takes none.
   */
  spend(id: string, purchase: string, nowMs: number): Promise<boolean>;
  /** The certificate this token already bought for this public key. */
  boughtWith(id: string, publicKeyDigest: string): Promise<CertificateRow | undefined>;
}

/** A machine whose token was good and that waits for an operator, or was refused by one. */
export interface JoinRequestRow {
  publicKeyDigest: string;
  tokenId: string;
  /** What it will be called; of those that wait no two have the same. */
  name: string;
  csr: Uint8Array;
  address: string;
  requestedAtMs: number;
  /** When it is forgotten, waiting or refused. */
  expiresAtMs: number;
  refusedBy: string | undefined;
}

export interface JoinRequestStore {
  /** Unexpired ones that wait, the oldest first. */
  waiting(): Promise<JoinRequestRow[]>;
  /** Whatever came of it; undefined when it is unknown or expired. */
  get(tokenId: string, publicKeyDigest: string): Promise<JoinRequestRow | undefined>;
  /**
   * Harmless when it is repeated. Takes the place of what the key asked for with another token; what has expired is
   * removed too. False when another key waits under the name.
   */
  record(row: JoinRequestRow): Promise<boolean>;
  /** False when no such request waits any more. */
  refuse(publicKeyDigest: string, actor: string, expiresAtMs: number): Promise<boolean>;
  forget(publicKeyDigest: string): Promise<void>;
}
