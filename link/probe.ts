/**
 * A first look at a candidate: who answers there? It presents no certificate and sends no application byte, so a rogue
 * learns nothing from it. Node's own verification is switched off here and done by hand, because only so the presented
 * certificate can be named in the reason; the channel that is opened afterwards verifies everything again.
 */
import type { X509Certificate } from 'node:crypto';
import { connect as connectTcp } from 'node:net';
import { connect as startTls, createSecureContext, type SecureContext, type TLSSocket } from 'node:tls';
import { MeshError, systemCode } from '../common/errors.js';
import { presentedOn } from '../common/identity/chain.js';
import type { Identity } from '../common/identity/identity.js';
import { checkCoordinator, SERVER_NAME } from './credentials.js';
import type { Endpoint } from './endpoints.js';

/** Thrown for an endpoint that is no coordinator of this mesh; the message continues a sentence that names it. */
export class Refused extends Error {
  override name = 'Refused';
}

/** It answered, and showed that it is not of this mesh. */
export class Impostor extends Refused {
  override name = 'Impostor';
}

/**
 * The certificates a server presents, leaf first.
 * @throws Refused, or the error of the connection
 */
export async function presentedChain(
  endpoint: Endpoint,
  signal: AbortSignal,
  reached?: () => void,
): Promise<X509Certificate[]> {
  const socket = await handshake(endpoint, signal, reached);
  try {
    const chain = presentedOn(socket);
    if (chain.length === 0) throw new Impostor('presents no certificate');
    return chain;
  } finally {
    leave(socket);
  }
}

const LEAVE_MS_MAX = 1000;

/** Ends the handshake and the connection in good order, so that an honest coordinator sees a visit and not a fault. */
function leave(socket: TLSSocket): void {
  socket.setTimeout(LEAVE_MS_MAX, () => socket.destroy());
  socket.resume();
  socket.end();
}

/** Made once: it holds nothing but the version, and making one costs more than the handshake. */
let anonymous: SecureContext | undefined;

/** TLS begins when somebody is there: where nobody listens, nothing is made ready for it. */
function handshake({ host, port }: Endpoint, signal: AbortSignal, reached?: () => void): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(new Refused('was not asked in time'));
    const raw = connectTcp({ host, port, noDelay: true });
    let socket: TLSSocket | undefined;
    const settle = (act: () => void) => {
      signal.removeEventListener('abort', abort);
      act();
    };
    const abort = () => {
      (socket ?? raw).destroy();
      settle(() => reject(new Refused('did not answer')));
    };
    const fail = (error: Error) => settle(() => reject(error));
    const closed = () => fail(new Refused('closed the connection'));
    signal.addEventListener('abort', abort, { once: true });
    raw.on('error', fail);
    raw.once('close', closed);
    raw.once('connect', () => {
      reached?.();
      socket = startTls({
        socket: raw,
        servername: SERVER_NAME,
        ALPNProtocols: ['h2'],
        secureContext: (anonymous ??= createSecureContext({ minVersion: 'TLSv1.3' })),
        rejectUnauthorized: false,
      });
      const secured = socket;
      secured.once('secureConnect', () => settle(() => resolve(secured)));
      secured.on('error', fail);
      secured.once('close', closed);
    });
  });
}

/**
 * That a coordinator of the mesh answers, one whose chain leads to one of these very roots.
 * @throws Refused, MeshError BAD_CERTIFICATE, or the error of the connection
 */
export async function probeCoordinator(
  endpoint: Endpoint,
  expected: { roots: readonly X509Certificate[]; meshId: string },
  nowMs: number,
  signal: AbortSignal,
  reached?: () => void,
): Promise<Identity> {
  const chain = await presentedChain(endpoint, signal, reached);
  return verifyCoordinator(chain, expected.roots, expected.meshId, nowMs);
}

/** @throws Refused when another root signed it, MeshError BAD_CERTIFICATE when it does not fit otherwise */
export function verifyCoordinator(
  chain: readonly X509Certificate[],
  roots: readonly X509Certificate[],
  meshId: string,
  nowMs: number,
): Identity {
  const last = chain.at(-1) as X509Certificate;
  const ours = roots.some((root) => last.raw.equals(root.raw) || last.verify(root.publicKey));
  if (!ours) throw new Impostor('belongs to another mesh');
  return checkCoordinator(chain, roots, meshId, nowMs);
}

const PHRASES: Record<string, string> = {
  ECONNREFUSED: 'refuses connections: nothing listens there',
  EHOSTUNREACH: 'cannot be reached from here',
  ENETUNREACH: 'cannot be reached from here',
  EHOSTDOWN: 'cannot be reached from here',
  ETIMEDOUT: 'did not answer',
  ENOTFOUND: 'is a name that nobody knows',
  EAI_AGAIN: 'is a name that cannot be looked up now',
  ECONNRESET: 'closed the connection',
  EPIPE: 'closed the connection',
};

/** Why an endpoint was of no use, as the rest of a sentence that begins with its address. */
export function reasonOf(error: unknown): string {
  if (error instanceof Refused) return error.message;
  if (error instanceof MeshError) return `was refused (${error.message})`;
  const code = systemCode(error) ?? firstCode(error);
  const phrase = code === undefined ? undefined : PHRASES[code];
  if (phrase) return phrase;
  if (code?.startsWith('ERR_SSL') || code === 'EPROTO') return 'does not speak TLS 1.3 as a coordinator does';
  return `failed (${code ?? (error instanceof Error ? error.message : String(error))})`;
}

/** A name with several addresses fails with all of their errors at once. */
const firstCode = (error: unknown): string | undefined =>
  error instanceof AggregateError ? systemCode(error.errors[0]) : undefined;
