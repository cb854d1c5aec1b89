/**
 * What each kind of certificate is, exactly. The issuing side (ca/policy.ts) makes nothing else and the checking side
 * (check.ts) accepts nothing else, both from this table.
 *
 * | kind        | signed by | CA | path length | key usage             | extended key usage     | lives (at most)   |
 * | ----------- | --------- | -- | ----------- | --------------------- | ---------------------- | ----------------- |
 * | root        | itself    | ✓  | 1           | keyCertSign, cRLSign  | none                   | 10 y (20 y)       |
 * | issuer      | root      | ✓  | 0           | keyCertSign, cRLSign  | none                   | 1 y (2 y)         |
 * | agent       | issuer    | –  | –           | digitalSignature      | clientAuth             | 24 h (90 d)       |
 * | coordinator | issuer    | –  | –           | digitalSignature      | serverAuth, clientAuth | 7 d (90 d)        |
 * | operator, submitter, viewer | issuer | – | –   | digitalSignature      | clientAuth             | 30 d (1 y)        |
 * | metrics     | issuer    | –  | –           | digitalSignature      | clientAuth             | 1 y (2 y)         |
 *
 * Common to all: X.509 version 3, basic constraints and key usage critical, a key on P-256 (P-384 and RSA from 2048 bits
 * are accepted), 128 random serial bits, valid from 5 minutes before it was made, because clocks differ. No certificate
 * outlives the one that signed it. Subject alternative names: exactly one URI (`spiffe://<mesh-id>/<role>/<name>`, in the
 * authority's own `spiffe://<mesh-id>`); a coordinator's has DNS names and IP addresses too, for browsers and Prometheus;
 * mesh peers never look at those. The subject's common name is for people; it is never read.
 */
import type { Role } from './identity.js';

export type CertificateKind = 'root' | 'issuer' | Role;

/** RFC 5280 §4.2.1.3, in bit order. */
export const KEY_USAGES = [
  'digitalSignature',
  'nonRepudiation',
  'keyEncipherment',
  'dataEncipherment',
  'keyAgreement',
  'keyCertSign',
  'cRLSign',
  'encipherOnly',
  'decipherOnly',
] as const;
export type KeyUsage = (typeof KEY_USAGES)[number];

/** RFC 5280 §4.2.1.12 */
export const EXTENDED_KEY_USAGE_OIDS = {
  serverAuth: '1.3.6.1.5.5.7.3.1',
  clientAuth: '1.3.6.1.5.5.7.3.2',
} as const;
export type ExtendedKeyUsage = keyof typeof EXTENDED_KEY_USAGE_OIDS;

export interface Profile {
  ca: boolean;
  /** How many authorities may stand between it and a leaf; undefined where it is none itself. */
  pathLength: number | undefined;
  keyUsage: readonly KeyUsage[];
  extendedKeyUsage: readonly ExtendedKeyUsage[];
  /** Whether DNS names and IP addresses may stand beside the URI. */
  hosts: boolean;
  lifetimeMs: number;
  lifetimeMsMax: number;
}

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
const YEAR_MS = 365 * DAY_MS;

const authority = (pathLength: number, years: number): Profile => ({
  ca: true,
  pathLength,
  keyUsage: ['keyCertSign', 'cRLSign'],
  extendedKeyUsage: [],
  hosts: false,
  lifetimeMs: years * YEAR_MS,
  lifetimeMsMax: 2 * years * YEAR_MS,
});

const client = (lifetimeMs: number, lifetimeMsMax: number): Profile => ({
  ca: false,
  pathLength: undefined,
  keyUsage: ['digitalSignature'],
  extendedKeyUsage: ['clientAuth'],
  hosts: false,
  lifetimeMs,
  lifetimeMsMax,
});

const person = client(30 * DAY_MS, YEAR_MS);

export const PROFILES: Readonly<Record<CertificateKind, Profile>> = {
  root: authority(1, 10),
  issuer: authority(0, 1),
  agent: client(DAY_MS, 90 * DAY_MS),
  coordinator: {
    ...client(7 * DAY_MS, 90 * DAY_MS),
    extendedKeyUsage: ['serverAuth', 'clientAuth'],
    hosts: true,
  },
  operator: person,
  submitter: person,
  viewer: person,
  metrics: client(YEAR_MS, 2 * YEAR_MS),
};

/** How far before its making a certificate is valid. */
export const BACKDATE_MS = 5 * 60_000;

/** OIDs of the extensions a certificate of ours has (RFC 5280 §4.2.1). */
export const EXTENSION_OIDS = {
  subjectKeyIdentifier: '2.5.29.14',
  keyUsage: '2.5.29.15',
  subjectAltName: '2.5.29.17',
  basicConstraints: '2.5.29.19',
  authorityKeyIdentifier: '2.5.29.35',
  extendedKeyUsage: '2.5.29.37',
} as const;

/** A host name as it may stand in a certificate: lower-case labels of letters, digits and hyphens. */
export const isHostName = (text: string): boolean =>
  text.length <= 253 && /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*$/.test(text);

/**
 * When a certificate is renewed: after 50 to 80 % of its life. Where in that range follows from its fingerprint, so a
 * fleet that was enrolled in one minute does not renew in one minute, and asking twice gives the same answer.
 */
export function renewalAtMs(certificate: { notBeforeMs: number; notAfterMs: number; fingerprint: string }): number {
  const spread = Number.parseInt(certificate.fingerprint.slice(0, 8), 16) / 2 ** 32;
  return atShareOfLife(certificate, 0.5 + 0.3 * spread);
}

/** By when a certificate has been renewed, whatever its fingerprint: one that is in use after that cannot be. */
export const renewedByMs = (certificate: { notBeforeMs: number; notAfterMs: number }): number =>
  atShareOfLife(certificate, 0.8);

function atShareOfLife(
  { notBeforeMs, notAfterMs }: { notBeforeMs: number; notAfterMs: number },
  share: number,
): number {
  const madeMs = Math.min(notBeforeMs + BACKDATE_MS, notAfterMs);
  return Math.floor(madeMs + (notAfterMs - madeMs) * share);
}

/**
 * For how long somebody asked a certificate to live; undefined where nobody did, and the policy of the day decided. Of one
 * that was recorded before that was noted (it has no root) it follows from its dates.
 */
export function askedLifetimeMs(certificate: {
  role: Role;
  notBeforeMs: number;
  notAfterMs: number;
  lifetimeMs?: number | undefined;
  root?: string | undefined;
}): number | undefined {
  const { role, notBeforeMs, notAfterMs, lifetimeMs, root } = certificate;
  if (lifetimeMs !== undefined || root !== undefined) return lifetimeMs;
  const livesMs = notAfterMs - notBeforeMs - BACKDATE_MS;
  return Math.abs(livesMs - PROFILES[role].lifetimeMs) < 2000 ? undefined : livesMs;
}
