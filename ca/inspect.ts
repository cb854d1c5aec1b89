import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { MeshError, systemCode, toMeshError } from '../common/errors.js';
import { chainFromPem, verifyChain } from '../common/identity/chain.js';
import { checkAuthority, checkPeer, fieldsOf, fingerprintOf } from '../common/identity/check.js';
import { type CertificateFields, NAME_TAGS } from '../common/identity/fields.js';
import { EXTENDED_KEY_USAGE_OIDS } from '../common/identity/profile.js';
import { parseMeshUri, parseSpiffeId } from '../common/identity/spiffe.js';
import { nameText, printable } from './names.js';

export interface Inspection {
  kind: string;
  identity: string | null;
  subject: string;
  issuer: string;
  serial: string;
  fingerprint: string;
  notBefore: string;
  notAfter: string;
  ca: boolean;
  pathLength: number | null;
  keyUsage: string[];
  extendedKeyUsage: string[];
  alternativeNames: string[];
  /** Whether it fits the profile of its kind now; `reason` says why not. */
  fits: boolean;
  reason: string | null;
}

/** @throws MeshError NOT_FOUND, BAD_CERTIFICATE */
export function readChainFile(path: string): X509Certificate[] {
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    throw new MeshError('NOT_FOUND', `cannot read ${path} (${systemCode(error)})`, {
      hint: 'name a certificate file, PEM or DER',
      cause: error,
    });
  }
  if (bytes.includes('-----BEGIN CERTIFICATE-----')) return chainFromPem(bytes.toString('latin1'));
  try {
    return [new X509Certificate(bytes)];
  } catch (error) {
    throw new MeshError('BAD_CERTIFICATE', `${path} holds no certificate`, {
      hint: 'name a certificate file, PEM or DER',
      cause: error,
    });
  }
}

/** Which row of the profile table it claims to be. */
function claim(fields: CertificateFields): { kind: string; meshId: string | undefined } {
  const uri = fields.alternativeNames.find(({ tag }) => tag === NAME_TAGS.uri)?.bytes ?? Buffer.alloc(0);
  const authority = fields.issuerDer.equals(fields.subjectDer) ? 'root' : 'issuer';
  try {
    return { kind: authority, meshId: parseMeshUri(uri) };
  } catch {
    try {
      const id = parseSpiffeId(uri);
      return { kind: id.role, meshId: id.meshId };
    } catch {
      return { kind: 'unknown', meshId: undefined };
    }
  }
}

/** @throws MeshError BAD_CERTIFICATE when it is not even strict DER */
export function inspectCertificate(certificate: X509Certificate, nowMs: number): Inspection {
  const fields = fieldsOf(certificate);
  const { kind, meshId } = claim(fields);
  let reason: string | null = null;
  try {
    if (kind === 'root' || kind === 'issuer') checkAuthority(certificate, kind, nowMs);
    else checkPeer(certificate, { meshId: meshId ?? '', purpose: 'client', nowMs });
  } catch (error) {
    reason = toMeshError(error).message;
  }
  const usages = Object.entries(EXTENDED_KEY_USAGE_OIDS);
  const names = fields.alternativeNames.map(nameText);
  return {
    kind,
    identity: names.find((name) => name.startsWith('URI:'))?.slice(4) ?? null,
    subject: printable(certificate.subject),
    issuer: printable(certificate.issuer),
    serial: fields.serial,
    fingerprint: fingerprintOf(certificate),
    notBefore: new Date(fields.notBeforeMs).toISOString(),
    notAfter: new Date(fields.notAfterMs).toISOString(),
    ca: fields.basicConstraints?.ca ?? false,
    pathLength: fields.basicConstraints?.pathLength ?? null,
    keyUsage: fields.keyUsage,
    extendedKeyUsage: fields.extendedKeyUsage.map((oid) => usages.find(([, known]) => known === oid)?.[0] ?? oid),
    alternativeNames: names,
    fits: reason === null,
    reason,
  };
}

/** Whether a chain leads to one of the roots; the reason when it does not. */
export function chainProblem(
  chain: X509Certificate[],
  roots: readonly X509Certificate[],
  nowMs: number,
): string | null {
  try {
    verifyChain(chain, roots, nowMs);
    return null;
  } catch (error) {
    return toMeshError(error).message;
  }
}

export function inspectionText(item: Inspection): string {
  const list = (entries: string[]) => (entries.length === 0 ? 'none' : entries.join(', '));
  const rows: [string, string][] = [
    ['identity', item.identity ?? 'none'],
    ['subject', item.subject],
    ['issued by', item.issuer],
    ['serial', item.serial],
    ['fingerprint', item.fingerprint],
    ['valid', `${item.notBefore} to ${item.notAfter}`],
    ['authority', item.ca ? `yes, path length ${item.pathLength ?? 'unlimited'}` : 'no'],
    ['key usage', list(item.keyUsage)],
    ['extended', list(item.extendedKeyUsage)],
    ['names', list(item.alternativeNames)],
    ['profile', item.fits ? `fits (${item.kind})` : `does not fit: ${item.reason}`],
  ];
  return rows.map(([label, value]) => `${label.padEnd(12)} ${value}\n`).join('');
}
