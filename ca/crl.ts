/** What a revocation list of a CA directory holds: the certificates of its present issuer, revoked and not long expired. */
import type { X509Certificate } from 'node:crypto';
import { chainFromPem } from '../common/identity/chain.js';
import { fieldsOf } from '../common/identity/check.js';
import type { IndexEntry } from './index-file.js';

/** How long a list is good for. Short, because whoever has an older one does not know better. */
export const CRL_LIFETIME_MS = 3_600_000;

export interface Crl {
  der: Buffer;
  number: number;
  thisUpdateMs: number;
  nextUpdateMs: number;
  /** How many certificates it names. */
  count: number;
}

function isIssuedBy(pem: string, issuer: X509Certificate): boolean {
  const [leaf] = chainFromPem(pem);
  return (
    leaf !== undefined && fieldsOf(leaf).issuerDer.equals(fieldsOf(issuer).subjectDer) && leaf.verify(issuer.publicKey)
  );
}

/**
 * A certificate stays on the lists until one that was made after its end (RFC 5280 §3.3): longer than one list lives.
 */
export function revokedBy(issuer: X509Certificate, entries: readonly IndexEntry[], nowMs: number) {
  return entries.flatMap(({ serial, revokedAtMs, notAfterMs, pem }) =>
    revokedAtMs !== undefined && notAfterMs + CRL_LIFETIME_MS > nowMs && isIssuedBy(pem, issuer)
      ? [{ serial, revokedAtMs }]
      : [],
  );
}
