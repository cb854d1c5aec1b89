/**
 * Promises and async iterables over the generated gRPC services. The method table of the service decides the shape:
 * unary calls become promises, server streams async iterables, client streams functions that take an iterable and
 * send no faster than the other side reads.
 */
import { Client, type ClientDuplexStream, type ClientReadableStream, Metadata, type ServiceError } from '@grpc/grpc-js';
import { systemClock } from '../common/clock.js';
import { fromServiceError, isAskedToRenew, namedCoordinators } from '../common/grpc-errors.js';

export interface CallOptions {
  /** Ends the call; it then fails with INTERRUPTED. */
  signal?: AbortSignal;
  /** How long a call may take in total. Unary calls default to UNARY_DEADLINE_MS, streams have none. */
  deadlineMs?: number;
}

/** Longer than any answer takes while the coordinator is well. */
export const UNARY_DEADLINE_MS = 60_000;

interface Method<Request, Response> {
  readonly path: string;
  readonly requestStream: boolean;
  readonly responseStream: boolean;
  requestSerialize: (value: Request) => Buffer;
  responseDeserialize: (value: Buffer) => Response;
}

type Unary<Request, Response> = (request: Request, options?: CallOptions) => Promise<Response>;
type ServerStream<Request, Response> = (request: Request, options?: CallOptions) => AsyncIterable<Response>;
type ClientStream<Request, Response> = (
  requests: Iterable<Request> | AsyncIterable<Request>,
  options?: CallOptions,
) => Promise<Response>;

/** As gRPC has it: who speaks and listens at a time must see to both ends. */
type Duplex<Request, Response> = () => ClientDuplexStream<Request, Response>;

type Call<M> = M extends {
  requestSerialize(value: infer Request): Buffer;
  responseDeserialize(value: Buffer): infer Response;
}
  ? M extends { requestStream: true; responseStream: true }
    ? Duplex<Request, Response>
    : M extends { requestStream: true }
      ? ClientStream<Request, Response>
      : M extends { responseStream: true }
        ? ServerStream<Request, Response>
        : Unary<Request, Response>
  : never;

export interface News {
  /** Where else the mesh may be reached. */
  coordinators: string[];
  /** Whoever calls is asked to renew its certificate now: the mesh replaces its root. */
  renew: boolean;
}

/** The callable face of a generated service definition such as `MeshServiceService`. */
export type Api<Service> = { readonly [Name in keyof Service]: Call<Service[Name]> };

/**
 * Every method of `service`, called over `client`'s channel. Failures are MeshErrors.
 * @param onNews hears what answers say besides
 */
export function makeApi<Service extends object>(
  client: Client,
  service: Service,
  onNews: (news: News) => void = () => undefined,
): Api<Service> {
  const calls: Record<string, unknown> = {};
  for (const [name, method] of Object.entries(service) as [string, Method<unknown, unknown>][]) {
    const { requestStream, responseStream } = method;
    if (requestStream && responseStream) calls[name] = duplex(client, method);
    else if (requestStream) calls[name] = clientStream(client, method);
    else if (responseStream) calls[name] = serverStream(client, method);
    else calls[name] = unary(client, method, onNews);
  }
  return calls as Api<Service>;
}

const deadline = (ms: number | undefined) => (ms === undefined ? {} : { deadline: systemClock.wallMs() + ms });

function whenAborted(signal: AbortSignal | undefined, call: { cancel(): void }): () => void {
  const cancel = () => call.cancel();
  if (signal?.aborted) cancel();
  signal?.addEventListener('abort', cancel, { once: true });
  return () => signal?.removeEventListener('abort', cancel);
}

function unary<Request, Response>(
  client: Client,
  method: Method<Request, Response>,
  onNews: (news: News) => void,
): Unary<Request, Response> {
  return (request, options = {}) =>
    new Promise((resolve, reject) => {
      const call = client.makeUnaryRequest(
        method.path,
        method.requestSerialize,
        method.responseDeserialize,
        request,
        new Metadata(),
        deadline(options.deadlineMs ?? UNARY_DEADLINE_MS),
        (error, response) => {
          release();
          if (error) reject(fromServiceError(error));
          else resolve(response as Response);
        },
      );
      const release = whenAborted(options.signal, call);
      call.on('metadata', (metadata: Metadata) => {
        onNews({ coordinators: namedCoordinators(metadata), renew: isAskedToRenew(metadata) });
      });
    });
}

function serverStream<Request, Response>(
  client: Client,
  method: Method<Request, Response>,
): ServerStream<Request, Response> {
  return async function* (request, options = {}) {
    const call: ClientReadableStream<Response> = client.makeServerStreamRequest(
      method.path,
      method.requestSerialize,
      method.responseDeserialize,
      request,
      new Metadata(),
      deadline(options.deadlineMs),
    );
    const release = whenAborted(options.signal, call);
    try {
      yield* call as AsyncIterable<Response>;
    } catch (error) {
      throw fromServiceError(error);
    } finally {
      release();
      call.on('error', () => undefined);
      call.cancel();
    }
  };
}

const duplex =
  <Request, Response>(client: Client, method: Method<Request, Response>): Duplex<Request, Response> =>
  () =>
    client.makeBidiStreamRequest(method.path, method.requestSerialize, method.responseDeserialize, new Metadata());

function clientStream<Request, Response>(
  client: Client,
  method: Method<Request, Response>,
): ClientStream<Request, Response> {
  return async (requests, options = {}) => {
    let ended = false;
    let wake: () => void = () => undefined;
    let settle: (error: ServiceError | null, response?: Response) => void = () => undefined;
    const answer = new Promise<Response>((resolve, reject) => {
      settle = (error, response) => {
        ended = true;
        wake();
        if (error) reject(fromServiceError(error));
        else resolve(response as Response);
      };
    });
    const call = client.makeClientStreamRequest(
      method.path,
      method.requestSerialize,
      method.responseDeserialize,
      new Metadata(),
      deadline(options.deadlineMs),
      (error, response) => settle(error, response),
    );
    const release = whenAborted(options.signal, call);
    call.on('drain', () => wake());
    try {
      // The answer may come before all was sent: a refusal, or a submission the coordinator already knows.
      for await (const request of requests) {
        if (ended) break;
        if (!call.write(request) && !ended) await new Promise<void>((resolve) => (wake = resolve));
      }
      if (!ended) call.end();
      return await answer;
    } catch (error) {
      answer.catch(() => undefined);
      call.cancel();
      throw error;
    } finally {
      release();
    }
  };
}
