/** A mesh made for one test: an authority in memory and whatever credentials the test asks for, crooked ones included. */
import { X509Certificate } from 'node:crypto';
import { Authority, makeIssuer, makeRoot } from '../../ca/authority.js';
import { type LeafRequest, profileExtensions, randomSerial } from '../../ca/policy.js';
import {
  buildCertificate,
  type CertificateTemplate,
  nameDer,
  subjectAltName,
  toPem,
  uriName,
} from '../../ca/x509/certificate.js';
import { fieldsOf } from '../../common/identity/check.js';
import type { Role } from '../../common/identity/identity.js';
import { makeKeyPair } from '../../common/identity/keys.js';
import type { Credential } from '../../link/credentials.js';

const HOUR_MS = 3_600_000;

export interface TestMesh {
  meshId: string;
  authority: Authority;
  /** SHA-256 of the root, hex. */
  rootDigest: string;
  /** What the authority would issue. */
  credential(role: Role, name: string, options?: Partial<LeafRequest>): Credential;
  /** What it never would: a leaf with the role's usual parts, some of them replaced. */
  forge(role: Role, name: string, change: (usual: CertificateTemplate) => Partial<CertificateTemplate>): Credential;
}

export function makeTestMesh(meshId = 'test-mesh', nowMs = Date.now()): TestMesh {
  const root = makeRoot(meshId, nowMs);
  const issuer = makeIssuer(root.certificate, root.privateKey, nowMs);
  const authority = new Authority({
    root: root.certificate,
    issuer: issuer.certificate,
    issuerKey: issuer.privateKey,
  });
  const { rootPem, issuerPem } = authority;
  return {
    meshId,
    authority,
    rootDigest: authority.rootFingerprint,
    credential(role, name, options = {}) {
      const pair = makeKeyPair();
      const { pem } = authority.issue({ publicKeyDer: pair.publicKeyDer, role, name, nowMs, ...options });
      return { certificateChain: pem, privateKey: pair.privateKeyPem, root: rootPem };
    },
    forge(role, name, change) {
      const pair = makeKeyPair();
      const usual: CertificateTemplate = {
        serial: randomSerial(),
        issuerDer: fieldsOf(new X509Certificate(issuerPem)).subjectDer,
        subjectDer: nameDer(meshId, `${role} ${name}`),
        notBeforeMs: nowMs - HOUR_MS,
        notAfterMs: nowMs + HOUR_MS,
        publicKeyDer: pair.publicKeyDer,
        extensions: [...profileExtensions(role), subjectAltName([uriName(`spiffe://${meshId}/${role}/${name}`)])],
      };
      const der = buildCertificate({ ...usual, ...change(usual) }, issuer.privateKey);
      return { certificateChain: toPem(der) + issuerPem, privateKey: pair.privateKeyPem, root: rootPem };
    },
  };
}
