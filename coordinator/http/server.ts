/**
 * HTTPS on the same port: health for load balancers, metrics for Prometheus, the revocation list for whoever verifies. The door terminates TLS and hands plain
 * connections over; who called is known from the socket.
 */
import { createServer, type Server } from 'node:http';
import type { Socket } from 'node:net';
import Fastify, { type FastifyError, type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import { toMeshError } from '../../common/errors.js';
import type { Logger } from '../../common/log.js';
import { type Peer, plainAddress } from '../door/peer.js';
import { type Caller, PATH_ROLES } from '../rpc/roles.js';
import { actorOf, type Audit } from '../services/audit.js';
import type { Denylist } from '../services/denylist.js';
import type { Metrics } from '../services/metrics.js';
import { type Throttle, Throttled } from '../services/throttle.js';

export interface HttpOptions {
  peerOf: (socket: Socket) => Peer;
  denylist: Denylist;
  audit: Pick<Audit, 'tally'>;
  throttle: Throttle;
  metrics: Metrics;
  /** The present revocation list, DER. */
  crl: () => Promise<Buffer>;
  log: Logger;
  /** What keeps this coordinator from serving, or undefined when it leads and the database answers. */
  notReady: () => Promise<string | undefined>;
}

export interface HttpSurface {
  server: Server;
  app: FastifyInstance;
}

/** Of a connection on which nothing moves. */
const SILENCE_MS_MAX = 60_000;

export async function makeHttp(options: HttpOptions): Promise<HttpSurface> {
  const server = createServer({
    ...{ headersTimeout: 10_000, requestTimeout: 30_000, keepAliveTimeout: 30_000 },
    connectionsCheckingInterval: 5000,
  });
  // Also of a peer that asked and does not read the answer.
  server.setTimeout(SILENCE_MS_MAX);
  const app = Fastify({
    serverFactory: (handler) => server.on('request', handler),
    bodyLimit: 64 * 1024,
    forceCloseConnections: true,
  });
  app.addHook('onRequest', async (request, reply) => admit(options, request, reply));
  app.setNotFoundHandler((request, reply) => problem(reply, 404, 'not found', `there is nothing at ${request.url}`));
  app.setErrorHandler((error: Partial<FastifyError>, request, reply) => {
    // The framework's own refusals, such as a body that is too large or of no known type.
    if (error.statusCode !== undefined && error.statusCode < 500)
      return problem(reply, error.statusCode, 'refused', error.message ?? 'the request is malformed');
    options.log.error({ event: 'http.failed', path: request.url, err: error });
    return problem(reply, 500, 'internal error', 'the coordinator log says more');
  });
  app.get('/healthz', async () => ({ status: 'ok' }));
  app.get('/readyz', async (_, reply) => {
    const reason = await options.notReady();
    return reason === undefined ? { status: 'ready' } : problem(reply, 503, 'not ready', reason);
  });
  app.get('/crl', async (_, reply) => {
    reply.type('application/pkix-crl');
    return options.crl();
  });
  app.get('/metrics', async (_, reply) => {
    reply.type(options.metrics.registry.contentType);
    return options.metrics.registry.metrics();
  });
  await app.ready();
  return { server, app };
}

async function admit(options: HttpOptions, request: FastifyRequest, reply: FastifyReply): Promise<void> {
  const peer = options.peerOf(request.socket);
  const identity = peer.kind === 'identity' ? peer.identity : undefined;
  const address = plainAddress(request.socket.remoteAddress ?? '');
  try {
    options.throttle.request(identity, address);
  } catch (error) {
    if (error instanceof Throttled) void reply.header('retry-after', Math.ceil(error.retryMs / 1000));
    return problem(reply, 429, 'too many requests', toMeshError(error).message);
  }
  const path = request.routeOptions.url ?? '';
  const allowed = PATH_ROLES[path];
  if (allowed === 'anyone' || allowed === undefined) return;
  const refusal = refusalOf(options, peer, allowed, path);
  if (!refusal) return;
  const actor = actorOf({ identity, address });
  const { status, title, detail } = refusal;
  options.log.warn({ event: 'http.denied', path, caller: actor.name, address: actor.address, why: detail });
  options.audit.tally(actor, 'call.denied', path, { why: detail });
  return problem(reply, status, title, detail);
}

function refusalOf(
  { denylist }: HttpOptions,
  peer: Peer,
  allowed: readonly Caller[],
  path: string,
): { status: 401 | 403; title: string; detail: string } | undefined {
  if (peer.kind === 'refused' || peer.kind === 'expired') return { status: 401, title: peer.kind, detail: peer.reason };
  const role: Caller = peer.kind === 'identity' ? peer.identity.role : 'nobody';
  try {
    if (peer.kind === 'identity') denylist.check(peer.identity);
  } catch (error) {
    return { status: 401, title: 'refused', detail: toMeshError(error).message };
  }
  if (allowed.includes(role)) return undefined;
  if (role === 'nobody')
    return { status: 401, title: 'no certificate', detail: 'this path needs a client certificate' };
  return { status: 403, title: 'denied', detail: `the role ${role} may not read ${path}` };
}

/** RFC 9457 problem details. */
function problem(reply: FastifyReply, status: number, title: string, detail: string): void {
  void reply
    .code(status)
    .type('application/problem+json')
    .send(JSON.stringify({ type: 'about:blank', title, status, detail }));
}
