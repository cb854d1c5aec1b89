/**
 * The roots that a program trusts: one, or several while the root of the mesh is replaced by another (docs/security.md,
 * "Rotation and recovery"). As PEM they stand one after the other; the first is the one whose chain coordinators present.
 */
import { X509Certificate } from 'node:crypto';
import { MeshError } from '../errors.js';
import { chainFromPem } from './chain.js';
import { fingerprintOf, readMeshId } from './check.js';

export interface Roots {
  meshId: string;
  certificates: readonly X509Certificate[];
  /** SHA-256 of each, lower-case hex: what tokens pin and what mDNS shows the beginning of. */
  digests: readonly string[];
}

/** @throws MeshError BAD_CERTIFICATE when one is not the root of a mesh, or they belong to two */
export function readRoots(pem: string): Roots {
  const certificates = chainFromPem(pem);
  const [meshId = '', ...others] = certificates.map((certificate) => readMeshId(certificate));
  if (others.some((other) => other !== meshId))
    throw new MeshError(
      'BAD_CERTIFICATE',
      `the root certificates belong to several meshes (${[meshId, ...others].join(', ')})`,
    );
  return { meshId, certificates, digests: certificates.map(fingerprintOf) };
}

/** PEM of several, each once. */
export const joinRoots = (pems: readonly string[]): string =>
  [...new Set(pems.map((pem) => pem.trim()))].map((pem) => `${pem}\n`).join('');
