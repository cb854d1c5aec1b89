/**
 * How this program proves who it is and makes sure who the other side is. The chain is verified by TLS against the
 * mesh's own root, and the leaf by our profile check: an identity of this mesh, role coordinator, usable as a server.
 * Host names and common names are never read, so a coordinator may be reached under any address.
 */
import type { X509Certificate } from 'node:crypto';
import { createSecureContext, type DetailedPeerCertificate, type PeerCertificate, type SecureContext } from 'node:tls';
import { type ChannelCredentials, type ChannelOptions, credentials } from '@grpc/grpc-js';
import { checkPresented, presentedBy } from '../common/identity/chain.js';
import type { Identity } from '../common/identity/identity.js';
import { type Roots, readRoots } from '../common/identity/roots.js';
import { type Clock, systemClock } from '../common/clock.js';

/** All three are PEM. Another certificate is another object: what is made from one is remembered by it. */
export interface Credential {
  /** Leaf first, then the intermediate. */
  readonly certificateChain: string;
  readonly privateKey: string;
  /** Every root that is trusted: several while the mesh replaces its root by another. */
  readonly root: string;
}

/** What suffices to verify a coordinator without an identity of one's own. */
export type Trust = Pick<Credential, 'root'> & Partial<Credential>;

/**
 * The one server name that is sent. TLS wants one that is no address; nobody reads it, and it tells a listener on the
 * wire nothing about the mesh.
 */
export const SERVER_NAME = 'coordinator';

/** Reading keys and certificates costs more than a handshake does, and an agent dials with the same ones for hours. */
const contexts = new WeakMap<Trust, SecureContext>();
const roots = new WeakMap<Trust, Roots>();

export function secureContextOf(trust: Trust): SecureContext {
  const known = contexts.get(trust);
  if (known) return known;
  const context = createSecureContext({
    ca: trust.root,
    minVersion: 'TLSv1.3',
    ...(trust.certificateChain && trust.privateKey ? { cert: trust.certificateChain, key: trust.privateKey } : {}),
  });
  contexts.set(trust, context);
  return context;
}

/** @throws MeshError BAD_CERTIFICATE when one is not the root of a mesh, or they belong to two */
export function rootsOf(trust: Trust): Roots {
  const known = roots.get(trust);
  if (known) return known;
  const read = readRoots(trust.root);
  roots.set(trust, read);
  return read;
}

/** @throws MeshError BAD_CERTIFICATE unless the chain is a coordinator's of this mesh, valid now */
export const checkCoordinator = (
  chain: readonly X509Certificate[],
  roots: readonly X509Certificate[],
  meshId: string,
  nowMs: number,
): Identity => checkPresented(chain, roots, { meshId, roles: ['coordinator'], purpose: 'server', nowMs });

/** Credentials for a channel to a coordinator of this mesh, whatever its address. */
export function channelCredentials(trust: Trust, meshId: string, clock: Clock = systemClock): ChannelCredentials {
  const roots = rootsOf(trust).certificates;
  return credentials.createFromSecureContext(secureContextOf(trust), {
    checkServerIdentity: (_host: string, certificate: PeerCertificate) => {
      try {
        // Node hands over the whole chain here, whatever its type declares.
        checkCoordinator(presentedBy(certificate as DetailedPeerCertificate), roots, meshId, clock.wallMs());
        return undefined;
      } catch (error) {
        return error as Error;
      }
    },
  });
}

/** The largest gRPC message either side takes, in bytes. What is larger travels in pieces. */
export const MESSAGE_BYTES_MAX = 8 * 1024 * 1024;

/**
 * Each channel has a connection of its own, so bulk bytes never share one with heartbeats. A dead peer is noticed within
 * 15 s, with or without a call under way. Proxies from the environment are for the web, not for machines on a LAN.
 */
export const channelOptions: ChannelOptions = {
  'grpc.ssl_target_name_override': SERVER_NAME,
  'grpc.default_authority': SERVER_NAME,
  'grpc.keepalive_time_ms': 10_000,
  'grpc.keepalive_timeout_ms': 5000,
  'grpc.keepalive_permit_without_calls': 1,
  'grpc.max_receive_message_length': MESSAGE_BYTES_MAX,
  'grpc.max_send_message_length': MESSAGE_BYTES_MAX,
  'grpc.initial_reconnect_backoff_ms': 200,
  'grpc.max_reconnect_backoff_ms': 4000,
  'grpc.use_local_subchannel_pool': 1,
  'grpc.enable_http_proxy': 0,
  'grpc.enable_retries': 0,
  'grpc.service_config_disable_resolution': 1,
  'grpc.enable_channelz': 0,
};
