import type { X509Certificate } from 'node:crypto';
import type { TLSSocket } from 'node:tls';
import { MeshError } from '../../common/errors.js';
import { checkPresented, presentedBy } from '../../common/identity/chain.js';
import type { Identity } from '../../common/identity/identity.js';

/**
 * Who is at the other end, decided once per connection. `refused` came with a certificate that will not do: it may do
 * what nobody may, and is told the reason when it asks for more.
 */
export type Peer = { kind: 'identity'; identity: Identity } | { kind: 'nobody' } | { kind: 'refused'; reason: string };

export const NOBODY: Peer = { kind: 'nobody' };

/** IPv4 addresses look the same whether or not the listener is dual-stack. */
export const plainAddress = (address: string): string => address.replace(/^::ffff:(?=\d+\.)/i, '');

export interface PeerPolicy {
  meshId: string;
  roots: readonly X509Certificate[];
  nowMs: () => number;
  /** A reason to refuse an identity that is otherwise in order, such as its revocation. */
  refuse?: ((identity: Identity) => string | undefined) | undefined;
}

/** Judges the chain of a finished handshake. What OpenSSL made of it is asked last: our own reasons can be read. */
export function identify(socket: TLSSocket, policy: PeerPolicy): Peer {
  try {
    const chain = presentedBy(socket.getPeerCertificate(true));
    if (chain.length === 0) return NOBODY;
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
