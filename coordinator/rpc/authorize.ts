/**
 * The gate in front of every RPC. It finds out who called (the door fixed that when the connection was made), asks
 * whether the identity still holds, looks the method up in the table of roles, and only then lets the handler run.
 * Whatever a handler throws becomes one status with a code and a hint.
 */
import { Metadata } from '@grpc/grpc-js';
import type {
  handleBidiStreamingCall,
  handleClientStreamingCall,
  handleServerStreamingCall,
  handleUnaryCall,
  ServerDuplexStream,
  ServerReadableStream,
  ServerUnaryCall,
  ServerWritableStream,
  UntypedServiceImplementation,
} from '@grpc/grpc-js';
import { MeshError, toMeshError } from '../../common/errors.js';
import { askForRenewal, nameCoordinators, toCallError, toStatus } from '../../common/grpc-errors.js';
import type { Identity } from '../../common/identity/identity.js';
import type { Logger } from '../../common/log.js';
import { Outgoing } from '../../common/outgoing.js';
import type { CallLike } from '../door/door.js';
import { type Peer, plainAddress } from '../door/peer.js';
import { actorOf, type Audit } from '../services/audit.js';
import type { Denylist } from '../services/denylist.js';
import type { Throttle } from '../services/throttle.js';
import { type NumberedRequest, type NumberedResponse, serveManyCalls } from './many-calls.js';
import { type Caller, METHOD_ROLES } from './roles.js';

/** What a handler knows of its caller. */
export interface CallContext {
  /** Never absent, except for methods that admit nobody; of role `expired`, who the peer was. */
  readonly identity: Identity | undefined;
  readonly role: Caller;
  readonly address: string;
}

/** What a call that is part of another failed with. */
export type CallFailure = ReturnType<typeof toCallError>;

export interface GateOptions {
  peerOf: (call: CallLike) => Peer;
  denylist: Denylist;
  /** Hears of every call that is refused here. */
  audit: Pick<Audit, 'tally'>;
  throttle: Throttle;
  log: Logger;
  /** Where the mesh may be reached, for people who would otherwise know one coordinator of several; empty for one. */
  coordinators?: () => readonly string[];
  /** For which step of a rotation the holder of a certificate is to renew it; 0 for none. */
  renewalWanted?: (serial: string) => number;
}

export class Gate {
  constructor(private readonly options: GateOptions) {}

  /** Counts as one request. @throws MeshError OVERLOADED, UNAUTHENTICATED, EXPIRED, REVOKED or DENIED */
  admit(path: string, call: CallLike): CallContext {
    const address = plainAddress(call.getPeer().replace(/:\d+$/, ''));
    const peer = this.options.peerOf(call);
    const identity = peer.kind === 'identity' || peer.kind === 'expired' ? peer.identity : undefined;
    // First, and not logged one by one: whoever is refused below is refused no faster than others are served.
    this.options.throttle.request(peer.kind === 'identity' ? identity : undefined, address);
    const role = peer.kind === 'expired' ? peer.kind : (identity?.role ?? 'nobody');
    const context: CallContext = { identity, role, address };
    try {
      if (peer.kind === 'refused') throw new MeshError('UNAUTHENTICATED', peer.reason);
      if (peer.kind === 'expired' && !mayCall(path, role)) throw new MeshError('EXPIRED', peer.reason);
      if (peer.kind === 'identity') this.options.denylist.check(peer.identity);
      requireRole(path, context);
    } catch (error) {
      const { code, message: why } = toMeshError(error);
      const actor = actorOf(context);
      this.options.log.warn({ event: 'rpc.denied', method: path, caller: actor.name, address, code, why });
      this.options.audit.tally(actor, 'call.denied', path, { code, why });
      throw error;
    }
    return context;
  }

  report(path: string, error: unknown): ReturnType<typeof toStatus> {
    return toStatus(this.#known(path, error));
  }

  /** The same for a part of a call, of which the rest may succeed. */
  reportPart(path: string, error: unknown): CallFailure {
    return toCallError(this.#known(path, error));
  }

  /** One more request of a caller who was admitted, made by the same call. @throws MeshError OVERLOADED */
  again({ identity, address }: CallContext): void {
    this.options.throttle.request(identity, address);
  }

  #known(path: string, error: unknown): MeshError {
    const known = toMeshError(error);
    if (known.code === 'INTERNAL') this.options.log.error({ event: 'rpc.failed', method: path, err: error });
    return known;
  }

  unary<Request, Response>(
    path: string,
    handle: (request: Request, context: CallContext) => Promise<Response>,
  ): handleUnaryCall<Request, Response> {
    return (call: ServerUnaryCall<Request, Response>, callback) => {
      this.#run(path, call, async (context) => {
        this.#tellNews(call, context);
        return handle(call.request, context);
      }).then(
        (response) => callback(null, response),
        (error: unknown) => callback(this.report(path, error)),
      );
    };
  }

  /**
   * The handler yields batches; the stream waits for the client's flow control and ends when the client is gone.
   * @param bytesOf what a batch holds, where that may be much
   */
  serverStream<Request, Response>(
    path: string,
    handle: (request: Request, context: CallContext, gone: AbortSignal) => AsyncIterable<Response>,
    bytesOf: (response: Response) => number = () => 0,
  ): handleServerStreamingCall<Request, Response> {
    return (call: ServerWritableStream<Request, Response>) => {
      const outgoing = new Outgoing<Response>(call);
      const gone = new AbortController();
      gone.signal.addEventListener('abort', () => outgoing.release());
      call.on('cancelled', () => gone.abort());
      call.on('error', () => gone.abort());
      this.#run(path, call, async (context) => {
        for await (const message of handle(call.request, context, gone.signal)) {
          if (gone.signal.aborted) return;
          outgoing.write(message, bytesOf(message));
          if (outgoing.full && !gone.signal.aborted) await outgoing.room();
        }
      }).then(
        () => call.end(),
        (error: unknown) => call.emit('error', this.report(path, error)),
      );
    };
  }

  clientStream<Request, Response>(
    path: string,
    handle: (requests: AsyncIterable<Request>, context: CallContext) => Promise<Response>,
  ): handleClientStreamingCall<Request, Response> {
    return (call: ServerReadableStream<Request, Response>, callback) => {
      this.#run(path, call, (context) => handle(toTheEnd(call), context)).then(
        (response) => callback(null, response),
        (error: unknown) => callback(this.report(path, error)),
      );
    };
  }

  duplex<Request, Response>(
    path: string,
    handle: (call: ServerDuplexStream<Request, Response>, context: CallContext) => Promise<void>,
  ): handleBidiStreamingCall<Request, Response> {
    return (call: ServerDuplexStream<Request, Response>) => {
      this.#run(path, call, (context) => handle(call, context)).catch((error: unknown) => {
        call.emit('error', this.report(path, error));
      });
    };
  }

  /** One stream of the method `path` for many calls of another, each of which is judged as if it had been made by itself. */
  manyCalls<Request, Response>(
    path: string,
    each: {
      path: string;
      handle: (request: Request, context: CallContext, gone: AbortSignal) => AsyncIterable<Response>;
      /** Aborts when no stream may be open any more. @throws MeshError when none may be opened */
      ended: () => AbortSignal;
    },
  ): handleBidiStreamingCall<NumberedRequest<Request>, NumberedResponse<Response, CallFailure>> {
    return this.duplex(path, async (call) => {
      await serveManyCalls(call, {
        run: (body) => this.#run(each.path, call, body),
        handle: each.handle,
        toFailure: (error) => this.reportPart(each.path, error),
        ended: each.ended(),
      });
      call.end();
    });
  }

  /** With the headers, which are sent anyway. */
  #tellNews(call: ServerUnaryCall<unknown, unknown>, { identity, role }: CallContext): void {
    if (!identity || ['expired', 'agent'].includes(role)) return;
    const coordinators = this.options.coordinators?.() ?? [];
    const renewal = this.options.renewalWanted?.(identity.serial) ?? 0;
    if (coordinators.length === 0 && renewal === 0) return;
    call.sendMetadata(askForRenewal(nameCoordinators(new Metadata(), coordinators), renewal));
  }

  /** The call, from its admission to its end. */
  async #run<T>(path: string, call: CallLike, body: (context: CallContext) => Promise<T>): Promise<T> {
    const context = this.admit(path, call);
    const end = this.options.throttle.call(context.identity);
    try {
      return await body(context);
    } finally {
      end();
    }
  }
}

const mayCall = (path: string, role: Caller): boolean =>
  Object.hasOwn(METHOD_ROLES, path) && METHOD_ROLES[path]?.includes(role) === true;

/** @throws MeshError DENIED, or UNAUTHENTICATED for who has no identity */
function requireRole(path: string, { identity, role }: CallContext): void {
  if (mayCall(path, role)) return;
  const who = identity ? `${role}/${identity.name}` : 'a peer without a certificate';
  throw new MeshError(identity ? 'DENIED' : 'UNAUTHENTICATED', `${who} may not call ${path}`);
}

/**
 * What the client sends, to the end that it means. A call that is broken off ends its messages just as a complete one
 * does, and says so a moment later: half a submission must not pass for a whole one.
 */
async function* toTheEnd<Request>(call: ServerReadableStream<Request, unknown>): AsyncGenerator<Request> {
  const broken = (cause?: unknown) =>
    new MeshError('INTERRUPTED', 'the client broke off before it was done', { cause });
  try {
    yield* call as AsyncIterable<Request>;
  } catch (error) {
    // A message that does not decode closes the stream; what it held is none of our errors.
    throw broken(error);
  }
  await new Promise((resolve) => setImmediate(resolve));
  if (call.cancelled) throw broken();
}

/** Every method a service has must be in the table; checked when the server is put together. */
export function assertCovered(
  definition: Record<string, { path: string }>,
  implementation: UntypedServiceImplementation,
): void {
  for (const [name, method] of Object.entries(definition)) {
    if (!METHOD_ROLES[method.path]) throw new Error(`${method.path} is not in the table of roles`);
    if (!implementation[name]) throw new Error(`${method.path} has no handler`);
  }
}
