/**
 * A bidirectional stream as both sides of grpc-js show it, over a simulated connection: as much of ClientDuplexStream and
 * ServerDuplexStream as agent/session and coordinator/rpc use. Messages cross as bytes, so nobody shares an object.
 */
import { EventEmitter } from 'node:events';
import { status } from '@grpc/grpc-js';
import type { Process } from './machine.js';
import type { Network, Pipe } from './network.js';

export interface Codec<T> {
  encode(message: T): { finish(): Uint8Array };
  decode(bytes: Uint8Array): T;
}

/** What happens to messages on the way, beyond what the connection does: a mutation, a duplicate, a witness. */
export interface Tap<Request, Response> {
  /** Each message as it is sent; returns what is sent in its place. `later` sends something when the time has come. */
  request?(message: Request, later: (message: Request) => void): Request[];
  response?(message: Response): Response[];
}

/** One end: delivers in order, holds what comes while it is paused, says nothing after it has ended. */
class End<In, Out> extends EventEmitter {
  readonly #waiting: (() => void)[] = [];
  #paused = false;
  #draining = false;
  over = false;
  /** The network takes what is written at once. */
  readonly writableLength = 0;
  pipe!: Pipe;

  constructor(
    readonly process: Process,
    protected readonly encode: (message: Out) => void,
  ) {
    super();
  }

  write(message: Out): boolean {
    if (this.over) return false;
    this.encode(message);
    const { world } = this.process;
    if (!world.random.chance(0.03)) return true;
    world.after(world.random.next() * 20, () => this.process.enter(() => this.emit('drain')));
    return false;
  }

  pause(): this {
    this.#paused = true;
    return this;
  }

  resume(): this {
    this.#paused = false;
    if (this.#waiting.length > 0 && !this.#draining) this.#drain();
    return this;
  }

  /** Each in an event of its own, as long as nobody pauses. */
  #drain(): void {
    this.#draining = true;
    this.process.world.after(0, () =>
      this.process.enter(() => {
        this.#draining = false;
        if (this.#paused) return;
        this.#waiting.shift()?.();
        if (this.#waiting.length > 0) this.#drain();
      }),
    );
  }

  receive(act: () => void): void {
    if (this.#paused || this.#draining || this.#waiting.length > 0) this.#waiting.push(act);
    else act();
  }

  message(message: In): void {
    this.receive(() => {
      if (!this.over) this.emit('data', message);
    });
  }
}

export interface Connected<Request, Response> {
  client: ClientEnd<Request, Response>;
  /** Undefined until the connection is up. */
  server: ServerEnd<Request, Response> | undefined;
}

export class ClientEnd<Request, Response> extends End<Response, Request> {
  hangUp: () => void = () => undefined;
  halfClose: () => void = () => undefined;

  end(): void {
    if (!this.over) this.halfClose();
  }

  cancel(): void {
    if (this.over) return;
    this.hangUp();
    this.fail({ code: status.CANCELLED, details: 'cancelled on client' });
  }

  fail(failure: { code?: number; details?: string }): void {
    if (this.over) return;
    this.over = true;
    this.process.world.after(0, () =>
      this.process.enter(() => {
        if (this.listenerCount('error') > 0) this.emit('error', Object.assign(new Error(failure.details), failure));
      }),
    );
  }

  finished(): void {
    this.receive(() => {
      if (this.over) return;
      this.over = true;
      this.emit('end');
    });
  }
}

export class ServerEnd<Request, Response> extends End<Request, Response> {
  cancelled = false;
  closeWith: (failure: object | undefined) => void = () => undefined;

  constructor(process: Process, encode: (message: Response) => void) {
    super(process, encode);
    // A handler that fails says so by emitting the status.
    this.on('error', (failure: object) => this.#close(failure));
  }

  getPeer(): string {
    return '192.0.2.1:40000';
  }

  end(): void {
    this.#close(undefined);
  }

  #close(failure: object | undefined): void {
    if (this.over) return;
    this.over = true;
    this.closeWith(failure);
  }

  /** The other side half-closed. */
  finished(): void {
    this.receive(() => {
      if (!this.over) this.emit('end');
    });
  }

  /** The connection broke: grpc-js ends the messages as if they were complete and says otherwise a moment later. */
  broke(): void {
    if (this.over) return;
    this.over = true;
    this.cancelled = true;
    this.emit('end');
    this.process.world.after(0, () => this.process.enter(() => this.emit('cancelled')));
  }
}

export interface StreamOptions<Request, Response> {
  network: Network;
  from: Process;
  to: Process;
  request: Codec<Request>;
  response: Codec<Response>;
  tap?: Tap<Request, Response> | undefined;
  /** The connection is up; undefined when nothing listens there. */
  accept: (() => ((call: ServerEnd<Request, Response>) => void) | undefined) | undefined;
}

/** Dials: two round trips until the stream is there, during which what is written waits. */
export function openStream<Request, Response>(
  options: StreamOptions<Request, Response>,
): ClientEnd<Request, Response> & { breakOff: (tell: { client: boolean; server: boolean }) => void } {
  const { network, from, to, tap } = options;
  const early: Uint8Array[] = [];
  let server: ServerEnd<Request, Response> | undefined;
  const unavailable = { code: status.UNAVAILABLE, details: 'connection lost' };
  const breakOff = (tell: { client: boolean; server: boolean }): void => {
    up.close();
    down.close();
    if (tell.client) from.enter(() => client.fail(unavailable));
    if (tell.server) to.enter(() => server?.broke());
  };
  const up = network.pipe(from, to, () => breakOff({ client: true, server: true }));
  const down = network.pipe(to, from, () => breakOff({ client: true, server: true }));
  const sendUp = (bytes: Uint8Array) => up.send(() => server?.message(options.request.decode(bytes)));
  const client = new ClientEnd<Request, Response>(from, (message) => {
    const later = (late: Request) => {
      if (server && !client.over) sendUp(options.request.encode(late).finish());
    };
    for (const each of tap?.request?.(message, later) ?? [message]) {
      const bytes = options.request.encode(each).finish();
      if (server) sendUp(bytes);
      else early.push(bytes);
    }
  });
  client.halfClose = () => up.send(() => server?.finished());
  client.hangUp = () => {
    down.close();
    up.send(() => {
      up.close();
      server?.broke();
    });
  };
  const accept = (): void => {
    const handle = to.alive ? options.accept?.() : undefined;
    if (!handle) return down.send(() => client.fail({ ...unavailable, details: 'connection refused' }));
    down.send(() =>
      up.send(() => {
        if (client.over) return;
        const call = new ServerEnd<Request, Response>(to, (message) => {
          for (const each of tap?.response?.(message) ?? [message]) {
            const bytes = options.response.encode(each).finish();
            down.send(() => client.message(options.response.decode(bytes)));
          }
        });
        call.closeWith = (failure) =>
          down.send(() => {
            up.close();
            down.close();
            if (failure) client.fail(failure);
            else client.finished();
          });
        server = call;
        handle(call);
        for (const bytes of early.splice(0)) sendUp(bytes);
      }),
    );
  };
  // A dead machine answers nothing; a machine without the process refuses at once.
  up.send(accept);
  if (!to.alive)
    from.world.after(network.delay(from.machine, to.machine) * 2, () => from.enter(() => client.fail(unavailable)));
  return Object.assign(client, { breakOff });
}
