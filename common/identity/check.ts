/**
 * The profile check: turns a certificate into an identity, or says in one sentence why not. It runs on every connection in
 * both directions, because TLS alone accepts more than we do (no extended key usage, CA certificates as clients, several
 * URIs, any name the common name claims). It reads the bytes itself (fields.ts) and asks one rule after the other
 * (rules.ts). Whether the chain beside a leaf leads to the mesh's root: chain.ts.
 */
import { createHash, X509Certificate } from 'node:crypto';
import { MeshError } from '../errors.js';
import { formatDuration } from '../units.js';
import { DerError } from './der.js';
import { type CertificateFields, NAME_TAGS, readCertificate } from './fields.js';
import type { Identity, Role } from './identity.js';
import { BACKDATE_MS, type CertificateKind, PROFILES } from './profile.js';
import { PROFILE_RULES } from './rules.js';
import { parseMeshUri, parseSpiffeId } from './spiffe.js';

export interface PeerRules {
  meshId: string;
  /** The roles that may stand here; all when absent. */
  roles?: readonly Role[];
  /** What the peer is on this connection. */
  purpose: 'client' | 'server';
  nowMs: number;
}

const refused = (message: string, hint?: string): MeshError =>
  new MeshError('BAD_CERTIFICATE', message, hint === undefined ? {} : { hint });

const iso = (ms: number): string => new Date(ms).toISOString().replace('.000Z', 'Z');

/** SHA-256 of the DER, lower-case hex. */
export const fingerprintOf = (certificate: X509Certificate | Uint8Array): string =>
  createHash('sha256')
    .update(certificate instanceof X509Certificate ? certificate.raw : certificate)
    .digest('hex');

/** Several questions are asked of the same certificate; it cannot change. */
const known = new WeakMap<X509Certificate, CertificateFields>();

/** @throws MeshError BAD_CERTIFICATE when it is not strict DER, or something else than a certificate */
export function fieldsOf(certificate: X509Certificate | Uint8Array): Readonly<CertificateFields> {
  if (!(certificate instanceof X509Certificate)) return read(certificate);
  let fields = known.get(certificate);
  if (!fields) known.set(certificate, (fields = read(certificate.raw)));
  return fields;
}

function read(der: Uint8Array): CertificateFields {
  try {
    return readCertificate(der);
  } catch (error) {
    if (!(error instanceof DerError)) throw error;
    throw new MeshError('BAD_CERTIFICATE', `the certificate does not parse: ${error.message}`, { cause: error });
  }
}

/**
 * In what a certificate differs from the profile of its kind; undefined when in nothing. Who it is for and whether it is
 * valid now are other questions. The issuing side asks this of everything it signs.
 */
export function profileProblem(fields: CertificateFields, kind: CertificateKind): string | undefined {
  for (const { problem } of PROFILE_RULES) {
    const found = problem(fields, PROFILES[kind]);
    if (found !== undefined) return found;
  }
  return undefined;
}

/** The bytes of the one URI a certificate of ours has. The common name is never looked at. */
function onlyUri(fields: CertificateFields): Buffer {
  const uris = fields.alternativeNames.filter(({ tag }) => tag === NAME_TAGS.uri);
  if (uris.length !== 1 || !uris[0])
    throw refused(`the certificate has ${uris.length} URI alternative names; an identity is exactly one`);
  return uris[0].bytes;
}

/** @throws MeshError BAD_CERTIFICATE that names both dates, this machine's time and what is between them */
function checkDates(whose: string, { notBeforeMs, notAfterMs }: CertificateFields, nowMs: number): void {
  if (nowMs >= notBeforeMs && nowMs <= notAfterMs) return;
  const dates = `it is valid from ${iso(notBeforeMs)} to ${iso(notAfterMs)}, and here it is ${iso(nowMs)}`;
  if (nowMs > notAfterMs)
    throw refused(
      `${whose} has expired: ${dates}, ${formatDuration(nowMs - notAfterMs)} later`,
      'if this clock is right, issue a new certificate',
    );
  // It was made when its issuer's clock stood that much later than its first date; this clock has not got there yet.
  const behindMs = notBeforeMs + BACKDATE_MS - nowMs;
  throw refused(
    `${whose} is not valid yet: ${dates}; the clock of this machine is at least ${formatDuration(behindMs)} behind its issuer's`,
    'set both clocks, best by NTP, and try again',
  );
}

/** Of leaves: the same bytes have the same role and fit its profile for ever, or never do. */
const problems = new WeakMap<X509Certificate, { found: string | undefined }>();

function leafProblem(certificate: X509Certificate | Uint8Array, fields: CertificateFields, role: Role) {
  if (!(certificate instanceof X509Certificate)) return profileProblem(fields, role);
  let problem = problems.get(certificate);
  if (!problem) problems.set(certificate, (problem = { found: profileProblem(fields, role) }));
  return problem.found;
}

/**
 * Who the holder of a leaf certificate is. It judges the leaf alone; who presents one is judged by `checkPresented`.
 * @throws MeshError BAD_CERTIFICATE with the one reason why it is refused
 */
export function checkPeer(certificate: X509Certificate | Uint8Array, rules: PeerRules): Identity {
  const fields = fieldsOf(certificate);
  const id = parseSpiffeId(onlyUri(fields));
  const whose = `the certificate of ${id.role} ${id.name}`;
  const problem = leafProblem(certificate, fields, id.role);
  if (problem) throw refused(`${whose} does not fit the profile: ${problem}`);
  if (id.meshId !== rules.meshId)
    throw refused(
      `${whose} belongs to the mesh ${id.meshId}, and this is the mesh ${rules.meshId}`,
      'use a certificate or a join token of this mesh',
    );
  if (rules.roles && !rules.roles.includes(id.role))
    throw refused(`${whose} has a role that may not stand here (${rules.roles.join(', ')})`);
  const needed = rules.purpose === 'server' ? 'serverAuth' : 'clientAuth';
  if (!PROFILES[id.role].extendedKeyUsage.includes(needed))
    throw refused(`${whose} cannot be used as a ${rules.purpose}: its role has no ${needed}`);
  checkDates(whose, fields, rules.nowMs);
  return {
    ...id,
    serial: fields.serial,
    fingerprint: fingerprintOf(certificate),
    notBeforeMs: fields.notBeforeMs,
    notAfterMs: fields.notAfterMs,
  };
}

/** A certificate of the authority itself, in order but for the question whether it is valid now. */
export interface Authority {
  kind: 'root' | 'issuer';
  meshId: string;
  fields: CertificateFields;
}

/** @throws MeshError BAD_CERTIFICATE when it does not fit the profile of its kind */
export function readAuthority(certificate: X509Certificate, kind: Authority['kind']): Authority {
  const fields = fieldsOf(certificate);
  const meshId = parseMeshUri(onlyUri(fields));
  const problem = profileProblem(fields, kind);
  if (problem) throw refused(`the ${kind} certificate of ${meshId} does not fit the profile: ${problem}`);
  return { kind, meshId, fields };
}

/** @throws MeshError BAD_CERTIFICATE when the time is out of its dates */
export const checkAuthorityDates = ({ kind, meshId, fields }: Authority, nowMs: number): void =>
  checkDates(`the ${kind} certificate of ${meshId}`, fields, nowMs);

/**
 * The mesh that a certificate of the authority itself, root or issuer, belongs to.
 * @throws MeshError BAD_CERTIFICATE when it does not fit that profile or the time is out of its dates
 */
export function checkAuthority(certificate: X509Certificate, kind: Authority['kind'], nowMs: number): string {
  const authority = readAuthority(certificate, kind);
  checkAuthorityDates(authority, nowMs);
  return authority.meshId;
}

/** @throws MeshError BAD_CERTIFICATE when it is not the root of a mesh */
export function readMeshId(root: X509Certificate | Uint8Array): string {
  const fields = fieldsOf(root);
  const meshId = parseMeshUri(onlyUri(fields));
  const problem = profileProblem(fields, 'root');
  if (problem) throw refused(`this is not the root certificate of a mesh: ${problem}`);
  return meshId;
}
