/**
 * The certificate authority in memory: a self-signed root, and one issuer (intermediate, path length 0) that signs
 * everything else, so that the root's key can leave the machine. What was issued is remembered by whoever asks: the index
 * of a CA directory, or the coordinator's database.
 */
import { type KeyObject, X509Certificate } from 'node:crypto';
import { MeshError } from '../common/errors.js';
import { checkAuthority, fieldsOf, fingerprintOf, profileProblem } from '../common/identity/check.js';
import type { Role } from '../common/identity/identity.js';
import { publicKeyDigest } from '../common/identity/keys.js';
import { BACKDATE_MS, PROFILES, renewalAtMs } from '../common/identity/profile.js';
import { formatMeshUri } from '../common/identity/spiffe.js';
import { assertKeyOf, type KeyPair, makeKeyPair } from './keys.js';
import { type LeafRequest, makeLeaf, profileExtensions, randomSerial, validity } from './policy.js';
import { buildCrl, type CrlTemplate } from './x509/crl.js';
import {
  authorityKeyIdentifier,
  buildCertificate,
  nameDer,
  subjectAltName,
  subjectKeyIdentifier,
  toPem,
  uriName,
} from './x509/certificate.js';

export interface Issued {
  /** Leaf, then intermediate. */
  pem: string;
  role: Role;
  name: string;
  /** Lower-case hex, as `Identity.serial`. */
  serial: string;
  /** SHA-256 of the leaf's DER, lower-case hex. */
  fingerprint: string;
  notBeforeMs: number;
  notAfterMs: number;
  /** SHA-256 of the SubjectPublicKeyInfo, lower-case hex. */
  publicKeyDigest: string;
  /** SHA-256 of the root it leads to, lower-case hex. */
  root: string;
}

export interface Certified extends KeyPair {
  certificate: X509Certificate;
}

/** A new mesh's root: key and self-signed certificate. @throws MeshError BAD_NAME when the mesh id is not allowed */
export function makeRoot(meshId: string, nowMs: number): Certified {
  const pair = makeKeyPair();
  const name = nameDer(meshId, 'Planetary Mesh root');
  const secondMs = Math.floor(nowMs / 1000) * 1000;
  const der = buildCertificate(
    {
      serial: randomSerial(),
      issuerDer: name,
      subjectDer: name,
      notBeforeMs: secondMs - BACKDATE_MS,
      notAfterMs: secondMs + PROFILES.root.lifetimeMs,
      publicKeyDer: pair.publicKeyDer,
      extensions: [
        ...profileExtensions('root'),
        subjectAltName([uriName(formatMeshUri(meshId))]),
        subjectKeyIdentifier(pair.publicKeyDer),
      ],
    },
    pair.privateKey,
  );
  return enforced({ ...pair, certificate: new X509Certificate(der) }, 'root', nowMs);
}

/**
 * An issuer under a root. Its key is made here unless another machine sent its public one.
 * @throws MeshError BAD_CERTIFICATE when the root is out of its dates
 */
export function signIssuer(root: X509Certificate, rootKey: KeyObject, publicKeyDer: Buffer, nowMs: number) {
  const meshId = checkAuthority(root, 'root', nowMs);
  const digest = publicKeyDigest(publicKeyDer);
  const der = buildCertificate(
    {
      serial: randomSerial(),
      issuerDer: fieldsOf(root).subjectDer,
      subjectDer: nameDer(meshId, `Planetary Mesh issuer ${digest.slice(0, 8)}`),
      ...validity('issuer', nowMs, undefined, root),
      publicKeyDer,
      extensions: [
        ...profileExtensions('issuer'),
        subjectAltName([uriName(formatMeshUri(meshId))]),
        subjectKeyIdentifier(publicKeyDer),
        authorityKeyIdentifier(rootKey),
      ],
    },
    rootKey,
  );
  const certificate = new X509Certificate(der);
  if (!certificate.verify(root.publicKey))
    throw new MeshError('BAD_CERTIFICATE', 'the root key does not belong to the root certificate');
  return certificate;
}

export function makeIssuer(root: X509Certificate, rootKey: KeyObject, nowMs: number): Certified {
  const pair = makeKeyPair();
  return enforced({ ...pair, certificate: signIssuer(root, rootKey, pair.publicKeyDer, nowMs) }, 'issuer', nowMs);
}

function enforced(made: Certified, kind: 'root' | 'issuer', nowMs: number): Certified {
  checkAuthority(made.certificate, kind, nowMs);
  return made;
}

/** Whether an issuer has used up the 50 to 80 % of its life after which it is renewed. */
export function issuerRenewalDue(issuer: X509Certificate, nowMs: number): boolean {
  const { notBeforeMs, notAfterMs } = fieldsOf(issuer);
  return nowMs >= renewalAtMs({ notBeforeMs, notAfterMs, fingerprint: fingerprintOf(issuer) });
}

export class Authority {
  readonly root: X509Certificate;
  readonly issuer: X509Certificate;
  readonly meshId: string;
  readonly rootPem: string;
  readonly issuerPem: string;
  /** SHA-256 of the root's DER, lower-case hex: what a join token pins. */
  readonly rootFingerprint: string;
  readonly #issuerKey: KeyObject;

  /** @throws MeshError BAD_CERTIFICATE when the three do not belong together */
  constructor(parts: { root: X509Certificate; issuer: X509Certificate; issuerKey: KeyObject }) {
    this.root = parts.root;
    this.issuer = parts.issuer;
    this.#issuerKey = parts.issuerKey;
    // Dates are not judged here: an expired issuer must still be readable, to be renewed.
    this.meshId = checkAuthority(parts.root, 'root', fieldsOf(parts.root).notBeforeMs);
    const problem = profileProblem(fieldsOf(parts.issuer), 'issuer');
    if (problem)
      throw new MeshError('BAD_CERTIFICATE', `the issuer's certificate does not fit the profile: ${problem}`);
    if (!parts.issuer.verify(parts.root.publicKey))
      throw new MeshError('BAD_CERTIFICATE', "the issuer's certificate is not signed by the root beside it");
    assertKeyOf(parts.issuer, parts.issuerKey, "the issuer's key");
    this.rootPem = toPem(parts.root.raw);
    this.issuerPem = toPem(parts.issuer.raw);
    this.rootFingerprint = fingerprintOf(parts.root);
  }

  /** The list of what this issuer has signed and taken back, DER. */
  signCrl(list: Omit<CrlTemplate, 'issuerDer'>): Buffer {
    return buildCrl({ ...list, issuerDer: fieldsOf(this.issuer).subjectDer }, this.#issuerKey);
  }

  /**
   * A leaf certificate. Of a CSR nothing but its key is taken.
   * @throws MeshError USAGE, BAD_NAME or BAD_CERTIFICATE when the request is refused
   */
  issue(request: LeafRequest): Issued {
    const { certificate, keyDigest } = makeLeaf(request, {
      meshId: this.meshId,
      certificate: this.issuer,
      key: this.#issuerKey,
    });
    const { serial, notBeforeMs, notAfterMs } = fieldsOf(certificate);
    return {
      pem: toPem(certificate.raw) + this.issuerPem,
      role: request.role,
      name: request.name,
      serial,
      fingerprint: fingerprintOf(certificate),
      notBeforeMs,
      notAfterMs,
      publicKeyDigest: keyDigest,
      root: this.rootFingerprint,
    };
  }
}
