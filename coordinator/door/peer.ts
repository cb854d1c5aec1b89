import type { X509Certificate } from 'node:crypto';
import type { TLSSocket } from 'node:tls';
import { MeshError, toMeshError } from '../../common/errors.js';
import { checkIssuer, checkPresented } from '../../common/identity/chain.js';
import { fieldsOf } from '../../common/identity/check.js';
import type { Identity } from '../../common/identity/identity.js';

/**
 * Who is at the other end, decided once per connection. `refused` came with a certificate that will not do: it may do
 * what nobody may, and is told the reason when it asks for more. `expired` came with one that was good until its end: it
 * may ask to be taken back (services/recovery.ts), and nothing else.
 */
export type Peer =
  | { kind: 'identity'; identity: Identity }
  | { kind: 'nobody' }
  | { kind: 'refused'; reason: string }
  | { kind: 'expired'; identity: Identity; reason: string };

export const NOBODY: Peer = { kind: 'nobody' };

/** IPv4 addresses look the same whether or not the listener is dual-stack. */
export const plainAddress = (address: string): string => address.replace(/^::ffff:(?=\d+\.)/i, '');

export interface PeerPolicy {
  meshId: string;
  /** Those that are trusted now. */
  roots: readonly X509Certificate[];
  nowMs: () => number;
  /** A reason to refuse an identity that is otherwise in order, such as its revocation. */
  refuse?: ((identity: Identity) => string | undefined) | undefined;
}

/** Judges the chain of a finished handshake. What OpenSSL made of it is asked last: our own reasons can be read. */
export function identify(socket: TLSSocket, chain: readonly X509Certificate[], policy: PeerPolicy): Peer {
  try {
    const [leaf] = chain;
    if (!leaf) return NOBODY;
    if (fieldsOf(leaf).notAfterMs < policy.nowMs()) return identifyExpired(chain, policy);
    const rules = { meshId: policy.meshId, purpose: 'client', nowMs: policy.nowMs() } as const;
    const identity = checkPresented(chain, policy.roots, rules);
    if (!socket.authorized) {
      // Node says which step of the chain failed as a code, whatever its type declares.
      const code = String(socket.authorizationError);
      const reason = `the certificate of ${identity.role} ${identity.name} was not issued by this mesh: ${code}`;
      return { kind: 'refused', reason };
    }
    const reason = policy.refuse?.(identity);
    return reason === undefined ? { kind: 'identity', identity } : { kind: 'refused', reason };
  } catch (error) {
    const reason = error instanceof MeshError ? error.message : 'the certificate cannot be read';
    return { kind: 'refused', reason };
  }
}

/** Whoever a certificate that has ended stood for, if it was in order in its last second. TLS says nothing of that. */
function identifyExpired(chain: readonly X509Certificate[], policy: PeerPolicy): Peer {
  const { meshId, roots } = policy;
  const nowMs = fieldsOf(chain[0] as X509Certificate).notAfterMs;
  const reason = reasonNow(chain, policy);
  try {
    return { kind: 'expired', identity: checkPresented(chain, roots, { meshId, purpose: 'client', nowMs }), reason };
  } catch {
    return { kind: 'refused', reason };
  }
}

function reasonNow(chain: readonly X509Certificate[], { meshId, roots, nowMs }: PeerPolicy): string {
  try {
    checkPresented(chain, roots, { meshId, purpose: 'client', nowMs: nowMs() });
    return 'the certificate has expired';
  } catch (error) {
    return toMeshError(error).message;
  }
}

/**
 * What the peer presented, leaf first: the intermediate too, if it came with it. To be asked once for each socket, because
 * Node gives the intermediate away only once.
 */
export function chainOf(socket: TLSSocket): X509Certificate[] {
  const leaf = socket.getPeerX509Certificate();
  if (!leaf) return [];
  return leaf.issuerCertificate ? [leaf, leaf.issuerCertificate] : [leaf];
}

/** Whether what this authority has issued leads to one of these roots. */
export function leadsTo(issuer: X509Certificate, roots: readonly X509Certificate[], nowMs: number): boolean {
  try {
    checkIssuer(issuer, roots, nowMs);
    return true;
  } catch {
    return false;
  }
}
