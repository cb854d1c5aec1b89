/** Certificates and the tokens that buy them. */
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
}

export interface CertificateStore {
  /** @throws MeshError CONFLICT when an unrevoked, unexpired certificate of this role and name belongs to another key and `sameHolder` is false */
  record(row: CertificateRow, options: { sameHolder: boolean }): Promise<void>;
  list(): Promise<CertificateRow[]>;
  /** Unrevoked and unexpired ones of this role and name. */
  holders(role: Role, name: string): Promise<CertificateRow[]>;
  /** By name or serial; returns what was revoked now. */
  revoke(nameOrSerial: string): Promise<CertificateRow[]>;
  /** Serials revoked and not yet expired: the denylist. */
  revokedSerials(): Promise<string[]>;
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
