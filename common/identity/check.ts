/**
 * The profile check: turns a certificate into an identity, or says in one sentence why not. It runs on every connection in
 * both directions, because TLS alone accepts more than we do (no extended key usage, CA certificates as clients, several
 * URIs, any name the common name claims). That the chain leads to the mesh's root is TLS's part; where there is no TLS
 * verification yet, joining with a token, it is `verifyChain`'s.
 */
import { createHash, X509Certificate } from 'node:crypto';
import { MeshError } from '../errors.js';
import { DerError } from './der.js';
import { type CertificateFields, NAME_TAGS, readCertificate } from './fields.js';
import type { Identity, Role } from './identity.js';
import { publicKeyProblem } from './keys.js';
import {
  BACKDATE_MS,
  type CertificateKind,
  EXTENDED_KEY_USAGE_OIDS,
  EXTENSION_OIDS,
  isHostName,
  PROFILES,
} from './profile.js';
import { parseMeshUri, parseSpiffeId, quoted } from './spiffe.js';

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

function asCertificate(certificate: X509Certificate | Uint8Array): X509Certificate {
  if (certificate instanceof X509Certificate) return certificate;
  try {
    return new X509Certificate(certificate);
  } catch (error) {
    throw new MeshError('BAD_CERTIFICATE', 'the certificate does not parse', { cause: error });
  }
}

/** @throws MeshError BAD_CERTIFICATE when it is not strict DER, or something else than a certificate */
export function fieldsOf(certificate: X509Certificate | Uint8Array): CertificateFields {
  try {
    return readCertificate(certificate instanceof X509Certificate ? certificate.raw : certificate);
  } catch (error) {
    if (!(error instanceof DerError)) throw error;
    throw new MeshError('BAD_CERTIFICATE', `the certificate does not parse: ${error.message}`, { cause: error });
  }
}

const sameSet = (left: readonly string[], right: readonly string[]): boolean =>
  left.length === right.length && left.every((entry) => right.includes(entry));

const words = (list: readonly string[]): string => (list.length === 0 ? 'nothing' : list.join(' + '));

const usageName = (oid: string): string =>
  Object.entries(EXTENDED_KEY_USAGE_OIDS).find(([, known]) => known === oid)?.[0] ?? oid;

/**
 * In what a certificate differs from the profile of its kind, dates and identity aside; undefined when in nothing. The
 * issuing side runs it over everything it signs.
 */
export function profileProblem(
  certificate: X509Certificate,
  kind: CertificateKind,
  fields: CertificateFields = fieldsOf(certificate),
): string | undefined {
  const profile = PROFILES[kind];
  if (fields.version !== 3) return `it is of X.509 version ${fields.version}, not 3`;
  const constraints = fields.basicConstraints;
  if (!constraints) return 'it has no basic constraints';
  if (constraints.ca !== profile.ca) return `its CA bit is ${constraints.ca}, and ${profile.ca} in the profile`;
  if (constraints.pathLength !== profile.pathLength)
    return `its path length is ${constraints.pathLength ?? 'unlimited'}, and ${profile.pathLength ?? 'absent'} in the profile`;
  if (!sameSet(fields.keyUsage, profile.keyUsage))
    return `its key usage is ${words(fields.keyUsage)}, and ${words(profile.keyUsage)} in the profile`;
  const extended = fields.extendedKeyUsage.map(usageName);
  if (!sameSet(extended, profile.extendedKeyUsage))
    return `its extended key usage is ${words(extended)}, and ${words(profile.extendedKeyUsage)} in the profile`;
  for (const name of ['basicConstraints', 'keyUsage'] as const)
    if (!fields.critical.has(EXTENSION_OIDS[name])) return `its ${name} is not critical`;
  const known: string[] = Object.values(EXTENSION_OIDS);
  const foreign = [...fields.critical].find((oid) => !known.includes(oid));
  if (foreign) return `it has an unknown critical extension (${foreign})`;
  const livesMs = fields.notAfterMs - fields.notBeforeMs;
  if (livesMs > profile.lifetimeMsMax + BACKDATE_MS)
    return `it is valid for ${Math.ceil(livesMs / 86_400_000)} days, longer than the profile allows`;
  return namesProblem(fields, profile.hosts) ?? keyProblem(certificate);
}

function keyProblem(certificate: X509Certificate): string | undefined {
  try {
    return publicKeyProblem(certificate.publicKey);
  } catch {
    return 'its public key does not parse';
  }
}

function namesProblem(fields: CertificateFields, hosts: boolean): string | undefined {
  for (const { tag, bytes } of fields.alternativeNames) {
    if (tag === NAME_TAGS.uri) continue;
    if (tag !== NAME_TAGS.dns && tag !== NAME_TAGS.ip) return 'it has an alternative name of a foreign kind';
    if (!hosts) return 'it has host names or addresses, which only a coordinator has';
    if (tag === NAME_TAGS.dns && !isHostName(bytes.toString('latin1'))) return `${quoted(bytes)} is not a host name`;
    if (tag === NAME_TAGS.ip && bytes.length !== 4 && bytes.length !== 16)
      return 'it has an address of impossible size';
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

/** @throws MeshError BAD_CERTIFICATE that names both dates and this machine's time */
function checkDates(whose: string, fields: CertificateFields, nowMs: number): void {
  if (nowMs >= fields.notBeforeMs && nowMs <= fields.notAfterMs) return;
  const state = nowMs < fields.notBeforeMs ? 'is not valid yet' : 'has expired';
  throw refused(
    `${whose} ${state}: it is valid from ${iso(fields.notBeforeMs)} to ${iso(fields.notAfterMs)}, and here it is ${iso(nowMs)}`,
    'compare the clocks of both machines; if they agree, issue a new certificate',
  );
}

/**
 * Who the holder of a leaf certificate is. It checks the leaf alone: the chain is TLS's or `verifyChain`'s part.
 * @throws MeshError BAD_CERTIFICATE with the one reason why it is refused
 */
export function checkPeer(certificate: X509Certificate | Uint8Array, rules: PeerRules): Identity {
  const fields = fieldsOf(certificate);
  const id = parseSpiffeId(onlyUri(fields));
  const whose = `the certificate of ${id.role} ${id.name}`;
  const problem = profileProblem(asCertificate(certificate), id.role, fields);
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

/**
 * The mesh that a certificate of the authority itself, root or issuer, belongs to.
 * @throws MeshError BAD_CERTIFICATE when it does not fit that profile or the time is out of its dates
 */
export function checkAuthority(certificate: X509Certificate, kind: 'root' | 'issuer', nowMs: number): string {
  const fields = fieldsOf(certificate);
  const meshId = parseMeshUri(onlyUri(fields));
  const problem = profileProblem(certificate, kind, fields);
  if (problem) throw refused(`the ${kind} certificate of ${meshId} does not fit the profile: ${problem}`);
  checkDates(`the ${kind} certificate of ${meshId}`, fields, nowMs);
  return meshId;
}

/** @throws MeshError BAD_CERTIFICATE when it is not the root of a mesh */
export function readMeshId(root: X509Certificate | Uint8Array): string {
  const fields = fieldsOf(root);
  const meshId = parseMeshUri(onlyUri(fields));
  const problem = profileProblem(asCertificate(root), 'root', fields);
  if (problem) throw refused(`this is not the root certificate of a mesh: ${problem}`);
  return meshId;
}

const signedBy = (certificate: X509Certificate, issuer: X509Certificate): boolean =>
  certificate.checkIssued(issuer) && certificate.verify(issuer.publicKey);

/**
 * That a chain (leaf first) leads to `root`, of which only the fingerprint may have been known before. Checks every
 * signature, the profile and dates of root and issuer, that all belong to one mesh, and that the leaf is no authority;
 * who the leaf is, is `checkPeer`'s to say. The root may stand at the end of the chain or be left out.
 * @throws MeshError BAD_CERTIFICATE
 */
export function verifyChain(chain: readonly X509Certificate[], root: X509Certificate, nowMs: number): void {
  const meshId = checkAuthority(root, 'root', nowMs);
  if (!signedBy(root, root)) throw refused('the root certificate is not signed by itself');
  const [leaf, ...above] = chain.at(-1)?.raw.equals(root.raw) ? chain.slice(0, -1) : chain;
  if (!leaf) throw refused('the chain has no leaf certificate');
  const [issuer, ...more] = above;
  if (!issuer || more.length > 0)
    throw refused(`the chain has ${above.length} intermediate certificates; it has exactly one in a mesh`);
  if (!signedBy(issuer, root))
    throw refused('the chain does not lead to the root certificate of this mesh', 'is this the right mesh?');
  if (checkAuthority(issuer, 'issuer', nowMs) !== meshId)
    throw refused('the issuer and the root of the chain belong to two meshes');
  if (!signedBy(leaf, issuer)) throw refused('the leaf certificate is not signed by the issuer beside it');
  if (fieldsOf(leaf).basicConstraints?.ca !== false) throw refused('the leaf certificate is itself an authority');
}

const CHAIN_MAX = 8;

/**
 * Every certificate of a PEM text, in order.
 * @throws MeshError BAD_CERTIFICATE when there is none, more than 8, or one that does not parse
 */
export function chainFromPem(pem: string): X509Certificate[] {
  const blocks = pem.match(/-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g) ?? [];
  if (blocks.length === 0 || blocks.length > CHAIN_MAX)
    throw refused(`there are ${blocks.length} certificates where 1 to ${CHAIN_MAX} belong`);
  return blocks.map((block, index) => {
    try {
      return new X509Certificate(block);
    } catch (error) {
      throw new MeshError('BAD_CERTIFICATE', `certificate ${index + 1} does not parse`, { cause: error });
    }
  });
}
