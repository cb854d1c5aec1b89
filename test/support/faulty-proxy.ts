/**
 * A TCP proxy that misbehaves on request: it withholds the bytes of one direction while the other flows, lets them
 * through late, or cuts every connection. What it carries is TLS; whose bytes they are is told by their direction.
 *
 *   const proxy = await startProxy(t, () => mesh.coordinator.ready.address);
 *   await mesh.startAgent('a1', { args: ['--coordinator', proxy.address] });
 *   proxy.hold('down');   // what the coordinator says does not arrive
 */
import { type AddressInfo, createConnection, createServer, type Server, type Socket } from 'node:net';
import type { Test } from 'tap';
import type { SignalSource } from './until.js';

/** `up` is from who dials (an agent) to the target (the coordinator). */
export type Direction = 'up' | 'down';

/** One direction of one connection. */
class Flow {
  readonly #withheld: Buffer[] = [];
  #ended = false;
  #held: boolean;

  constructor(
    private readonly from: Socket,
    private readonly to: Socket,
    held: boolean,
    onBytes: (count: number) => void,
  ) {
    this.#held = held;
    from.on('data', (bytes: Buffer) => {
      onBytes(bytes.length);
      if (this.#held) this.#withheld.push(bytes);
      else if (!to.write(bytes)) from.pause();
    });
    to.on('drain', () => from.resume());
    from.on('close', () => {
      this.#ended = true;
      if (!this.#held) to.destroySoon();
    });
    from.on('error', () => undefined);
  }

  get withheldBytes(): number {
    return this.#withheld.reduce((sum, { length }) => sum + length, 0);
  }

  hold(): void {
    this.#held = true;
  }

  release(): void {
    this.#held = false;
    for (const bytes of this.#withheld.splice(0)) this.to.write(bytes);
    if (this.#ended) this.to.destroySoon();
  }

  cut(): void {
    this.from.resetAndDestroy();
    this.to.resetAndDestroy();
  }
}

export class FaultyProxy implements SignalSource {
  readonly #server: Server;
  readonly #pairs = new Set<Record<Direction, Flow>>();
  readonly #held = new Set<Direction>();
  readonly #listeners = new Set<() => void>();
  #refuses = false;
  /** Connections it accepted so far. */
  accepted = 0;
  /** Bytes that came in so far, passed on or not. */
  readonly bytes: Record<Direction, number> = { up: 0, down: 0 };

  /** @param target where to connect to, asked for each connection: `host:port` */
  constructor(target: () => string) {
    this.#server = createServer((dialer) => this.#connect(dialer, target()));
  }

  async listen(): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen(0, '127.0.0.1', resolve);
    });
  }

  get address(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Open connections. */
  get open(): number {
    return this.#pairs.size;
  }

  /** Bytes that wait in one direction. */
  withheld(direction: Direction): number {
    return [...this.#pairs].reduce((sum, pair) => sum + pair[direction].withheldBytes, 0);
  }

  /** Signals when bytes or connections come and go. */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Withholds a direction of the connections there are, and with `future` of those to come. */
  hold(direction: Direction, future = true): void {
    if (future) this.#held.add(direction);
    for (const pair of this.#pairs) pair[direction].hold();
  }

  /** What was withheld arrives now. */
  release(direction: Direction): void {
    this.#held.delete(direction);
    for (const pair of this.#pairs) pair[direction].release();
  }

  /** Resets every connection; what was withheld is lost, and new connections are whole again. */
  cut(): void {
    this.#held.clear();
    for (const { up } of this.#pairs) up.cut();
  }

  /** Resets what dials, until told otherwise. */
  refuse(refuses: boolean): void {
    this.#refuses = refuses;
    if (refuses) this.cut();
  }

  async close(): Promise<void> {
    this.cut();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }

  #connect(dialer: Socket, address: string): void {
    if (this.#refuses) return void dialer.resetAndDestroy();
    const [, host = '', port] = /^(.*):(\d+)$/.exec(address) ?? [];
    const server = createConnection({ host: host.replace(/^\[(.*)\]$/, '$1'), port: Number(port) });
    const flow = (from: Socket, to: Socket, direction: Direction) =>
      new Flow(from, to, this.#held.has(direction), (count) => {
        this.bytes[direction] += count;
        this.#changed();
      });
    const pair = { up: flow(dialer, server, 'up'), down: flow(server, dialer, 'down') };
    this.#pairs.add(pair);
    this.accepted++;
    const gone = (): void => {
      if (!dialer.destroyed || !server.destroyed) return;
      this.#pairs.delete(pair);
      this.#changed();
    };
    dialer.on('close', gone);
    server.on('close', gone);
    this.#changed();
  }

  #changed(): void {
    for (const listener of this.#listeners) listener();
  }
}

/** One that is closed after the test. */
export async function startProxy(t: Pick<Test, 'teardown'>, target: () => string): Promise<FaultyProxy> {
  const proxy = new FaultyProxy(target);
  await proxy.listen();
  t.teardown(() => proxy.close());
  return proxy;
}
