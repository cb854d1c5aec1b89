/**
 * From a wish to a certificate, in the same five steps for everybody who asks (after step-ca's signing pipeline):
 * check what was asked, modify it (defaults, clocks, the issuer's own end), validate the result against the profile,
 * sign, and enforce: read what was signed back with the checking side's own eyes before anybody gets it.
 */
import { type KeyObject, randomBytes, X509Certificate } from 'node:crypto';
import { isIP } from 'node:net';
import { MeshError } from '../common/errors.js';
import { checkPeer, fieldsOf } from '../common/identity/check.js';
import { readCsr } from '../common/identity/csr.js';
import { isRole, type Role, ROLES } from '../common/identity/identity.js';
import { publicKeyDigest, readPublicKey } from '../common/identity/keys.js';
import {
  BACKDATE_MS,
  type CertificateKind,
  EXTENDED_KEY_USAGE_OIDS,
  isHostName,
  PROFILES,
} from '../common/identity/profile.js';
import { formatSpiffeId } from '../common/identity/spiffe.js';
import { isName } from '../common/ids.js';
import {
  authorityKeyIdentifier,
  basicConstraints,
  buildCertificate,
  dnsName,
  type ExtensionTemplate,
  extendedKeyUsage,
  ipName,
  keyUsage,
  nameDer,
  subjectAltName,
  subjectKeyIdentifier,
  uriName,
} from './x509/certificate.js';

/** Exactly one of `csrDer` (from others: possession is proven) and `publicKeyDer` (from ourselves). */
export interface LeafRequest {
  csrDer?: Uint8Array;
  publicKeyDer?: Uint8Array;
  role: Role;
  name: string;
  /** Only for a coordinator. */
  dnsNames?: readonly string[];
  ipAddresses?: readonly string[];
  /** From now; the role's usual one when absent, never beyond the issuer's end. */
  lifetimeMs?: number;
  nowMs: number;
}

export interface Issuer {
  meshId: string;
  certificate: X509Certificate;
  key: KeyObject;
}

const DAY_MS = 86_400_000;
const HOSTS_MAX = 64;

/** 128 random bits after a fixed first byte, so that it is positive, of one length and has no leading zeros. */
export const randomSerial = (): Buffer => Buffer.concat([Buffer.of(0x4d), randomBytes(16)]);

/** The extensions of a kind, straight from the table. */
export function profileExtensions(kind: CertificateKind): ExtensionTemplate[] {
  const profile = PROFILES[kind];
  const purposes = profile.extendedKeyUsage.map((usage) => EXTENDED_KEY_USAGE_OIDS[usage]);
  return [
    basicConstraints(profile.ca, profile.pathLength),
    keyUsage(profile.keyUsage),
    ...(purposes.length > 0 ? [extendedKeyUsage(purposes)] : []),
  ];
}

/** Step 1. @throws MeshError USAGE, BAD_NAME or BAD_CERTIFICATE */
function check(request: LeafRequest): Buffer {
  if (!isRole(request.role))
    throw new MeshError('USAGE', `there is no role ${JSON.stringify(request.role)}`, {
      hint: `roles are ${ROLES.join(', ')}`,
    });
  if (!isName(request.name)) throw new MeshError('BAD_NAME', `the name ${JSON.stringify(request.name)} is not allowed`);
  const profile = PROFILES[request.role];
  const { dnsNames = [], ipAddresses = [], lifetimeMs = profile.lifetimeMs } = request;
  if (!Number.isFinite(lifetimeMs) || lifetimeMs < 1000 || lifetimeMs > profile.lifetimeMsMax)
    throw new MeshError(
      'USAGE',
      `a certificate of the role ${request.role} lives for at most ${profile.lifetimeMsMax / DAY_MS} days`,
      { hint: 'ask for less, and renew it' },
    );
  if (!profile.hosts && dnsNames.length + ipAddresses.length > 0)
    throw new MeshError('USAGE', `a certificate of the role ${request.role} carries no host names`, {
      hint: 'only those of coordinators do',
    });
  const foreign = dnsNames.find((name) => !isHostName(name)) ?? ipAddresses.find((a) => !isIP(a) || a.includes('%'));
  if (foreign !== undefined)
    throw new MeshError('USAGE', `${JSON.stringify(foreign)} is neither a host name nor an address`, {
      hint: 'host names are lower case; addresses are plain IPv4 or IPv6',
    });
  if (dnsNames.length + ipAddresses.length > HOSTS_MAX)
    throw new MeshError('USAGE', `a certificate carries at most ${HOSTS_MAX} host names and addresses`);
  return provenKey(request);
}

function provenKey({ csrDer, publicKeyDer }: LeafRequest): Buffer {
  if (csrDer) return readCsr(csrDer).publicKeyDer;
  if (!publicKeyDer) throw new MeshError('BAD_CERTIFICATE', 'there is no key to certify');
  return readPublicKey(publicKeyDer).export({ type: 'spki', format: 'der' });
}

/** Step 2: whole seconds, backdated, and nothing outlives or predates its issuer. @throws MeshError BAD_CERTIFICATE */
export function validity(
  kind: CertificateKind,
  nowMs: number,
  lifetimeMs: number | undefined,
  issuer: X509Certificate,
) {
  const limits = fieldsOf(issuer);
  const wishMs = nowMs + (lifetimeMs ?? PROFILES[kind].lifetimeMs);
  const notBeforeMs = Math.max(Math.floor((nowMs - BACKDATE_MS) / 1000) * 1000, limits.notBeforeMs);
  const notAfterMs = Math.min(Math.floor(wishMs / 1000) * 1000, limits.notAfterMs);
  if (notAfterMs <= nowMs || limits.notBeforeMs > nowMs)
    throw new MeshError(
      'BAD_CERTIFICATE',
      `the certificate of the issuer is valid from ${new Date(limits.notBeforeMs).toISOString()} to ${new Date(
        limits.notAfterMs,
      ).toISOString()}, and it is ${new Date(nowMs).toISOString()}`,
      { hint: 'check this clock; an expired issuer is renewed where the root key ca.key is' },
    );
  return { notBeforeMs, notAfterMs };
}

/**
 * All five steps.
 * @throws MeshError USAGE, BAD_NAME or BAD_CERTIFICATE when the request is refused
 */
export function makeLeaf(request: LeafRequest, issuer: Issuer): { certificate: X509Certificate; keyDigest: string } {
  const publicKeyDer = check(request);
  const { role, name, nowMs, dnsNames = [], ipAddresses = [] } = request;
  const uri = formatSpiffeId({ meshId: issuer.meshId, role, name });
  const names = [uriName(uri), ...unique(dnsNames).map(dnsName), ...unique(ipAddresses).map(ipName)];
  const template = {
    serial: randomSerial(),
    issuerDer: fieldsOf(issuer.certificate).subjectDer,
    subjectDer: nameDer(issuer.meshId, `${role} ${name}`),
    ...validity(role, nowMs, request.lifetimeMs, issuer.certificate),
    publicKeyDer,
    extensions: [
      ...profileExtensions(role),
      subjectAltName(names),
      subjectKeyIdentifier(publicKeyDer),
      authorityKeyIdentifier(issuer.key),
    ],
  };
  const certificate = new X509Certificate(buildCertificate(template, issuer.key));
  enforce(certificate, publicKeyDer, request, issuer);
  return { certificate, keyDigest: publicKeyDigest(publicKeyDer) };
}

const unique = (list: readonly string[]): string[] => [...new Set(list)];

/** Steps 3 and 5 in one: the checking side validates the very bytes that would be handed out. */
function enforce(certificate: X509Certificate, publicKeyDer: Buffer, request: LeafRequest, issuer: Issuer): void {
  const { role, name, nowMs } = request;
  const identity = checkPeer(certificate, { meshId: issuer.meshId, roles: [role], purpose: 'client', nowMs });
  const right =
    identity.name === name &&
    fieldsOf(certificate).publicKeyDer.equals(publicKeyDer) &&
    certificate.checkIssued(issuer.certificate) &&
    certificate.verify(issuer.certificate.publicKey);
  if (!right) throw new MeshError('INTERNAL', 'the certificate that was made is not the one that was asked for');
}
