/**
 * The one listener: TCP, then TLS 1.3, then a judgement of who came, then gRPC or HTTP.
 *
 * A peer that offers only `h2` is handed to grpc-js, one that offers `http/1.1` or nothing to the HTTP server. Both get
 * plain connections; TLS stays here, so certificates are swapped live, a revoked identity's sockets are cut at once, and
 * every bound on strangers is in one place (limits.ts). grpc-js sets its bounds per server, so there are two servers with
 * the same services: one for identities, one with tight bounds for everybody else.
 *
 * The certificate is judged once, when the handshake ends (peer.ts); whether it was revoked or expired since is asked on
 * every call, by whoever handles it. Sessions cannot be resumed, so every connection is judged.
 *
 * Connections are known by their four-tuple, which is unique among the living. Errors on sockets end that connection and
 * nothing else.
 */
import { constants, type X509Certificate } from 'node:crypto';
import type { Server as HttpServer } from 'node:http';
import { createServer, type Server as NetServer, type Socket } from 'node:net';
import {
  createServer as createTlsServer,
  type PeerCertificate,
  type Server as TlsServer,
  type TLSSocket,
} from 'node:tls';
import { type ConnectionInjector, Server, ServerCredentials } from '@grpc/grpc-js';
import { type Clock, pause, type Timer } from '../../common/clock.js';
import { systemCode } from '../../common/errors.js';
import { chainFromPem } from '../../common/identity/chain.js';
import { fingerprintOf } from '../../common/identity/check.js';
import type { Identity } from '../../common/identity/identity.js';
import type { Service } from '../../common/lifecycle.js';
import type { Logger } from '../../common/log.js';
import { RecentSet } from '../../common/recent-set.js';
import type { Credential } from '../../link/credentials.js';
import { Census, type Kind } from './census.js';
import { listenError } from './listen.js';
import { type DoorLimits, NOBODY_MESSAGE_BYTES_MAX, NOBODY_SESSION_MEMORY_MB, NOBODY_STREAMS_MAX } from './limits.js';
import { chainOf, identify, leadsTo, NOBODY, type Peer, plainAddress } from './peer.js';
import { RefusalLog } from './refusal-log.js';

export interface DoorOptions {
  meshId: string;
  credential: Credential;
  clock: Clock;
  log: Logger;
  /** Adds the services to a gRPC server; called for the one of identities and the one of everybody else. */
  register: (server: Server) => void;
  /** Answers HTTP requests; it need not and must not listen itself. */
  http: HttpServer;
  /** 0 picks a free one. */
  port: number;
  /** An address of this machine; all of them, IPv4 and IPv6, when absent. */
  host?: string | undefined;
  limits: DoorLimits;
  /** How long calls that are under way get to end when the door closes; two seconds when absent. */
  drainMs?: number;
  /** A reason to refuse an identity at the door, such as its revocation. */
  refuse?: (identity: Identity) => string | undefined;
}

/** What is asked of a gRPC call to know its peer; every server call of grpc-js has it. */
export interface CallLike {
  getPeer(): string;
  getAuthContext(): { sslPeerCertificate?: PeerCertificate } | null;
}

const DRAIN_MS = 2000;
const NO_BYTES = Buffer.alloc(0);
/** More than a mesh has at a time, a rotation of several coordinators included. */
const ISSUERS_MAX = 32;

interface Connection {
  raw: Socket;
  tls: TLSSocket | undefined;
  address: string;
  kind: Kind;
  peer: Peer;
  /** Of an identity: who issued its certificate. */
  issuer: X509Certificate | undefined;
  timer: Timer;
}

export class Door implements Service {
  readonly name = 'door';
  readonly #options: DoorOptions;
  readonly #limits: DoorLimits;
  readonly #census: Census;
  readonly #refusals: RefusalLog;
  readonly #listener: NetServer;
  readonly #tls: TlsServer;
  readonly #grpc: Record<'identity' | 'nobody', { server: Server; injector: ConnectionInjector }>;
  readonly #connections = new Map<string, Connection>();
  readonly #peerOfSocket = new WeakMap<object, Peer>();
  readonly #peerOfCertificate = new WeakMap<object, Peer>();
  /** Refused peers by what `getPeer` prints, to tell them why. It grants nothing. */
  readonly #refusedPeers = new Map<string, Peer>();
  readonly #issuers = new RecentSet<string, X509Certificate>(ISSUERS_MAX);
  #roots: readonly X509Certificate[];
  #stopping: Promise<void> | undefined;
  #emptied: (() => void) | undefined;

  constructor(options: DoorOptions) {
    this.#options = options;
    this.#limits = options.limits;
    this.#census = new Census(this.#limits, options.clock);
    this.#refusals = new RefusalLog(options.log, options.clock);
    const limits = this.#limits;
    this.#grpc = {
      identity: this.#makeGrpc(limits.streamsMax, limits.messageBytesMax, limits.sessionMemoryMb),
      nobody: this.#makeGrpc(NOBODY_STREAMS_MAX, NOBODY_MESSAGE_BYTES_MAX, NOBODY_SESSION_MEMORY_MB),
    };
    this.#roots = chainFromPem(options.credential.root);
    this.#tls = createTlsServer({
      ...contextOf(options.credential),
      requestCert: true,
      rejectUnauthorized: false,
      // Idle time; the deadline proper is our own.
      handshakeTimeout: limits.handshakeMs * 2,
      ALPNCallback: ({ protocols }) =>
        protocols.includes('http/1.1') ? 'http/1.1' : protocols.find((p) => p === 'h2'),
    });
    this.#tls.on('secureConnection', (socket) => this.#welcome(socket));
    this.#tls.on('tlsClientError', (error, socket) => {
      this.#refusals.refused('door.handshake_failed', addressOf(socket), systemCode(error) ?? error.message);
      socket.destroy();
    });
    this.#listener = createServer({ noDelay: true }, (socket) => this.#accept(socket));
  }

  /** The port it listens on; 0 before it does. */
  get port(): number {
    const bound = this.#listener.address();
    return typeof bound === 'object' && bound !== null ? bound.port : 0;
  }

  /** Connections now, in all. */
  get connectionCount(): number {
    return this.#census.total;
  }

  /** @throws MeshError IN_USE or USAGE when it cannot listen there */
  async start(): Promise<void> {
    const { host, port, http, log } = this.#options;
    await new Promise<void>((resolve, reject) => {
      this.#listener.once('error', (error) => reject(listenError(error, host, port)));
      // Whoever finds the queue full is asked by its own kernel to come again, one second later, then two, then four.
      const backlog = this.#limits.connectionsMax;
      this.#listener.listen({ port, backlog, ...(host === undefined ? {} : { host }) }, resolve);
    });
    this.#listener.removeAllListeners('error');
    this.#listener.on('error', (error) => log.error({ event: 'door.listen_failed', err: error }));
    // An HTTP server that does not listen itself starts its header and request timeouts on this event.
    http.emit('listening');
    log.info({ event: 'door.open', port: this.port });
  }

  stop(): Promise<void> {
    this.#stopping ??= this.#close();
    return this.#stopping;
  }

  /**
   * The peer of a gRPC call, or of the socket of an HTTP request. For a connection that is gone it is nobody.
   *
   * grpc-js hands out what `getPeerCertificate` of our own socket returned, and that is an empty object made for this
   * connection: nothing a peer sends can name another's.
   */
  peerOf(source: CallLike | Socket): Peer {
    if (!('getAuthContext' in source)) return this.#peerOfSocket.get(source) ?? NOBODY;
    try {
      const certificate = source.getAuthContext()?.sslPeerCertificate;
      const known = certificate && this.#peerOfCertificate.get(certificate);
      return known ?? this.#refusedPeers.get(source.getPeer()) ?? NOBODY;
    } catch {
      // The HTTP/2 session has let go of its socket: the connection is closed.
      return NOBODY;
    }
  }

  /**
   * New connections are shown this certificate, and held against its roots. Those that are open stay, unless they were
   * let in by a root that is trusted no more.
   */
  swapCertificate(credential: Credential): void {
    const before = this.#roots;
    this.#tls.setSecureContext(contextOf(credential));
    this.#roots = chainFromPem(credential.root);
    if (before.every((root) => this.#roots.some((kept) => kept.raw.equals(root.raw)))) return;
    const nowMs = this.#options.clock.wallMs();
    for (const { peer, tls, issuer } of this.#connections.values())
      if (peer.kind === 'identity' && !(issuer && leadsTo(issuer, this.#roots, nowMs))) tls?.destroy();
  }

  /** Cuts every connection whose identity the predicate names; returns how many. */
  destroyWhere(predicate: (identity: Identity) => boolean): number {
    let cut = 0;
    for (const { peer, raw, tls } of this.#connections.values()) {
      if (peer.kind !== 'identity' || !predicate(peer.identity)) continue;
      cut++;
      (tls ?? raw).destroy();
    }
    return cut;
  }

  #makeGrpc(streams: number, messageBytes: number, memoryMb: number): { server: Server; injector: ConnectionInjector } {
    const server = new Server({
      'grpc.max_concurrent_streams': streams,
      'grpc.max_receive_message_length': messageBytes,
      'grpc.max_send_message_length': this.#limits.messageBytesMax,
      'grpc-node.max_session_memory': memoryMb,
      // Only so that a peer that has vanished gives up its place some time: agents are missed by their heartbeats.
      'grpc.keepalive_time_ms': 60_000,
      'grpc.keepalive_timeout_ms': 10_000,
      // Statistics of every call and connection, for a service that is not offered.
      'grpc.enable_channelz': 0,
    });
    this.#options.register(server);
    return { server, injector: server.createConnectionInjector(ServerCredentials.createInsecure()) };
  }

  #accept(raw: Socket): void {
    raw.on('error', () => raw.destroy());
    const address = addressOf(raw);
    const key = tupleOf(raw);
    const problem = address === '' || this.#stopping ? 'closed' : this.#census.admit(address);
    if (problem !== undefined) {
      if (problem !== 'closed') this.#refusals.refused('door.crowded', address, problem);
      raw.destroy();
      return;
    }
    const timer = this.#options.clock.after(this.#limits.handshakeMs, () => raw.destroy(), { background: true });
    this.#connections.set(key, {
      raw,
      tls: undefined,
      address,
      kind: 'handshake',
      peer: NOBODY,
      issuer: undefined,
      timer,
    });
    raw.once('close', () => this.#forget(key));
    this.#tls.emit('connection', raw);
  }

  #forget(key: string): void {
    const connection = this.#connections.get(key);
    if (!connection) return;
    connection.timer.cancel();
    this.#connections.delete(key);
    this.#census.leave(connection.address, connection.kind, nameOf(connection.peer));
    this.#refusedPeers.delete(peerNameOf(key));
    if (this.#connections.size === 0) this.#emptied?.();
  }

  /** The handshake is over: who is it, may it stay, and where does it go? */
  #welcome(socket: TLSSocket): void {
    socket.on('error', () => socket.destroy());
    const key = tupleOf(socket);
    const connection = this.#connections.get(key);
    if (!connection) {
      socket.destroy();
      return;
    }
    const { meshId, clock, refuse } = this.#options;
    const chain = chainOf(socket);
    const peer = identify(socket, chain, { meshId, roots: this.#roots, nowMs: () => clock.wallMs(), refuse });
    const kind = peer.kind === 'identity' ? 'identity' : 'nobody';
    if (peer.kind === 'refused' || peer.kind === 'expired')
      this.#refusals.refused('door.refused', connection.address, peer.reason);
    const problem = this.#census.become(connection.address, kind, nameOf(peer));
    if (problem !== undefined) {
      this.#refusals.refused('door.crowded', connection.address, problem);
      socket.destroy();
      return;
    }
    connection.timer.cancel();
    if (kind === 'nobody')
      connection.timer = clock.after(this.#limits.nobodyLifeMs, () => socket.destroy(), { background: true });
    Object.assign(connection, {
      tls: socket,
      kind,
      peer,
      issuer: peer.kind === 'identity' ? this.#shared(chain[1]) : undefined,
    });
    this.#remember(socket, key, peer);
    if (socket.alpnProtocol === 'h2') this.#grpc[kind].injector.injectConnection(socket);
    else this.#options.http.emit('connection', socket);
  }

  /** The same certificate is one object, however many connections show it. */
  #shared(issuer: X509Certificate | undefined): X509Certificate | undefined {
    if (!issuer) return undefined;
    const digest = fingerprintOf(issuer);
    const known = this.#issuers.touch(digest) ?? issuer;
    this.#issuers.put(digest, known);
    return known;
  }

  #remember(socket: TLSSocket, key: string, peer: Peer): void {
    this.#peerOfSocket.set(socket, peer);
    if (peer.kind === 'refused') this.#refusedPeers.set(peerNameOf(key), peer);
    if (peer.kind !== 'identity' && peer.kind !== 'expired') return;
    // grpc-js names the certificate of a socket that is authorized and shows one with bytes, however few, and of no other.
    // What this peer may do, its kind says.
    socket.authorized = true;
    const certificate = { raw: NO_BYTES } as PeerCertificate;
    this.#peerOfCertificate.set(certificate, peer);
    socket.getPeerCertificate = (() => certificate) as TLSSocket['getPeerCertificate'];
  }

  async #close(): Promise<void> {
    const { clock, http } = this.#options;
    this.#listener.close();
    http.closeIdleConnections();
    for (const { raw, kind } of this.#connections.values()) if (kind === 'handshake') raw.destroy();
    const servers = Object.values(this.#grpc).map(({ server }) => server);
    const empty = new Promise<void>((resolve) => {
      this.#emptied = resolve;
      if (this.#connections.size === 0) resolve();
    });
    const drained = new AbortController();
    void Promise.all([empty, ...servers.map(shutDown)]).then(() => drained.abort());
    await pause(clock, this.#options.drainMs ?? DRAIN_MS, drained.signal);
    for (const { raw, tls } of this.#connections.values()) (tls ?? raw).destroy();
    for (const server of servers) server.forceShutdown();
    // Ends the timeouts that `listening` started; it says that it was not running, which is true.
    http.close(() => undefined);
    this.#tls.close(() => undefined);
    await empty;
  }
}

const shutDown = (server: Server): Promise<void> => new Promise((resolve) => server.tryShutdown(() => resolve()));

/**
 * The chain goes out with its root at its end, so that a machine which knows nothing but the root's digest can find it.
 * No tickets: with none and without a session store no TLS 1.3 session can be resumed.
 */
function contextOf({ certificateChain, privateKey, root }: Credential) {
  return {
    cert: `${certificateChain.trimEnd()}\n${chainFromPem(root)[0]?.toString() ?? ''}`,
    key: privateKey,
    ca: root,
    minVersion: 'TLSv1.3',
    secureOptions: constants.SSL_OP_NO_TICKET,
  } as const;
}

/** '' when the peer is already gone. */
const addressOf = (socket: Socket): string => plainAddress(socket.remoteAddress ?? '');

const nameOf = (peer: Peer): string => (peer.kind === 'identity' ? `${peer.identity.role}/${peer.identity.name}` : '');

/** Remote end first, as `getPeer` of grpc-js prints it. */
const tupleOf = (socket: Socket): string =>
  `${socket.remoteAddress}:${socket.remotePort} ${socket.localAddress}:${socket.localPort}`;

const peerNameOf = (tuple: string): string => tuple.slice(0, tuple.indexOf(' '));
