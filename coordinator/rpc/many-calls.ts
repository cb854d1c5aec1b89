/**
 * Many calls of one method on one stream, for a client that makes one after the other: a message is cheaper than a call of
 * its own, which costs both sides headers, a stream and its end. To the gate each is a call all the same: it is admitted,
 * counted and answered for by what does that for every other call (`run`), and it fails by itself.
 *
 * The client numbers its calls and may give one up. One that does not read its answers is not read either. When `ended`
 * aborts nothing new is taken, and the stream ends behind what is under way; a client that is gone takes all with it.
 */
import type { ServerDuplexStream } from '@grpc/grpc-js';
import { MeshError } from '../../common/errors.js';
import type { CallContext } from './authorize.js';

export interface NumberedRequest<Request> {
  number: number;
  /** Undefined: the call of that number is given up. */
  run: Request | undefined;
}

export interface NumberedResponse<Response, Failure> {
  number: number;
  part: { $case: 'run'; value: Response } | { $case: 'error'; value: Failure } | { $case: 'ended'; value: boolean };
}

export interface ManyCallsOptions<Request, Response, Failure> {
  /** The call from its admission to its end. */
  run: (body: (context: CallContext) => Promise<void>) => Promise<void>;
  handle: (request: Request, context: CallContext, gone: AbortSignal) => AsyncIterable<Response>;
  toFailure: (error: unknown) => Failure;
  ended: AbortSignal;
}

type Stream<Request, Response, Failure> = ServerDuplexStream<
  NumberedRequest<Request>,
  NumberedResponse<Response, Failure>
>;

/** Resolves when the stream is over. @throws MeshError USAGE where the client breaks the rules */
export function serveManyCalls<Request, Response, Failure>(
  stream: Stream<Request, Response, Failure>,
  options: ManyCallsOptions<Request, Response, Failure>,
): Promise<void> {
  return new ManyCalls(stream, options).over();
}

class ManyCalls<Request, Response, Failure> {
  readonly #stream: Stream<Request, Response, Failure>;
  readonly #options: ManyCallsOptions<Request, Response, Failure>;
  readonly #open = new Map<number, AbortController>();
  /** While the client reads too slowly; nothing is read from it meanwhile. */
  #full: { drained: Promise<void>; drain: () => void } | undefined;
  #taking = true;
  #end: (error?: Error) => void = () => undefined;

  constructor(stream: Stream<Request, Response, Failure>, options: ManyCallsOptions<Request, Response, Failure>) {
    this.#stream = stream;
    this.#options = options;
  }

  over(): Promise<void> {
    const { ended } = this.#options;
    const last = () => this.#takeNoMore();
    return new Promise<void>((resolve, reject) => {
      this.#end = (error) => (error ? reject(error) : resolve());
      ended.addEventListener('abort', last, { once: true });
      this.#stream.on('data', (message: NumberedRequest<Request>) => this.#hear(message));
      this.#stream.on('end', last);
      this.#stream.on('drain', () => this.#readOn());
      for (const event of ['cancelled', 'error']) this.#stream.on(event, () => this.#gone());
      if (ended.aborted) last();
    }).finally(() => ended.removeEventListener('abort', last));
  }

  #hear({ number, run }: NumberedRequest<Request>): void {
    if (!this.#taking) return;
    if (run === undefined) return this.#open.get(number)?.abort();
    if (this.#open.has(number)) {
      this.#gone();
      return this.#end(new MeshError('USAGE', `a call of the number ${number} is under way`));
    }
    const gone = new AbortController();
    this.#open.set(number, gone);
    void this.#call(number, run, gone.signal);
  }

  async #call(number: number, request: Request, gone: AbortSignal): Promise<void> {
    const { run, handle, toFailure } = this.#options;
    try {
      await run(async (context) => {
        for await (const value of handle(request, context, gone)) {
          if (gone.aborted) return;
          this.#say({ number, part: { $case: 'run', value } });
          if (this.#full) await this.#full.drained;
        }
      });
      if (!gone.aborted) this.#say({ number, part: { $case: 'ended', value: true } });
    } catch (error) {
      const value = toFailure(error);
      if (!gone.aborted) this.#say({ number, part: { $case: 'error', value } });
    }
    this.#open.delete(number);
    if (!this.#taking && this.#open.size === 0) this.#end();
  }

  #say(message: NumberedResponse<Response, Failure>): void {
    if (this.#stream.write(message) || this.#full) return;
    this.#stream.pause();
    let drain: () => void = () => undefined;
    this.#full = { drained: new Promise((resolve) => (drain = resolve)), drain: () => drain() };
  }

  #readOn(): void {
    this.#full?.drain();
    this.#full = undefined;
    this.#stream.resume();
  }

  #takeNoMore(): void {
    this.#taking = false;
    if (this.#open.size === 0) this.#end();
  }

  #gone(): void {
    this.#taking = false;
    for (const call of this.#open.values()) call.abort();
    this.#full?.drain();
    if (this.#open.size === 0) this.#end();
  }
}
